// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	message = 64 // B, each way
	cpu     = 0  // of both ends
)

// roundTrips are two processes with a TCP connection over a veth pair, each in a network namespace of its own, both on
// one CPU: a transaction is a message there and one back. That is the worst case for probes of the packet path: both
// ends are counted, and neither does anything else.
type roundTrips struct {
	names          [2]string // of the namespaces
	server, client *exec.Cmd
	ask            io.WriteCloser // how many transactions
	answer         *bufio.Scanner // once they are done
	tids           [2]int
}

// newRoundTrips connects the two.
func newRoundTrips() (r *roundTrips, err error) {
	r = &roundTrips{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	for i := range r.names {
		name := fmt.Sprintf("nxrr%d%c", os.Getpid(), 'a'+i)
		if err := ip("netns", "add", name); err != nil {
			return r, err
		}
		r.names[i] = name
	}
	a, b := r.names[0], r.names[1]
	commands := [][]string{{"link", "add", "eth0", "index", "10", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b}}
	for i, name := range r.names {
		commands = append(commands,
			[]string{"-n", name, "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0"},
			[]string{"-n", name, "link", "set", "eth0", "up"})
	}
	for _, c := range commands {
		if err := ip(c...); err != nil {
			return r, err
		}
	}
	var serverOut, clientOut io.ReadCloser
	if r.server, _, serverOut, err = end(b, "serve"); err != nil {
		return r, err
	}
	if r.tids[0], err = answered(bufio.NewScanner(serverOut)); err != nil {
		return r, fmt.Errorf("start the server: %w", err)
	}
	if r.client, r.ask, clientOut, err = end(a, "10.77.0.2:"+strconv.Itoa(port)); err != nil {
		return r, err
	}
	r.answer = bufio.NewScanner(clientOut)
	if r.tids[1], err = answered(r.answer); err != nil {
		return r, fmt.Errorf("start the client: %w", err)
	}
	return r, nil
}

// run makes transactions, and returns the CPU time of both ends for each, in nanoseconds. What the kernel does for the
// packets in soft interrupts is charged to the process that it interrupts.
func (r *roundTrips) run(transactions int) (float64, error) {
	before, err := r.spent()
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintln(r.ask, transactions); err != nil {
		return 0, err
	}
	if _, err := answered(r.answer); err != nil {
		return 0, fmt.Errorf("run transactions: %w", err)
	}
	after, err := r.spent()
	return float64(after-before) / float64(transactions), err
}

// spent returns the CPU time of both ends so far: the scheduler's sum, in nanoseconds.
func (r *roundTrips) spent() (sum uint64, err error) {
	for _, tid := range r.tids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", tid))
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(raw), " ")
		n, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Close ends both and removes the namespaces.
func (r *roundTrips) Close() error {
	var errs []error
	if r.ask != nil {
		errs = append(errs, r.ask.Close(), r.client.Wait()) // it has no more to do, and closes the connection
	} else if r.server != nil {
		errs = append(errs, r.server.Process.Kill())
	}
	if r.server != nil {
		errs = append(errs, r.server.Wait())
	}
	for _, name := range r.names {
		if name != "" {
			errs = append(errs, ip("netns", "delete", name))
		}
	}
	return errors.Join(errs...)
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

const port = 5002

// end starts this program as one end of the connection.
func end(namespace, what string) (*exec.Cmd, io.WriteCloser, io.ReadCloser, error) {
	cmd := exec.Command("/proc/self/exe", "-roundtrip", namespace+","+what)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	return cmd, in, out, cmd.Start()
}

func answered(s *bufio.Scanner) (int, error) {
	if !s.Scan() {
		return 0, errors.Join(s.Err(), io.ErrUnexpectedEOF)
	}
	return strconv.Atoi(s.Text())
}

// runEnd is one end of the connection, on the thread that calls it.
func runEnd(spec string) error {
	namespace, what, _ := strings.Cut(spec, ",")
	handle, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return err
	}
	if err := unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", namespace, err)
	}
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if what == "serve" {
		return serve(fd)
	}
	to, err := netip.ParseAddrPort(what)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	fmt.Println(unix.Gettid())
	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		n, err := strconv.Atoi(asked.Text())
		if err != nil {
			return err
		}
		var buf [message]byte
		for range n {
			if err := write(fd, buf[:]); err != nil {
				return err
			}
			if err := read(fd, buf[:]); err != nil {
				return err
			}
		}
		fmt.Println(n)
	}
	return nil
}

func serve(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Port: port}), unix.Listen(fd, 1)); err != nil {
		return fmt.Errorf("listen on port %d: %w", port, err)
	}
	fmt.Println(unix.Gettid())
	conn, _, err := unix.Accept(fd)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	if err := unix.SetsockoptInt(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	var buf [message]byte
	for {
		switch err := read(conn, buf[:]); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := write(conn, buf[:]); err != nil {
			return err
		}
	}
}

// write and read leave Go's scheduler alone, whose threads would take turns on the one CPU.
func write(fd int, buf []byte) error { return raw(unix.SYS_WRITE, fd, buf) }
func read(fd int, buf []byte) error  { return raw(unix.SYS_READ, fd, buf) }

func raw(call uintptr, fd int, buf []byte) error {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return errno
		case n == 0:
			return io.EOF
		case int(n) != len(buf):
			return io.ErrUnexpectedEOF
		}
		return nil
	}
}

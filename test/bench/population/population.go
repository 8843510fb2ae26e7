// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package population makes many network namespaces as pods have them, for benchmarks and stress tests: each with lo
// up and one process that owns TCP sockets.
//
// The processes are `sleep infinity`; the sockets are opened for them and handed on, so that neither memory nor the
// limit of open files is a matter of how many there are. However the process that made a population ends, the
// population ends with it: the kernel kills its processes, and with the last process goes the namespace. Sockets are
// closed by a reset, so nothing stays behind in TIME_WAIT.
package population

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Unread is how many bytes lie in the receive queue of one end of each connection.
const Unread = 10

// Namespace is one network namespace of a population.
type Namespace struct {
	// Inode is that of the nsfs file, the number in /proc/<pid>/ns/net.
	Inode uint64
	// Cookie is SO_NETNS_COOKIE; 0 on kernels without it (before 5.14).
	Cookie uint64
	// PID is that of the namespace's only process.
	PID int
}

// Population is network namespaces that exist until Close.
type Population struct {
	// Namespaces are in the order of their making.
	Namespaces []Namespace

	quit chan struct{} // closed to end the processes
	done chan struct{} // closed once they have ended
}

// New makes a number of namespaces, each with a number of TCP sockets: connections over 127.0.0.1 with both ends in the
// namespace (two sockets each) and one listener. An even number of sockets has one more listener, on another port. It
// needs root and the program `sleep`.
func New(namespaces, sockets int) (*Population, error) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		return nil, fmt.Errorf("make network namespaces: %w", err)
	}
	p := &Population{quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error)
	go p.hold(sleep, namespaces, sockets, ready)
	if err := <-ready; err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close ends the processes and returns when they have ended. The kernel frees their namespaces some time after.
func (p *Population) Close() error {
	close(p.quit)
	<-p.done
	return nil
}

// Connections returns how many connections New makes of a number of sockets; each end is a socket.
func Connections(sockets int) int { return max(0, sockets-1) / 2 }

// hold makes the population, sends the error or nil, and ends the population when it is to quit. Its thread goes from
// namespace to namespace, is the parent of the processes, which the kernel kills when it ends, and ends with it.
func (p *Population) hold(sleep string, namespaces, sockets int, ready chan<- error) {
	runtime.LockOSThread() // never unlocked
	if unix.Gettid() == unix.Getpid() {
		// The first thread neither ends, nor may its namespace change: it is what others see as the process's own.
		// Hold it meanwhile, so that the next goroutine gets another thread.
		defer runtime.UnlockOSThread()
		go p.hold(sleep, namespaces, sockets, ready)
		<-p.done
		return
	}
	defer close(p.done)
	defer p.kill()
	ready <- p.make(sleep, namespaces, sockets)
	<-p.quit
}

func (p *Population) make(sleep string, namespaces, sockets int) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	defer func() { _ = unix.Close(null) }()
	for i := range namespaces {
		n, err := add(sleep, null, sockets)
		if err != nil {
			return fmt.Errorf("make network namespace %d of %d: %w", i+1, namespaces, err)
		}
		p.Namespaces = append(p.Namespaces, n)
	}
	return nil
}

func (p *Population) kill() {
	// Not reaped yet, so that the numbers are still theirs.
	for _, n := range p.Namespaces {
		_ = unix.Kill(n.PID, unix.SIGKILL)
	}
	for _, n := range p.Namespaces {
		for {
			if _, err := unix.Wait4(n.PID, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// add moves the thread to a new namespace and starts a process in it that owns the sockets.
func add(sleep string, null, sockets int) (Namespace, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return Namespace{}, fmt.Errorf("unshare: %w", err)
	}
	n, err := identify()
	if err != nil {
		return Namespace{}, err
	}
	fds, err := open(sockets)
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd) // the process has its own descriptors of the same sockets
		}
	}()
	if err != nil {
		return Namespace{}, err
	}
	files := []uintptr{uintptr(null), uintptr(null), uintptr(null)}
	for _, fd := range fds {
		files = append(files, uintptr(fd))
	}
	n.PID, err = syscall.ForkExec(sleep, []string{"sleep", "infinity"}, &syscall.ProcAttr{
		Files: files,
		Sys:   &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return Namespace{}, fmt.Errorf("start %s: %w", sleep, err)
	}
	return n, nil
}

// identify brings lo of the thread's namespace up, and returns the namespace.
func identify() (Namespace, error) {
	info, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return Namespace{}, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Namespace{}, fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return Namespace{}, err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return Namespace{}, fmt.Errorf("set lo up: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return Namespace{}, fmt.Errorf("read the cookie: %w", err)
	}
	return Namespace{Inode: info.Sys().(*syscall.Stat_t).Ino, Cookie: cookie}, nil
}

// open opens that many sockets in the thread's namespace. It returns those that there are even if it fails.
func open(sockets int) (fds []int, err error) {
	var listener int
	var to unix.Sockaddr
	for range sockets - 2*Connections(sockets) {
		if listener, to, err = listen(); err != nil {
			return fds, err
		}
		fds = append(fds, listener)
	}
	for range Connections(sockets) {
		client, err := socket()
		if err != nil {
			return fds, err
		}
		fds = append(fds, client)
		if err := unix.Connect(client, to); err != nil {
			return fds, fmt.Errorf("connect: %w", err)
		}
		server, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return fds, fmt.Errorf("accept: %w", err)
		}
		fds = append(fds, server)
		if _, err := unix.Write(client, make([]byte, Unread)); err != nil {
			return fds, fmt.Errorf("write: %w", err)
		}
	}
	return fds, nil
}

func listen() (int, unix.Sockaddr, error) {
	fd, err := socket()
	if err != nil {
		return -1, nil, err
	}
	if err := unix.Listen(fd, 16); err != nil { // it binds itself to a port
		_ = unix.Close(fd)
		return -1, nil, fmt.Errorf("listen: %w", err)
	}
	to, err := unix.Getsockname(fd)
	if err != nil {
		_ = unix.Close(fd)
		return -1, nil, fmt.Errorf("read the address of a listener: %w", err)
	}
	to.(*unix.SockaddrInet4).Addr = [4]byte{127, 0, 0, 1}
	return fd, to, nil
}

// socket opens a TCP socket that a close resets, as those do that it accepts.
func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set SO_LINGER: %w", err)
	}
	return fd, nil
}

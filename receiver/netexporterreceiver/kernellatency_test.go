// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
)

const (
	rxslow100ms = "inspector_pod_kernellatency_rxslow100ms"
	txslow100ms = "inspector_pod_kernellatency_txslow100ms"
)

func kernelHooks() []string { return []string{"deliver", "dequeue", "receive", "send"} }

// A token bucket holds a segment up on its way out.
func TestSlowTransmission(t *testing.T) {
	inEachMode(t, "kernellatency", kernelHooks(), func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		client, server := p.ConnectTCP(t, f)
		before, sumBefore := r.histogram(t, "inspector_node_kernellatency", "tx")
		p.A.Shape(t)
		p.A.Congest(t, p.B, f)
		begin := time.Now()
		send(t, client, 100)
		nettest.Drain(t, server, 100)
		atMost := time.Since(begin)
		s := r.pass(t)
		assert.EqualValues(t, 1, s[p.A.Inode][txslow100ms])
		assert.EqualValues(t, 1, s[p.A.Inode]["kernellatency_txslow100ms"])
		assert.Zero(t, s[p.B.Inode][txslow100ms]+s[p.A.Inode][rxslow100ms]+s[p.B.Inode][rxslow100ms])
		slowEvent{
			in: p.A, name: "KERNELLAT_TXSLOW", family: f, section: "QDISC",
			source: addr(client.LocalAddr()), destination: addr(client.RemoteAddr()),
			// The bucket counts from a time that the test does not see.
			atLeast: 100 * time.Millisecond, atMost: atMost,
		}.check(t, r.onlyEvent(t, p.A, p.B))
		after, sumAfter := r.histogram(t, "inspector_node_kernellatency", "tx")
		assert.GreaterOrEqual(t, after-before, uint64(1))
		assert.GreaterOrEqual(t, sumAfter-sumBefore, 100*time.Millisecond)
	})
}

// A segment waits until the address of the neighbor is known.
func TestSlowNeighbor(t *testing.T) {
	inEachMode(t, "kernellatency", kernelHooks(), func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		// B has an address on lo that it does not answer for on the device.
		hidden := map[nettest.Family]string{nettest.IPv4: "10.77.0.9", nettest.IPv6: "fd77::9"}[f]
		var listener net.Listener
		var mac net.HardwareAddr
		p.B.Do(t, func() {
			require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0o644))
			ip(t, "addr", "add", hidden, "dev", "lo", "nodad")
			device, err := net.InterfaceByName(nettest.Device)
			require.NoError(t, err)
			mac = device.HardwareAddr
			listener, err = net.Listen("tcp", net.JoinHostPort(hidden, "0"))
			require.NoError(t, err)
		})
		defer func() { _ = listener.Close() }()
		connected := make(chan net.Conn, 1)
		begin := time.Now()
		go func() {
			conn, _ := p.A.DialContext(t.Context(), "tcp", listener.Addr().String())
			connected <- conn
		}()
		p.A.Do(t, func() {
			nettest.Wait(t, "the segment to wait for the neighbor", func() bool {
				out, err := exec.Command("ip", "neigh", "show", hidden, "dev", nettest.Device).Output()
				return err == nil && strings.Contains(string(out), "INCOMPLETE")
			})
		})
		waiting := time.Now()
		time.Sleep(late)
		atLeast := time.Since(waiting)
		p.A.Do(t, func() {
			ip(t, "neigh", "replace", hidden, "lladdr", mac.String(), "nud", "permanent", "dev", nettest.Device)
		})
		atMost := time.Since(begin)
		client := <-connected
		require.NotNil(t, client)
		defer func() { _ = client.Close() }()
		s := r.pass(t)
		assert.EqualValues(t, 1, s[p.A.Inode][txslow100ms])
		assert.Zero(t, s[p.B.Inode][txslow100ms]+s[p.A.Inode][rxslow100ms]+s[p.B.Inode][rxslow100ms])
		slowEvent{
			in: p.A, name: "KERNELLAT_TXSLOW", family: f, section: "NEIGHBOR",
			source: addr(client.LocalAddr()), destination: addr(client.RemoteAddr()), atLeast: atLeast, atMost: atMost,
		}.check(t, r.onlyEvent(t, p.A, p.B))
	})
}

// ip runs ip in the namespace of the thread.
func ip(t testing.TB, args ...string) {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(t, err, "ip %v: %s", args, out)
}

// A process that holds its socket lets a segment wait in the socket's backlog: it writes what is not in memory yet.
func TestSlowReception(t *testing.T) {
	inEachMode(t, "kernellatency", kernelHooks(), func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		patient(t, p.A)
		client, server := p.ConnectTCP(t, f)
		before, sumBefore := r.histogram(t, "inspector_node_kernellatency", "rx")
		page := missing(t)
		written := make(chan error, 1)
		onFD(t, server, func(fd int) error {
			fd, err := unix.Dup(fd)
			go func() {
				_, err := unix.Write(fd, page.memory)
				written <- err
				_ = unix.Close(fd)
			}()
			return err
		})
		page.fault(t)
		inSegs := p.B.Counter(t, "Tcp.InSegs")
		begin := time.Now()
		send(t, client, 100)
		p.B.WaitCounter(t, "Tcp.InSegs", inSegs+1)
		arrived := time.Now()
		time.Sleep(late)
		atLeast := time.Since(arrived)
		assert.Zero(t, r.pass(t)[p.B.Inode][rxslow100ms], "it still waits")
		page.provide(t)
		require.NoError(t, <-written)
		nettest.Drain(t, server, 100)
		atMost := time.Since(begin)
		after, sumAfter := r.histogram(t, "inspector_node_kernellatency", "rx")
		s := r.pass(t)
		assert.EqualValues(t, 1, s[p.B.Inode][rxslow100ms])
		assert.EqualValues(t, 1, s[p.B.Inode]["kernellatency_rxslow100ms"])
		assert.Zero(t, s[p.A.Inode][rxslow100ms])
		// It is the node's, and has the segments of others that were held up.
		if assert.GreaterOrEqual(t, after-before, uint64(1)); after-before == 1 {
			within(t, sumAfter-sumBefore, atLeast, atMost)
		}
		slowEvent{
			in: p.B, name: "KERNELLAT_RXSLOW", family: f, section: "SOCKET", own: true,
			source: addr(client.LocalAddr()), destination: addr(client.RemoteAddr()), atLeast: atLeast, atMost: atMost,
		}.check(t, r.onlyEvent(t, p.A, p.B))
	})
}

// patient keeps TCP in a namespace from sending anything again for 5 s.
func patient(t testing.TB, n *nettest.Namespace) {
	t.Helper()
	n.Do(t, func() {
		for _, route := range []string{"-4 route change 10.77.0.0/24", "-6 route change fd77::/64 proto kernel metric 256"} {
			ip(t, append(strings.Fields(route), "dev", nettest.Device, "rto_min", "5s")...)
		}
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/tcp_early_retrans", []byte("0"), 0o644))
	})
}

// absent is a page of memory that is not there until the test provides it, include/uapi/linux/userfaultfd.h.
type absent struct {
	fd     int
	memory []byte
}

const (
	uffdioAPI      = 0xc018aa3f
	uffdioRegister = 0xc020aa00
	uffdioZeropage = 0xc020aa04
)

func missing(t testing.TB) *absent {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno == unix.ENOSYS {
		t.Skip("needs a kernel with userfaultfd")
	}
	require.Zero(t, errno)
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	a := &absent{int(fd), memory}
	t.Cleanup(func() {
		_ = unix.Close(a.fd) // wakes whoever waits for the page
		_ = unix.Munmap(a.memory)
	})
	a.control(t, uffdioAPI, []uint64{0xaa, 0, 0})
	a.control(t, uffdioRegister, []uint64{a.address(), uint64(len(memory)), 1 /* missing */, 0})
	return a
}

func (a *absent) address() uint64 { return uint64(uintptr(unsafe.Pointer(&a.memory[0]))) }

func (a *absent) control(t testing.TB, request uint, arg []uint64) {
	t.Helper()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(a.fd), uintptr(request), uintptr(unsafe.Pointer(&arg[0])))
	require.Zero(t, errno, "userfaultfd ioctl %#x", request)
}

// fault waits until somebody waits for the page.
func (a *absent) fault(t testing.TB) {
	t.Helper()
	_, err := unix.Read(a.fd, make([]byte, 32))
	require.NoError(t, err)
}

// provide gives the page zeros, and wakes who waits.
func (a *absent) provide(t testing.TB) {
	t.Helper()
	a.control(t, uffdioZeropage, []uint64{a.address(), uint64(len(a.memory)), 0, 0})
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LateRead leaves 100 bytes that A has sent unread at B for at least pause. It returns the segment.
func (p *Pair) LateRead(t T, family Family, pause time.Duration) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	write(t, client, make([]byte, 100))
	WaitUnread(t, server, 100)
	time.Sleep(pause)
	Drain(t, server, 100)
	return p.fromA(family, localAddr(client), remoteAddr(client))
}

// ClosedWindow lets A write to B, whose window is closed, and B read after at least pause. It returns the segment.
func (p *Pair) ClosedWindow(t T, family Family, pause time.Duration) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	unread := CloseWindow(t, client)
	write(t, client, make([]byte, 100))
	time.Sleep(pause)
	Drain(t, server, unread+100)
	return p.fromA(family, localAddr(client), remoteAddr(client))
}

// CloseWindow writes as much as the peer's window takes, until it takes nothing, and returns how much that was. All of
// it is acknowledged then; whatever is written next waits until the peer reads.
//
// It writes no more than that: from a window smaller than what is unsent the kernel holds back at first, but fills it
// once its probe timer has run out (tcp_write_wakeup()), so that what is unsent has not been so for as long as it seems.
func CloseWindow(t T, conn *net.TCPConn) (written int) {
	t.Helper()
	for {
		var info *unix.TCPInfo // under the lock of the socket: one state, not two halves of it
		Wait(t, "the acknowledgment of what was written", func() bool {
			control(t, conn, func(fd int) (err error) {
				info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
				return err
			})
			return info.Unacked == 0 && info.Notsent_bytes == 0
		})
		if info.Snd_wnd == 0 {
			return written
		}
		n := min(int(info.Snd_wnd), 1<<16)
		write(t, conn, make([]byte, n))
		written += n
	}
}

// TokenBucket shapes A and returns a segment of a connection that had to wait behind datagrams, for some hundreds of
// milliseconds.
func (p *Pair) TokenBucket(t T, family Family) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	p.A.Shape(t)
	p.A.Congest(t, p.B, family)
	write(t, client, make([]byte, 100))
	Drain(t, server, 100)
	return p.fromA(family, localAddr(client), remoteAddr(client))
}

// Shape lets the namespace send 5,000 bytes a second, and 1,600 at once. It skips the test where the kernel has no sch_tbf.
func (n *Namespace) Shape(t T) {
	t.Helper()
	n.shape(t, 5000, 1600)
}

func (n *Namespace) shape(t T, rate uint64, burst uint32) {
	t.Helper()
	n.Do(t, func() {
		device, err := netlink.LinkByName(Device)
		if err != nil {
			t.Fatalf("find %s: %v", Device, err)
		}
		err = netlink.QdiscAdd(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{
				LinkIndex: device.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
			},
			Rate: rate, Limit: 100_000, Buffer: netlink.Xmittime(rate, burst),
		})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("needs the queueing discipline tbf")
		}
		if err != nil {
			t.Fatalf("shape %s: %v", Device, err)
		}
	})
}

// Congest sends three datagrams, of which the first empties the bucket of Shape: what comes behind them waits for some
// 400 ms.
func (n *Namespace) Congest(t T, to *Namespace, family Family) {
	t.Helper()
	datagrams := n.DialUDP(t, localAddr(to.ListenUDP(t, family)))
	for range 3 {
		write(t, datagrams, make([]byte, 1200))
	}
}

// Queued returns how many bytes an ioctl says that a socket holds.
func Queued(t T, conn syscall.Conn, request uint) (n int) {
	t.Helper()
	control(t, conn, func(fd int) (err error) { n, err = unix.IoctlGetInt(fd, request); return err })
	return n
}

// WaitUnread waits until a socket has that many unread bytes.
func WaitUnread(t T, conn *net.TCPConn, n int) {
	t.Helper()
	Wait(t, fmt.Sprintf("%d bytes to arrive", n), func() bool { return Queued(t, conn, unix.SIOCINQ) == n })
}

// Drain reads that many bytes.
func Drain(t T, conn *net.TCPConn, n int) {
	t.Helper()
	for buf := make([]byte, 1<<16); n > 0; {
		got, err := conn.Read(buf[:min(n, len(buf))])
		if err != nil {
			t.Fatalf("read from %s: %v", conn.RemoteAddr(), err)
		}
		n -= got
	}
}

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

// ClosedWindow lets A write until B's window takes no more, and B read after at least pause. It returns a segment.
func (p *Pair) ClosedWindow(t T, family Family, pause time.Duration) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	if err := client.SetWriteBuffer(1 << 17); err != nil {
		t.Fatalf("set send buffer of %s: %v", client.LocalAddr(), err)
	}
	written := Fill(t, client)
	time.Sleep(pause)
	Drain(t, server, written)
	return p.fromA(family, localAddr(client), remoteAddr(client))
}

// Fill writes until the peer has acknowledged all that was sent and its window takes no more, and returns how much.
func Fill(t T, conn *net.TCPConn) (written int) {
	t.Helper()
	const most = 1 << 24 // far beyond what the two sockets have room for
	control(t, conn, func(fd int) error {
		for buf := make([]byte, 4096); written < most; {
			n, err := unix.Write(fd, buf) // it does not block
			if errors.Is(err, unix.EAGAIN) {
				return nil
			}
			if err != nil {
				return err
			}
			written += n
		}
		return nil
	})
	Wait(t, "the window to close", func() bool {
		unsent := Queued(t, conn, unix.SIOCOUTQNSD)
		return unsent > 0 && unsent == Queued(t, conn, unix.SIOCOUTQ)
	})
	return written
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

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"errors"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LateRead leaves 100 bytes that A has sent unread at B for at least pause. It returns the segment.
func (p *Pair) LateRead(t T, family Family, pause time.Duration) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	write(t, client, make([]byte, 100))
	p.waitQueued(t, server, unix.SIOCINQ, func(n int) bool { return n == 100 })
	time.Sleep(pause)
	drain(t, server, 100)
	return p.fromA(family, localAddr(client), remoteAddr(client))
}

// ClosedWindow lets A write until B's window takes no more, and B read after at least pause. It returns a segment.
func (p *Pair) ClosedWindow(t T, family Family, pause time.Duration) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	if err := client.SetWriteBuffer(1 << 17); err != nil {
		t.Fatalf("set send buffer of %s: %v", client.LocalAddr(), err)
	}
	const most = 1 << 24 // far beyond what the two sockets have room for
	written, buf := 0, make([]byte, 4096)
	control(t, client, func(fd int) error {
		for written < most {
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
	unacknowledged := func() int { return queued(t, client, unix.SIOCOUTQ) }
	p.waitQueued(t, client, unix.SIOCOUTQNSD, func(unsent int) bool { return unsent > 0 && unsent == unacknowledged() })
	time.Sleep(pause)
	drain(t, server, written)
	return p.fromA(family, localAddr(client), remoteAddr(client))
}

// TokenBucket lets A's device send 5,000 bytes a second, and returns a segment of a connection that had to wait behind
// 3,600 bytes of datagrams, for some hundreds of milliseconds. It skips the test where the kernel has no sch_tbf.
func (p *Pair) TokenBucket(t T, family Family) Packet {
	t.Helper()
	const rate, burst = 5000, 1600 // bytes
	client, server := p.ConnectTCP(t, family)
	datagrams := p.A.DialUDP(t, localAddr(p.B.ListenUDP(t, family)))
	p.A.Do(t, func() {
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
	for range 3 {
		write(t, datagrams, make([]byte, 1200))
	}
	write(t, client, make([]byte, 100))
	drain(t, server, 100)
	return p.fromA(family, localAddr(client), remoteAddr(client))
}

// queued returns how many bytes an ioctl says that a socket holds.
func queued(t T, conn *net.TCPConn, request uint) (n int) {
	t.Helper()
	control(t, conn, func(fd int) (err error) { n, err = unix.IoctlGetInt(fd, request); return err })
	return n
}

func (p *Pair) waitQueued(t T, conn *net.TCPConn, request uint, enough func(int) bool) {
	t.Helper()
	Wait(t, "the socket's queue", func() bool { return enough(queued(t, conn, request)) })
}

// drain reads that many bytes.
func drain(t T, conn *net.TCPConn, n int) {
	t.Helper()
	for buf := make([]byte, 1<<16); n > 0; {
		got, err := conn.Read(buf[:min(n, len(buf))])
		if err != nil {
			t.Fatalf("read from %s: %v", conn.RemoteAddr(), err)
		}
		n -= got
	}
}

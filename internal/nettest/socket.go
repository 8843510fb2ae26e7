// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ListenTCP listens on the namespace's address of the family and a port that the kernel chooses, until the test ends.
// Accept gives up after Timeout.
func (n *Namespace) ListenTCP(t T, family Family) *net.TCPListener {
	t.Helper()
	var listener net.Listener
	var err error
	n.Do(t, func() {
		config := net.ListenConfig{KeepAlive: -1}
		config.SetMultipathTCP(false) // a plain TCP socket, whatever the default is
		listener, err = config.Listen(t.Context(), family.network("tcp"), n.local(family).String())
	})
	if err != nil {
		t.Fatalf("listen in network namespace %s: %v", n.Name, err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	l := listener.(*net.TCPListener)
	if err := l.SetDeadline(time.Now().Add(Timeout)); err != nil {
		t.Fatalf("set deadline of listener %s: %v", l.Addr(), err)
	}
	return l
}

// ListenBacklog listens at an address (port 0: one that the kernel chooses) with room for backlog+1 connections that
// nobody accepts, and returns the address. Several may listen at the same one (SO_REUSEPORT). Without a call of stop,
// it stops when the test ends.
func (n *Namespace) ListenBacklog(t T, at netip.AddrPort, backlog int) (local netip.AddrPort, stop func()) {
	t.Helper()
	family := IPv4
	if at.Addr().Is6() {
		family = IPv6
	}
	fd := n.socket(t, family, unix.SOCK_STREAM, 0)
	stop = sync.OnceFunc(func() { closeFD(fd) })
	t.Cleanup(stop)
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		t.Fatalf("listen at %s in network namespace %s: %v", at, n.Name, err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatalf("name of socket on %s: %v", at, err)
	}
	return addrPort(name), stop
}

// DialTCP connects from the namespace to an address. The connection closes when the test ends; reads and writes give up
// after Timeout.
func (n *Namespace) DialTCP(t T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	conn, err := n.DialContext(ctx, "tcp", to.String())
	if err != nil {
		t.Fatalf("connect from network namespace %s: %v", n.Name, err)
	}
	return keep(t, conn).(*net.TCPConn)
}

// DialContext connects as [net.Dialer.DialContext] does, from the namespace. The address must be numeric. The caller
// closes the connection.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	var err error
	if e := n.do(func() {
		dialer := net.Dialer{KeepAlive: -1}
		dialer.SetMultipathTCP(false)
		conn, err = dialer.DialContext(ctx, network, address)
	}); e != nil {
		return nil, e
	}
	return conn, err
}

// ListenUDP opens an unconnected socket on the namespace's address of the family and a port that the kernel chooses. It
// closes when the test ends; reads give up after Timeout.
func (n *Namespace) ListenUDP(t T, family Family) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	n.Do(t, func() { conn, err = net.ListenUDP(family.network("udp"), net.UDPAddrFromAddrPort(n.local(family))) })
	if err != nil {
		t.Fatalf("open a UDP socket in network namespace %s: %v", n.Name, err)
	}
	return keep(t, conn).(*net.UDPConn)
}

// DialUDP opens a socket that is connected to an address. It closes when the test ends; reads give up after Timeout.
func (n *Namespace) DialUDP(t T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	conn, err := n.DialContext(t.Context(), "udp", to.String())
	if err != nil {
		t.Fatalf("connect a UDP socket in network namespace %s: %v", n.Name, err)
	}
	return keep(t, conn).(*net.UDPConn)
}

// keep gives a connection its deadline, and closes it when the test ends.
func keep(t T, conn net.Conn) net.Conn {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		t.Fatalf("set deadline of connection from %s: %v", conn.LocalAddr(), err)
	}
	return conn
}

// local returns the namespace's address of the family with port 0.
func (n *Namespace) local(family Family) netip.AddrPort {
	return netip.AddrPortFrom(n.Addresses[family], 0)
}

// freePort returns an address of the namespace that no socket of the transport ("tcp" or "udp") has.
func (n *Namespace) freePort(t T, family Family, transport string) netip.AddrPort {
	t.Helper()
	kind := unix.SOCK_STREAM
	if transport == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, local := n.bound(t, family, kind)
	if err := unix.Close(fd); err != nil {
		t.Fatalf("close socket %s: %v", local, err)
	}
	return local
}

// bound returns a socket of SOCK_STREAM or SOCK_DGRAM that has an address but no peer. The caller closes it.
func (n *Namespace) bound(t T, family Family, kind int) (int, netip.AddrPort) {
	t.Helper()
	fd := n.socket(t, family, kind, 0)
	err := unix.Bind(fd, sockaddr(n.local(family)))
	if err != nil {
		t.Fatalf("bind to %s: %v", n.Addresses[family], err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatalf("name of socket on %s: %v", n.Addresses[family], err)
	}
	return fd, addrPort(name)
}

// raw returns a raw socket of an IP protocol. The caller closes it.
func (n *Namespace) raw(t T, family Family, protocol int) int {
	t.Helper()
	return n.socket(t, family, unix.SOCK_RAW, protocol)
}

func (n *Namespace) socket(t T, family Family, kind, protocol int) int {
	t.Helper()
	domain := unix.AF_INET
	if family == IPv6 {
		domain = unix.AF_INET6
	}
	var fd int
	var err error
	n.Do(t, func() { fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol) })
	switch {
	case kind == unix.SOCK_RAW && errors.Is(err, unix.EPERM):
		t.Skip("may not open raw sockets: it takes CAP_NET_RAW")
	case err != nil:
		t.Fatalf("open an %s socket in network namespace %s: %v", family, n.Name, err)
	}
	return fd
}

// control runs f with the connection's file descriptor.
func control(t T, conn syscall.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err == nil {
		var inner error
		err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
		if err == nil {
			err = inner
		}
	}
	if err != nil {
		t.Fatalf("control socket: %v", err)
	}
}

// closeFD is for defer, where an error has no one to go to.
func closeFD(fd int) { _ = unix.Close(fd) }

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	}
	return netip.AddrPort{}
}

// localAddr and remoteAddr return an end of a connection. Package net reports IPv4 addresses of IPv6 sockets mapped.
func localAddr(c net.Conn) netip.AddrPort  { return endpoint(c.LocalAddr()) }
func remoteAddr(c net.Conn) netip.AddrPort { return endpoint(c.RemoteAddr()) }

func endpoint(a net.Addr) netip.AddrPort {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// The stimuli of this file each move certain counters of the kernel, which their comments name, and leave nothing
// behind that would go on moving them.

// UDPDelivered sends count datagrams from A to B, which reads them: OutDatagrams of A, InDatagrams of B.
func (p *Pair) UDPDelivered(t T, family Family, count int) {
	t.Helper()
	receiver := p.B.ListenUDP(t, family)
	sender := p.A.DialUDP(t, localAddr(receiver))
	for range count {
		sendUDP(t, sender, localAddr(receiver), 20)
		if _, err := receiver.Read(make([]byte, 100)); err != nil {
			t.Fatalf("receive a datagram at %s: %v", receiver.LocalAddr(), err)
		}
	}
}

// UDPBadChecksum sends a datagram with a wrong checksum to a socket of B: InCsumErrors and InErrors of B.
func (p *Pair) UDPBadChecksum(t T, family Family) {
	t.Helper()
	receiver := p.B.ListenUDP(t, family)
	to, key := localAddr(receiver), udpCounter(family, "InCsumErrors")
	before := p.B.Counter(t, key)
	udp := binary.BigEndian.AppendUint16(nil, 4711)
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = append(udp, 0, 12, 0x12, 0x34, 'd', 'a', 't', 'a')
	source := p.A.Addresses[family].AsSlice()
	p.A.sendPacket(t, append(ipHeader(source, to.Addr().AsSlice(), unix.IPPROTO_UDP, 64, len(udp)), udp...), to.Addr())
	p.B.WaitCounter(t, key, before+1)
}

// UDPSendBufferFull sends from A to a neighbor that there is not, until the packets that wait for its address fill the
// send buffer: SndbufErrors of A.
func (p *Pair) UDPSendBufferFull(t T, family Family) {
	t.Helper()
	fd, local := p.A.bound(t, family, unix.SOCK_DGRAM)
	defer closeFD(fd)
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1) // the kernel's minimum
	for err == nil {
		err = unix.Sendto(fd, make([]byte, 1000), unix.MSG_DONTWAIT, sockaddr(netip.AddrPortFrom(p.nobody(family), 9)))
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("send from %s: got %v, want %v", local, err, unix.EAGAIN)
	}
}

// nobody returns an address that either namespace thinks to be of a neighbor.
func (p *Pair) nobody(family Family) netip.Addr {
	b := p.B.Addresses[family].AsSlice()
	b[len(b)-1] = 0xc8
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// UDPMulticastIgnored sends from A to all nodes on the link, of which B has no socket for it: IgnoredMulti of B.
func (p *Pair) UDPMulticastIgnored(t T, family Family) {
	t.Helper()
	key := udpCounter(family, "IgnoredMulti")
	before := p.B.Counter(t, key)
	fd, local := p.A.bound(t, family, unix.SOCK_DGRAM)
	defer closeFD(fd)
	var err error
	p.A.Do(t, func() {
		var device *net.Interface
		if device, err = net.InterfaceByName(Device); err != nil {
			return
		}
		if family == IPv4 {
			if err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(device.Index)}); err == nil {
				err = unix.Sendto(fd, []byte("all"), 0, &unix.SockaddrInet4{Addr: [4]byte{224, 0, 0, 1}, Port: 4711})
			}
			return
		}
		err = unix.Sendto(fd, []byte("all"), 0, &unix.SockaddrInet6{Addr: [16]byte{0xff, 2, 15: 1}, Port: 4711, ZoneId: uint32(device.Index)})
	})
	if err != nil {
		t.Fatalf("send from %s to all nodes: %v", local, err)
	}
	p.B.WaitCounter(t, key, before+1)
}

// CloseInFinWait2 closes B's end of a connection in FIN_WAIT2, in which it must not linger (TCP_LINGER2): TCPAbortOnLinger
// and OutRsts of B.
func (p *Pair) CloseInFinWait2(t T, family Family) {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	if err := server.CloseWrite(); err != nil {
		t.Fatalf("shut down %s: %v", server.LocalAddr(), err)
	}
	p.B.WaitTCPState(t, localAddr(server), remoteAddr(server), TCPFinWait2)
	control(t, server, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_LINGER2, -1) })
	before := p.B.Counter(t, "TcpExt.TCPAbortOnLinger")
	closeConn(t, server)
	p.B.WaitCounter(t, "TcpExt.TCPAbortOnLinger", before+1)
	closeConn(t, client)
}

// RetransmitUntilTimeout has B drop what A sends on a connection until A gives up: TCPTimeouts, RetransSegs and
// TCPAbortOnTimeout of A.
func (p *Pair) RetransmitUntilTimeout(t T, family Family) {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	control(t, client, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 300) // milliseconds
	})
	before := p.A.Counter(t, "TcpExt.TCPAbortOnTimeout")
	defer p.drop(t, p.B, "input", localAddr(server).Port())()
	write(t, client, []byte("lost"))
	p.A.WaitCounter(t, "TcpExt.TCPAbortOnTimeout", before+1)
	abort(t, client, server)
}

// RetransmitSYN has A connect to a port of which B drops all packets, and repeat that: TCPSynRetrans of A.
func (p *Pair) RetransmitSYN(t T, family Family) {
	t.Helper()
	destination := p.B.freePort(t, family, "tcp")
	defer p.drop(t, p.B, "input", destination.Port())()
	before := p.A.Counter(t, "TcpExt.TCPSynRetrans")
	fd, source := p.A.bound(t, family, unix.SOCK_STREAM)
	defer closeFD(fd)
	err := unix.SetNonblock(fd, true)
	if err == nil {
		err = unix.Connect(fd, sockaddr(destination))
	}
	if !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect from %s to %s: got %v, want %v", source, destination, err, unix.EINPROGRESS)
	}
	p.A.WaitCounter(t, "TcpExt.TCPSynRetrans", before+1)
}

// RetransmitFails has A's packet filter refuse the repetition of what B has dropped: TCPRetransFail of A.
func (p *Pair) RetransmitFails(t T, family Family) {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	port := localAddr(server).Port()
	before := p.A.Counter(t, "TcpExt.TCPRetransFail")
	allow := p.drop(t, p.B, "input", port)
	write(t, client, []byte("lost"))
	permit := p.drop(t, p.A, "output", port)
	p.A.WaitCounter(t, "TcpExt.TCPRetransFail", before+1)
	permit()
	allow()
	abort(t, client, server)
}

// FastRetransmit has B acknowledge, again and again, what came before the segments that it drops: TCPFastRetrans of A.
func (p *Pair) FastRetransmit(t T, family Family) {
	t.Helper()
	defer p.A.sysctl(t, "ipv4/tcp_sack", "0")() // so that acknowledgments alone tell
	before := p.A.Counter(t, "TcpExt.TCPFastRetrans")
	Wait(t, "a fast retransmission", func() bool {
		client, server := p.ConnectTCP(t, family) // a new one, for the time-out may have been first
		again := Segment{Source: localAddr(server), Destination: remoteAddr(server), Flags: ACK}
		control(t, client, func(fd int) (err error) {
			again.Seq, again.Ack, err = sequence(fd)
			return err
		})
		allow := p.drop(t, p.B, "input", again.Source.Port())
		for range 5 {
			write(t, client, []byte("lost"))
		}
		for range 5 {
			p.B.SendSegment(t, again)
		}
		risen := p.A.Counter(t, "TcpExt.TCPFastRetrans") > before
		allow()
		abort(t, client, server)
		return risen
	})
}

// ReceiveQueueOverflow sends A's data to a socket of B whose receive buffer has shrunk after the window was told:
// TCPRcvQDrop of B.
func (p *Pair) ReceiveQueueOverflow(t T, family Family) {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	if err := server.SetReadBuffer(1); err != nil { // the kernel's minimum
		t.Fatalf("set receive buffer of %s: %v", server.LocalAddr(), err)
	}
	before := p.B.Counter(t, "TcpExt.TCPRcvQDrop")
	data := make([]byte, 8<<10)
	for range 6 { // less than the first window
		write(t, client, data)
	}
	p.B.WaitCounter(t, "TcpExt.TCPRcvQDrop", before+1)
	abort(t, client, server)
}

// SkippedACKs provokes acknowledgments faster than the kernel sends them (net.ipv4.tcp_invalid_ratelimit):
// TCPACKSkippedSeq, TCPACKSkippedPAWS with PAWSEstab, TCPACKSkippedChallenge, TCPACKSkippedSynRecv and
// TCPACKSkippedFinWait2 of B, TCPACKSkippedTimeWait of A.
func (p *Pair) SkippedACKs(t T, family Family) {
	t.Helper()
	const outOfWindow = 1 << 30
	next := func(conn *net.TCPConn) (s Segment) {
		s = Segment{Source: localAddr(conn), Destination: remoteAddr(conn), Flags: ACK}
		control(t, conn, func(fd int) (err error) {
			s.Ack, s.Seq, err = sequence(fd)
			return err
		})
		return s
	}

	client, server := p.ConnectTCP(t, family)
	syn := next(client)
	syn.Flags = SYN
	skipped(t, p.A, p.B, "Challenge", syn)
	abort(t, client, server)

	client, server = p.ConnectTCP(t, family)
	outside := next(client)
	outside.Seq += outOfWindow
	skipped(t, p.A, p.B, "Seq", outside)
	abort(t, client, server)

	// Of two opposite timestamps one is in the past; the other one is out of the window.
	client, server = p.ConnectTCP(t, family)
	old := next(client)
	old.Seq += outOfWindow
	opposite := old
	old.Options = []byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0}
	opposite.Options = []byte{1, 1, 8, 10, 0x80, 0, 0, 0, 0, 0, 0, 0}
	skipped(t, p.A, p.B, "PAWS", old, opposite)
	abort(t, client, server)

	// The answer to a SYN must not find its way back, or it is answered by a reset.
	listener, stop := p.B.ListenBacklog(t, p.B.local(family), 5)
	skipped(t, p.A, p.B, "SynRecv", Segment{Source: netip.AddrPortFrom(p.nobody(family), 4711), Destination: listener, Seq: 1, Flags: SYN})
	stop()

	client, _, _ = p.OrphanInFinWait2(t, family)
	late := next(client)
	late.Seq += outOfWindow
	skipped(t, p.A, p.B, "FinWait2", late)
	closeConn(t, client)

	defer p.A.sysctl(t, "ipv4/tcp_rfc1337", "1")() // B, who has no such socket, resets what it is sent
	tail := p.timeWait(t, family)
	tail.Flags = ACK
	tail.Seq += outOfWindow
	skipped(t, p.B, p.A, "TimeWait", tail)
}

// StraySegment sends a segment from A to B that opens and resets a connection at once, which connection tracking calls
// invalid and TCP drops.
func (p *Pair) StraySegment(t T, family Family) {
	t.Helper()
	source, destination := p.A.freePort(t, family, "tcp"), p.B.freePort(t, family, "tcp")
	before := p.B.Counter(t, "Tcp.InSegs")
	p.A.SendSegment(t, Segment{Source: source, Destination: destination, Seq: 1, Flags: SYN | RST})
	p.B.WaitCounter(t, "Tcp.InSegs", before+1)
}

// skipped sends segments until one is not acknowledged because another has just been.
func skipped(t T, from, to *Namespace, why string, segments ...Segment) {
	t.Helper()
	key := "TcpExt.TCPACKSkipped" + why
	before := to.Counter(t, key)
	Wait(t, key+" to rise", func() bool {
		for _, s := range segments {
			from.SendSegment(t, s)
		}
		return to.Counter(t, key) > before
	})
}

// abort closes both ends of a connection without waiting for what they have sent.
func abort(t T, conns ...*net.TCPConn) {
	t.Helper()
	for _, conn := range conns {
		_ = conn.SetLinger(0) // which one that has been reset refuses
		closeConn(t, conn)
	}
}

// drop has a namespace drop the TCP packets to a port, on input or output, until allow is called. It
// skips the test if there is no `nft`.
func (p *Pair) drop(t T, n *Namespace, hook string, port uint16) (allow func()) {
	t.Helper()
	table := fmt.Sprintf("inet drop_%s_%d", hook, port)
	n.nft(t, fmt.Sprintf("add table %[1]s\nadd chain %[1]s c { type filter hook %[2]s priority 0; }\n"+
		"add rule %[1]s c tcp dport %[3]d drop\n", table, hook, port))
	return func() { n.nft(t, "delete table "+table+"\n") }
}

func (n *Namespace) nft(t T, commands string) {
	t.Helper()
	program, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs the nft program")
	}
	n.Do(t, func() {
		cmd := exec.Command(program, "-f", "-")
		cmd.Stdin = strings.NewReader(commands)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft %q in network namespace %s: %v: %s", commands, n.Name, err, out)
		}
	})
}

// sysctl sets net.NAME of the namespace and returns what sets it back.
func (n *Namespace) sysctl(t T, name, value string) (restore func()) {
	t.Helper()
	file := "/proc/sys/net/" + name
	var before []byte
	set := func(value string) {
		n.Do(t, func() {
			var err error
			if before, err = os.ReadFile(file); err == nil {
				err = os.WriteFile(file, []byte(value), 0o644)
			}
			if err != nil {
				t.Fatalf("set %s in network namespace %s: %v", file, n.Name, err)
			}
		})
	}
	set(value)
	was := string(before)
	return func() { set(was) }
}

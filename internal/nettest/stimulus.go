// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is the packet that a stimulus is about, as it is on the wire: the datagram that was dropped, the reset that was
// sent, the segment that a TIME_WAIT socket got.
type Packet struct {
	Family Family
	// From and To are where it was sent and where it arrived.
	From, To *Namespace
	// Source and Destination are its addresses, of From and To.
	Source, Destination netip.AddrPort
}

// ConnectTCP returns the two ends of a connection from A to B. Both are closed when the test ends, but without regard
// to order: what needs an order closes them itself.
func (p *Pair) ConnectTCP(t T, family Family) (client, server *net.TCPConn) {
	t.Helper()
	listener := p.B.ListenTCP(t, family)
	client = p.A.DialTCP(t, endpoint(listener.Addr()))
	conn, err := listener.AcceptTCP()
	if err != nil {
		t.Fatalf("accept on %s: %v", listener.Addr(), err)
	}
	if err := listener.Close(); err != nil {
		t.Fatalf("close listener %s: %v", listener.Addr(), err)
	}
	return client, keep(t, conn).(*net.TCPConn)
}

// UDPToClosedPort sends count datagrams of 20 bytes from one socket of A to a port of B that nobody has. Each is dropped
// by B, for want of a socket, and counted in B's NoPorts. If connected is set, the socket of A is, and so gets B's
// answer (port unreachable) as an error; else it does not.
func (p *Pair) UDPToClosedPort(t T, family Family, count int, connected bool) Packet {
	t.Helper()
	destination := p.B.freePort(t, family, "udp")
	before := p.B.Counter(t, udpCounter(family, "NoPorts"))
	var conn *net.UDPConn
	if connected {
		conn = p.A.DialUDP(t, destination)
	} else {
		conn = p.A.ListenUDP(t, family)
	}
	for range count {
		sendUDP(t, conn, destination, 20)
	}
	p.B.WaitCounter(t, udpCounter(family, "NoPorts"), before+uint64(count))
	return p.fromA(family, localAddr(conn), destination)
}

// DatagramsToClosedPort returns what sends one datagram of 20 bytes from A to a port of B that nobody has, each time it
// is called. It does not wait for anything.
func (p *Pair) DatagramsToClosedPort(t T, family Family) (send func() error) {
	t.Helper()
	destination := p.B.freePort(t, family, "udp")
	conn := p.A.ListenUDP(t, family)
	return func() error {
		_, err := conn.WriteToUDPAddrPort(make([]byte, 20), destination)
		return err
	}
}

// UDPRcvbufOverflow fills the receive buffer of a UDP socket of B that nobody reads, with datagrams of 500 bytes from
// one socket of A, and then sends on until exactly count have been dropped and counted in B's RcvbufErrors.
func (p *Pair) UDPRcvbufOverflow(t T, family Family, count int) Packet {
	t.Helper()
	receiver := p.B.ListenUDP(t, family)
	if err := receiver.SetReadBuffer(1); err != nil { // the kernel's minimum
		t.Fatalf("set receive buffer of %s: %v", receiver.LocalAddr(), err)
	}
	memory := func() (bytes int) {
		control(t, receiver, func(fd int) (err error) { bytes, err = receiveMemory(fd); return err })
		return bytes
	}
	key, destination := udpCounter(family, "RcvbufErrors"), localAddr(receiver)
	before := p.B.Counter(t, key)
	sender := p.A.DialUDP(t, destination)
	for dropped, queued := uint64(0), 0; dropped < uint64(count); {
		sendUDP(t, sender, destination, 500)
		Wait(t, "a datagram to be queued or dropped", func() bool {
			now, drops := memory(), p.B.Counter(t, key)-before
			seen := now > queued || drops > dropped
			queued, dropped = now, drops
			return seen
		})
	}
	return p.fromA(family, localAddr(sender), destination)
}

// UDPUnread sends count datagrams of 20 bytes to a UDP socket of B, which closes it with all of them unread.
func (p *Pair) UDPUnread(t T, family Family, count int) Packet {
	t.Helper()
	receiver := p.B.ListenUDP(t, family)
	sender := p.A.DialUDP(t, localAddr(receiver))
	queued := func() (bytes int) {
		control(t, receiver, func(fd int) (err error) { bytes, err = receiveMemory(fd); return err })
		return bytes
	}
	for range count {
		memory := queued()
		sendUDP(t, sender, localAddr(receiver), 20)
		Wait(t, "a datagram to be queued", func() bool { return queued() > memory })
	}
	closeConn(t, receiver)
	return p.fromA(family, localAddr(sender), localAddr(receiver))
}

// UDPFragments sends a datagram of 4000 bytes, more than the link takes at once, to a UDP socket of B, which reads it.
func (p *Pair) UDPFragments(t T, family Family) Packet {
	t.Helper()
	const size = 4000
	receiver := p.B.ListenUDP(t, family)
	sender := p.A.DialUDP(t, localAddr(receiver))
	sendUDP(t, sender, localAddr(receiver), size)
	if n, err := receiver.Read(make([]byte, size+1)); n != size || err != nil {
		t.Fatalf("read from %s: got %d bytes, %v, want %d", localAddr(sender), n, err, size)
	}
	return p.fromA(family, localAddr(sender), localAddr(receiver))
}

// NFTDropSYN sends a SYN from A to a port of B whose segments B's nftables drop on input, and waits until the rule has
// counted it. It skips the test if there is no `nft`.
func (p *Pair) NFTDropSYN(t T, family Family) Packet {
	t.Helper()
	source, destination := p.A.freePort(t, family, "tcp"), p.B.freePort(t, family, "tcp")
	p.nftDrop(t, "tcp", destination.Port(), 1, func() {
		p.A.SendSegment(t, Segment{Source: source, Destination: destination, Seq: 1000, Flags: SYN})
	})
	return p.fromA(family, source, destination)
}

// NFTDrop sends count datagrams of 30 bytes from one socket of A to a port of B whose packets B's nftables drop on
// input, and waits until the rule has counted them. It skips the test if there is no `nft`.
func (p *Pair) NFTDrop(t T, family Family, count int) Packet {
	t.Helper()
	receiver := p.B.ListenUDP(t, family) // so that only the rule can be why
	destination := localAddr(receiver)
	sender := p.A.DialUDP(t, destination)
	p.nftDrop(t, "udp", destination.Port(), count, func() {
		for range count {
			sendUDP(t, sender, destination, 30)
		}
	})
	return p.fromA(family, localAddr(sender), destination)
}

// nftDrop has B's nftables drop what comes for a port while send runs, and waits until they have dropped count packets.
func (p *Pair) nftDrop(t T, transport string, port uint16, count int, send func()) {
	t.Helper()
	program, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs the nft program")
	}
	nft := func(commands string) (output string) {
		p.B.Do(t, func() {
			cmd := exec.Command(program, "-f", "-")
			cmd.Stdin = strings.NewReader(commands)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("nft %q in network namespace %s: %v: %s", commands, p.B.Name, err, out)
			}
			output = string(out)
		})
		return output
	}
	nft(fmt.Sprintf("add table inet nettest\n"+
		"add chain inet nettest input { type filter hook input priority 0; }\n"+
		"add rule inet nettest input %s dport %d counter drop\n", transport, port))
	defer nft("delete table inet nettest\n")
	send()
	counted := fmt.Sprintf("counter packets %d ", count)
	Wait(t, "nftables to drop the packets", func() bool {
		return strings.Contains(nft("list table inet nettest\n"), counted)
	})
}

// ConnectClosedPort tries to connect from A to a port of B that nobody listens on. It returns the reset that B sends for
// want of a socket (TCPRESET_NOSOCK) and that A receives in SYN_SENT (TCP_RCV_RST_SYN).
func (p *Pair) ConnectClosedPort(t T, family Family) Packet {
	t.Helper()
	destination := p.B.freePort(t, family, "tcp")
	fd, source := p.A.bound(t, family, unix.SOCK_STREAM)
	defer closeFD(fd)
	limit := unix.NsecToTimeval(Timeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		t.Fatalf("set timeout of socket %s: %v", source, err)
	}
	err := unix.Connect(fd, sockaddr(destination))
	for errors.Is(err, unix.EINTR) {
		err = unix.Connect(fd, sockaddr(destination)) // goes on waiting
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("connect from %s to %s: got %v, want %v", source, destination, err, unix.ECONNREFUSED)
	}
	return p.fromB(family, destination, source)
}

// CloseWithUnreadData closes B's end of a connection while it holds data that was not read. It returns the reset that B
// sends for that (TCPRESET_ACTIVE) and that A receives in ESTABLISHED (TCP_RCV_RST_ESTAB).
func (p *Pair) CloseWithUnreadData(t T, family Family) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	data := []byte("unread")
	write(t, client, data)
	WaitUnread(t, server, len(data))
	return p.resetByClose(t, family, client, server)
}

// LingerZeroClose closes B's end of a connection with SO_LINGER of zero seconds. It returns the reset that B sends for
// that (TCPRESET_ACTIVE) and that A receives in ESTABLISHED (TCP_RCV_RST_ESTAB).
func (p *Pair) LingerZeroClose(t T, family Family) Packet {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	if err := server.SetLinger(0); err != nil {
		t.Fatalf("set SO_LINGER of %s: %v", server.LocalAddr(), err)
	}
	return p.resetByClose(t, family, client, server)
}

// ListenOverflow connects from A to a listener of B whose accept queue has become full of connections that nobody
// accepts. It returns the SYN that B drops, counted in its ListenOverflows and ListenDrops.
func (p *Pair) ListenOverflow(t T, family Family) Packet {
	t.Helper()
	destination, stop := p.B.ListenBacklog(t, p.B.local(family), 0)
	p.A.DialTCP(t, destination) // queue and all
	before := p.B.Counter(t, "TcpExt.ListenOverflows")
	fd, source := p.A.bound(t, family, unix.SOCK_STREAM)
	err := unix.SetNonblock(fd, true)
	for err == nil && p.B.Counter(t, "TcpExt.ListenOverflows") == before {
		err = unix.Connect(fd, sockaddr(destination))
		if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EALREADY) {
			err = nil
		}
	}
	if err != nil {
		t.Fatalf("connect from %s to %s: %v", source, destination, err)
	}
	closeFD(fd) // no more SYNs
	stop()
	return p.fromA(family, source, destination)
}

// resetByClose closes the server's end and waits until the client's has been reset.
func (p *Pair) resetByClose(t T, family Family, client, server *net.TCPConn) Packet {
	t.Helper()
	closeConn(t, server)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read from %s: got %v, want %v", server.LocalAddr(), err, unix.ECONNRESET)
	}
	closeConn(t, client)
	return p.fromB(family, localAddr(server), remoteAddr(server))
}

// DataToOrphanedFinWait2 closes B's end of a connection, waits until it is in FIN_WAIT2 without an owner, and sends data
// to it. It returns the reset that B answers with (TCPRESET_PROCESS; the kernel keeps such a socket as a TIME_WAIT one)
// and that A receives in CLOSE_WAIT.
func (p *Pair) DataToOrphanedFinWait2(t T, family Family) Packet {
	t.Helper()
	client, local, remote := p.OrphanInFinWait2(t, family)
	before := p.B.Counter(t, "Tcp.OutRsts")
	write(t, client, []byte("late"))
	p.B.WaitCounter(t, "Tcp.OutRsts", before+1)
	p.A.WaitTCPState(t, remote, local, TCPNone) // closed sockets leave the table
	closeConn(t, client)
	return p.fromB(family, local, remote)
}

// FinToOrphanedFinWait2 closes both ends of a connection, B's first and without an owner before A's FIN arrives, which
// then brings B's end from FIN_WAIT2 to TIME_WAIT. It returns that FIN.
func (p *Pair) FinToOrphanedFinWait2(t T, family Family) Packet {
	t.Helper()
	client, local, remote := p.OrphanInFinWait2(t, family)
	closeConn(t, client)
	p.B.WaitTCPState(t, local, remote, TCPTimeWait)
	p.A.WaitTCPState(t, remote, local, TCPNone)
	return p.fromA(family, remote, local)
}

// OrphanInFinWait2 closes B's end of a connection and waits until it is in FIN_WAIT2 without an owner; the kernel keeps
// such a socket as a TIME_WAIT one. It returns A's end, and the addresses of B's.
func (p *Pair) OrphanInFinWait2(t T, family Family) (client *net.TCPConn, local, remote netip.AddrPort) {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	local, remote = localAddr(server), remoteAddr(server)
	// Not closed at once: an acknowledgment that comes while close still has the socket leaves it a full one.
	if err := server.CloseWrite(); err != nil {
		t.Fatalf("shut down %s: %v", local, err)
	}
	p.B.WaitTCPState(t, local, remote, TCPFinWait2)
	p.A.WaitTCPState(t, remote, local, TCPCloseWait)
	closeConn(t, server)
	return client, local, remote
}

// HalfOpenReset sends a SYN from A to a listener of B past A's TCP, which answers the SYN-ACK with a reset. It returns
// that reset: A sends it for want of a socket (TCPRESET_NOSOCK), B receives it in SYN_RECV (TCP_RCV_RST_SYN).
func (p *Pair) HalfOpenReset(t T, family Family) Packet {
	t.Helper()
	listener := p.B.ListenTCP(t, family)
	source, destination := p.A.freePort(t, family, "tcp"), endpoint(listener.Addr())
	before := p.B.Counter(t, "TcpExt.EmbryonicRsts")
	p.A.SendSegment(t, Segment{Source: source, Destination: destination, Seq: 1000, Flags: SYN})
	p.B.WaitCounter(t, "TcpExt.EmbryonicRsts", before+1)
	if err := listener.Close(); err != nil {
		t.Fatalf("close listener %s: %v", destination, err)
	}
	return p.fromA(family, source, destination)
}

// ResetInTimeWait sends a reset from B, past its TCP, to a TIME_WAIT socket of A, which ends the socket. It returns that
// reset (TCP_RCV_RST_TW).
func (p *Pair) ResetInTimeWait(t T, family Family) Packet {
	t.Helper()
	segment := p.timeWait(t, family)
	segment.Flags = RST
	p.B.SendSegment(t, segment)
	p.A.WaitTCPState(t, segment.Destination, segment.Source, TCPNone)
	return p.fromB(family, segment.Source, segment.Destination)
}

// AckInTimeWait sends an empty segment from B, past its TCP, to a TIME_WAIT socket of A, which takes it without an
// answer (TCP_TW_RCV). It returns that segment.
func (p *Pair) AckInTimeWait(t T, family Family) Packet {
	t.Helper()
	segment := p.timeWait(t, family)
	segment.Flags = ACK
	before := p.A.Counter(t, "Tcp.InSegs")
	p.B.SendSegment(t, segment)
	p.A.WaitCounter(t, "Tcp.InSegs", before+1)
	return p.fromB(family, segment.Source, segment.Destination)
}

// DataInTimeWait sends four bytes from B, past its TCP, to a TIME_WAIT socket of A (TCP_TW_RCV). It returns that segment.
// Two more follow by themselves, both seen when it returns: A acknowledges what it had, and B, who has no such socket,
// resets that (TCPRESET_NOSOCK, the same ends), which ends the TIME_WAIT socket (TCP_RCV_RST_TW).
func (p *Pair) DataInTimeWait(t T, family Family) Packet {
	t.Helper()
	segment := p.timeWait(t, family)
	segment.Flags, segment.Data = PSH|ACK, []byte("late")
	p.B.SendSegment(t, segment)
	p.A.WaitTCPState(t, segment.Destination, segment.Source, TCPNone)
	return p.fromB(family, segment.Source, segment.Destination)
}

// FinInTimeWait sends B's FIN once more, past its TCP, to a TIME_WAIT socket of A, as B would if A's last acknowledgment
// had got lost (TCP_TW_RCV). It returns that segment. What follows is what follows in DataInTimeWait.
func (p *Pair) FinInTimeWait(t T, family Family) Packet {
	t.Helper()
	segment := p.timeWait(t, family)
	segment.Seq--
	segment.Flags = FIN | ACK
	p.B.SendSegment(t, segment)
	p.A.WaitTCPState(t, segment.Destination, segment.Source, TCPNone)
	return p.fromB(family, segment.Source, segment.Destination)
}

// SynInTimeWait sends a SYN from A, past its TCP, to a TIME_WAIT socket of B whose port still has a listener: it opens
// the connection anew (TCP_TW_RCV). It returns that segment. Two more follow by themselves, both seen when it returns: B
// answers with a SYN-ACK, and A, who has no such socket, resets it (TCPRESET_NOSOCK, TCP_RCV_RST_SYN).
func (p *Pair) SynInTimeWait(t T, family Family) Packet {
	t.Helper()
	listener := p.B.ListenTCP(t, family)
	client := p.A.DialTCP(t, endpoint(listener.Addr()))
	server, err := listener.AcceptTCP()
	if err != nil {
		t.Fatalf("accept on %s: %v", listener.Addr(), err)
	}
	segment := p.closeFirst(t, p.B, server, p.A, client)
	segment.Seq += 1 << 20 // behind all that was sent
	segment.Ack, segment.Flags = 0, SYN
	before := p.B.Counter(t, "TcpExt.EmbryonicRsts")
	p.A.SendSegment(t, segment)
	p.B.WaitCounter(t, "TcpExt.EmbryonicRsts", before+1)
	if err := listener.Close(); err != nil {
		t.Fatalf("close listener %s: %v", segment.Destination, err)
	}
	return p.fromA(family, segment.Source, segment.Destination)
}

// timeWait brings A's end of a connection into TIME_WAIT, B's being gone, and returns the segment that would come next
// from B, without flags.
func (p *Pair) timeWait(t T, family Family) Segment {
	t.Helper()
	client, server := p.ConnectTCP(t, family)
	return p.closeFirst(t, p.A, client, p.B, server)
}

// closeFirst closes a connection, first at one end, which comes into TIME_WAIT, then at the other, which is gone then. It
// returns the segment that would come next from the other, without flags.
func (p *Pair) closeFirst(t T, n *Namespace, first *net.TCPConn, other *Namespace, second *net.TCPConn) Segment {
	t.Helper()
	next := Segment{Source: localAddr(second), Destination: remoteAddr(second)}
	control(t, first, func(fd int) (err error) {
		next.Seq, next.Ack, err = sequence(fd)
		return err
	})
	next.Seq++ // each end's FIN
	next.Ack++
	closeConn(t, first)
	if n, err := second.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read from %s: got %d bytes, %v, want %v", next.Destination, n, err, io.EOF)
	}
	closeConn(t, second)
	n.WaitTCPState(t, next.Destination, next.Source, TCPTimeWait)
	other.WaitTCPState(t, next.Source, next.Destination, TCPNone)
	return next
}

// sequence returns the sequence numbers that a connection with nothing in flight will receive and send next.
func sequence(fd int) (receive, send uint32, err error) {
	const receiveQueue, sendQueue = 1, 2 // TCP_RECV_QUEUE, TCP_SEND_QUEUE
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		return 0, 0, fmt.Errorf("set TCP_REPAIR: %w", err)
	}
	number := func(queue int) uint32 {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue)
		}
		var value int
		if err == nil {
			value, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		}
		return uint32(value)
	}
	receive, send = number(receiveQueue), number(sendQueue)
	// Leaves repair mode without the window probe that usually follows.
	return receive, send, errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP))
}

// sendUDP sends a datagram of zeros. The destination is the peer's if the socket is connected.
func sendUDP(t T, conn *net.UDPConn, destination netip.AddrPort, size int) {
	t.Helper()
	payload := make([]byte, size)
	if err := conn.SetWriteDeadline(time.Now().Add(Timeout)); err != nil { // of each, not of all
		t.Fatalf("set deadline of %s: %v", conn.LocalAddr(), err)
	}
	send := func() error { _, err := conn.WriteToUDPAddrPort(payload, destination); return err }
	if conn.RemoteAddr() != nil {
		send = func() error { _, err := conn.Write(payload); return err }
	}
	err := send()
	for errors.Is(err, unix.ECONNREFUSED) {
		err = send() // that was an earlier datagram's error; this one has not been sent
	}
	if err != nil {
		t.Fatalf("send a datagram from %s to %s: %v", conn.LocalAddr(), destination, err)
	}
}

func write(t T, conn net.Conn, data []byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Fatalf("write from %s to %s: %v", conn.LocalAddr(), conn.RemoteAddr(), err)
	}
}

func closeConn(t T, conn net.Conn) {
	t.Helper()
	if err := conn.Close(); err != nil {
		t.Fatalf("close connection from %s to %s: %v", conn.LocalAddr(), conn.RemoteAddr(), err)
	}
}

// udpCounter returns the key of a UDP counter: "Udp.NoPorts", "Udp6NoPorts".
func udpCounter(family Family, name string) string {
	if family == IPv6 {
		return "Udp6" + name
	}
	return "Udp." + name
}

func (p *Pair) fromA(family Family, source, destination netip.AddrPort) Packet {
	return Packet{Family: family, From: p.A, To: p.B, Source: source, Destination: destination}
}

func (p *Pair) fromB(family Family, source, destination netip.AddrPort) Packet {
	return Packet{Family: family, From: p.B, To: p.A, Source: source, Destination: destination}
}

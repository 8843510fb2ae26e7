// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// TCPFlags is the flags octet of a TCP header.
type TCPFlags uint8

// The flags of RFC 9293 that segments of tests have.
const (
	FIN TCPFlags = 0x01
	SYN TCPFlags = 0x02
	RST TCPFlags = 0x04
	PSH TCPFlags = 0x08
	ACK TCPFlags = 0x10
)

// Segment is a TCP segment that no socket sends.
type Segment struct {
	Source, Destination netip.AddrPort
	Seq, Ack            uint32
	Flags               TCPFlags
	Options             []byte // a multiple of four
	Data                []byte
}

// SendSegment sends a segment from the namespace, past its TCP. The socket it uses receives nothing: a raw TCP socket
// would get copies of all segments that arrive, and drop them when it closes.
func (n *Namespace) SendSegment(t T, s Segment) {
	t.Helper()
	n.sendPacket(t, s.packet(), s.Destination.Addr())
}

// sendPacket sends a packet as it is.
func (n *Namespace) sendPacket(t T, packet []byte, to netip.Addr) {
	t.Helper()
	family := IPv4
	if to.Is6() {
		family = IPv6
	}
	fd := n.raw(t, family, unix.IPPROTO_RAW)
	defer closeFD(fd)
	if err := unix.Sendto(fd, packet, 0, sockaddr(netip.AddrPortFrom(to, 0))); err != nil {
		t.Fatalf("send a packet to %s: %v", to, err)
	}
}

// packet returns the segment with the headers of IP and TCP.
func (s Segment) packet() []byte {
	const hops = 64
	tcpHeader := 20 + len(s.Options)
	source, destination := s.Source.Addr().AsSlice(), s.Destination.Addr().AsSlice()
	length := tcpHeader + len(s.Data)

	tcp := binary.BigEndian.AppendUint16(make([]byte, 0, length), s.Source.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, s.Destination.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, s.Seq)
	tcp = binary.BigEndian.AppendUint32(tcp, s.Ack)
	tcp = append(tcp, byte(tcpHeader/4<<4), byte(s.Flags), 0xff, 0xff, 0, 0, 0, 0) // largest window, no checksum yet
	tcp = append(append(tcp, s.Options...), s.Data...)

	pseudo := append(append([]byte{}, source...), destination...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(length))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_TCP)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))

	return append(ipHeader(source, destination, unix.IPPROTO_TCP, hops, length), tcp...)
}

// ipHeader returns the header of a packet with that many bytes behind it.
func ipHeader(source, destination []byte, protocol, hops byte, length int) []byte {
	var ip []byte
	if len(source) == 4 {
		// The kernel fills in what is zero here: total length, identification, checksum.
		ip = []byte{0x45, 0, 0, 0, 0, 0, 0, 0, hops, protocol, 0, 0}
	} else {
		ip = binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(length))
		ip = append(ip, protocol, hops)
	}
	return append(append(ip, source...), destination...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

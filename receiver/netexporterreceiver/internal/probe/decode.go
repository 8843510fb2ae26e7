// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/netexporter/netexporter/bpf"
)

// Decode copies one record out of raw. T must be a type that bpf2go generated from the struct that
// the kernel side writes.
func Decode[T any](raw []byte) (T, error) {
	var v T
	size := int(unsafe.Sizeof(v))
	if len(raw) < size {
		return v, fmt.Errorf("decode %T: record has %d bytes, want %d", v, len(raw), size)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&v)), size), raw)
	return v, nil
}

// Addresses returns source and destination of a flow. They are zero if it is not IP.
func Addresses(h *bpf.EventHdr) (source, destination netip.AddrPort) {
	f := &h.Flow
	switch f.Family {
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(f.Saddr[:4])), f.Sport),
			netip.AddrPortFrom(netip.AddrFrom4([4]byte(f.Daddr[:4])), f.Dport)
	case 6:
		return netip.AddrPortFrom(netip.AddrFrom16(f.Saddr), f.Sport),
			netip.AddrPortFrom(netip.AddrFrom16(f.Daddr), f.Dport)
	}
	return netip.AddrPort{}, netip.AddrPort{}
}

// address prints an address, empty if there is none. An IPv4-mapped address prints as IPv4: it is
// how a dual-stack socket holds an IPv4 peer.
func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// Flow is a flow in the words of the semantic conventions.
type Flow struct {
	SourceAddress, DestinationAddress string
	SourcePort, DestinationPort       int64
	Transport, Type                   string
}

// FlowOf puts the flow of an event into words.
func FlowOf(h *bpf.EventHdr) Flow {
	source, destination := Addresses(h)
	f := Flow{
		SourceAddress:      address(source.Addr()),
		DestinationAddress: address(destination.Addr()),
		SourcePort:         int64(source.Port()),
		DestinationPort:    int64(destination.Port()),
	}
	if !source.IsValid() {
		return f
	}
	f.Type = "ipv6"
	if source.Addr().Unmap().Is4() {
		f.Type = "ipv4"
	}
	f.Transport = transport(h.Flow.Proto)
	return f
}

// transport names the protocols that the kernel's network layer ends or drops most, by the IANA
// registry of protocol numbers.
func transport(proto uint8) string {
	switch proto {
	case 1:
		return "icmp"
	case 2:
		return "igmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 47:
		return "gre"
	case 50:
		return "esp"
	case 58:
		return "icmpv6"
	case 132:
		return "sctp"
	case 136:
		return "udplite"
	}
	return fmt.Sprint(proto)
}

// tcpStates is indexed as include/net/tcp_states.h, which is part of the user space ABI.
var tcpStates = [...]string{
	"", "TCP_ESTABLISHED", "TCP_SYN_SENT", "TCP_SYN_RECV", "TCP_FIN_WAIT1", "TCP_FIN_WAIT2",
	"TCP_TIME_WAIT", "TCP_CLOSE", "TCP_CLOSE_WAIT", "TCP_LAST_ACK", "TCP_LISTEN", "TCP_CLOSING",
	"TCP_NEW_SYN_RECV", "TCP_BOUND_INACTIVE",
}

// TCPState names the state of a TCP socket, empty if there is none.
func TCPState(state uint8) string {
	if int(state) < len(tcpStates) {
		return tcpStates[state]
	}
	return fmt.Sprintf("TCP_%d", state)
}

// TCPFlags names the flags of a TCP segment (RFC 9293 section 3.1), separated by commas.
func TCPFlags(flags uint8) string {
	var b []byte
	for i, name := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if flags>>i&1 == 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, name...)
	}
	return string(b)
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"reflect"
	"testing"
	"unsafe"

	"github.com/netexporter/netexporter/bpf"
)

// A hole in a struct would hold what was in the kernel's memory before.
func TestRecordsHaveNoHoles(t *testing.T) {
	for _, v := range []any{
		bpf.EventHdr{},
		bpf.PacketlossEvent{},
		bpf.TcpresetEvent{},
		bpf.NetSoftirqEvent{},
		bpf.VirtcmdlatencyEvent{},
		bpf.SocketlatencyEvent{},
		bpf.KernellatencyEvent{},
		bpf.NetiftxlatEvent{},
		bpf.SlowKey{},
		bpf.Histograms{},
		bpf.PacketlossDropKey{},
		bpf.TcpresetResetKey{},
		bpf.VirtcmdlatencyCommand{},
		bpf.NetnsTaskRecord{},
		bpf.NetnsNetnsRecord{},
		bpf.NetSoftirqSoftirqs{},
		bpf.Histogram{},
		bpf.Latency{},
	} {
		if got, want := binary.Size(v), int(reflect.TypeOf(v).Size()); got != want {
			t.Errorf("%T: %d bytes of fields in %d bytes", v, got, want)
		}
	}
}

func TestFlowOf(t *testing.T) {
	var v4, v6, mapped, other bpf.EventHdr
	v4.Flow.Family, v4.Flow.Proto, v4.Flow.Sport, v4.Flow.Dport = 4, 17, 40000, 53
	copy(v4.Flow.Saddr[:], []byte{10, 0, 0, 1})
	copy(v4.Flow.Daddr[:], []byte{10, 0, 0, 2})
	v6.Flow.Family, v6.Flow.Proto, v6.Flow.Sport, v6.Flow.Dport = 6, 6, 1, 2
	v6.Flow.Saddr[0], v6.Flow.Saddr[15] = 0xfd, 1
	v6.Flow.Daddr[0], v6.Flow.Daddr[15] = 0xfd, 2
	mapped.Flow.Family, mapped.Flow.Proto = 6, 6
	copy(mapped.Flow.Saddr[10:], []byte{0xff, 0xff, 10, 0, 0, 1})
	copy(mapped.Flow.Daddr[10:], []byte{0xff, 0xff, 10, 0, 0, 2})
	other.Flow.Family, other.Flow.Proto = 4, 99
	for _, test := range []struct {
		name string
		hdr  bpf.EventHdr
		want Flow
	}{
		{"IPv4", v4, Flow{"10.0.0.1", "10.0.0.2", 40000, 53, "udp", "ipv4"}},
		{"IPv6", v6, Flow{"fd00::1", "fd00::2", 1, 2, "tcp", "ipv6"}},
		{"IPv4 on a dual-stack socket", mapped, Flow{"10.0.0.1", "10.0.0.2", 0, 0, "tcp", "ipv4"}},
		{"a protocol without a name", other, Flow{"0.0.0.0", "0.0.0.0", 0, 0, "99", "ipv4"}},
		{"not IP", bpf.EventHdr{}, Flow{}},
	} {
		if got := FlowOf(&test.hdr); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestTCPState(t *testing.T) {
	for state, want := range map[uint8]string{0: "", 1: "TCP_ESTABLISHED", 6: "TCP_TIME_WAIT", 12: "TCP_NEW_SYN_RECV", 200: "TCP_200"} {
		if got := TCPState(state); got != want {
			t.Errorf("state %d is %q, want %q", state, got, want)
		}
	}
}

func TestTCPFlags(t *testing.T) {
	for flags, want := range map[uint8]string{0: "", 0x01: "FIN", 0x12: "SYN,ACK", 0x18: "PSH,ACK", 0xff: "FIN,SYN,RST,PSH,ACK,URG,ECE,CWR"} {
		if got := TCPFlags(flags); got != want {
			t.Errorf("flags %#x are %q, want %q", flags, got, want)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	raw := make([]byte, unsafe.Sizeof(bpf.PacketlossEvent{}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode[bpf.PacketlossEvent](raw); err != nil {
			b.Fatal(err)
		}
	}
}

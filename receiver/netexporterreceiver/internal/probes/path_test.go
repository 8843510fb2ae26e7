// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"encoding/binary"
	"os"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

func FuzzDecodeSocketlatency(f *testing.F) {
	record := make([]byte, unsafe.Sizeof(bpf.SocketlatencyEvent{}))
	f.Add(record)
	f.Add(record[:50])
	unknown := slices.Clone(record)
	binary.NativeEndian.PutUint32(unknown[unsafe.Offsetof(bpf.SocketlatencyEvent{}.Type):], 7)
	f.Add(unknown)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if decodeSocketlatency(raw, &e) == nil && e.Type > 1 {
			t.Fatalf("decoded the unknown type %d", e.Type)
		}
	})
}

func FuzzDecodeNetiftxlat(f *testing.F) {
	record := make([]byte, unsafe.Sizeof(bpf.NetiftxlatEvent{}))
	f.Add(record)
	f.Add(record[:50])
	unknown := slices.Clone(record)
	binary.NativeEndian.PutUint32(unknown[unsafe.Offsetof(bpf.NetiftxlatEvent{}.Type):], 7)
	f.Add(unknown)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if decodeNetiftxlat(raw, &e) == nil && e.Type > 1 {
			t.Fatalf("decoded the unknown type %d", e.Type)
		}
	})
}

func FuzzDecodeKernellatency(f *testing.F) {
	record := make([]byte, unsafe.Sizeof(bpf.KernellatencyEvent{}))
	f.Add(record)
	f.Add(record[:50])
	unknown, tooDeep := slices.Clone(record), slices.Clone(record)
	binary.NativeEndian.PutUint32(unknown[unsafe.Offsetof(bpf.KernellatencyEvent{}.Type):], 7)
	f.Add(unknown)
	binary.NativeEndian.PutUint32(tooDeep[unsafe.Offsetof(bpf.KernellatencyEvent{}.Frames):], 1000)
	f.Add(tooDeep)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if decodeKernellatency(raw, &e) != nil {
			return
		}
		if e.Type > 1 || e.Frames > len(e.Stack) {
			t.Fatalf("decoded the type %d, a stack of %d frames", e.Type, e.Frames)
		}
	})
}

// No device that is here to test with can be made busy. So the programs are run by hand, with addresses at which
// nothing is, in the order in which the kernel would.
func TestXmitIsWhatComesBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	spec, err := bpf.LoadNetiftxlat()
	if err != nil {
		t.Fatal(err)
	}
	delete(spec.Programs, "enqueue__fentry") // it wants to be attached to be loaded
	if err := spec.Variables[bpf.NetiftxlatVarFullHistograms].Set(true); err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	run := func(program string, args ...uint64) {
		t.Helper()
		if _, err := coll.Programs[program].Run(&ebpf.RunOptions{Context: args}); err != nil {
			t.Fatal(err)
		}
	}
	const queue, a, b = 0x1000, 0x100000, 0x200000
	enqueue := func(skb uint64) { t.Helper(); run("enqueue__raw_tp", queue, 0, skb) }
	dequeue := func(skb uint64) { t.Helper(); run("dequeue__raw_tp", queue, 0, 1, skb) }
	expect := func(what string, qdisc, xmit uint64) {
		t.Helper()
		counts, err := probe.ReadPathCounts(probe.Maps(coll.Maps), func(netns.ID) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		if q, x := counts.Latencies[0].Count(), counts.Latencies[1].Count(); q != qdisc || x != xmit {
			t.Errorf("%s: %d waits in the queue, %d for the device, want %d and %d", what, q, x, qdisc, xmit)
		}
	}
	enqueue(a)
	dequeue(a)
	expect("a packet", 1, 0)
	dequeue(a)
	expect("it comes back", 1, 1)
	dequeue(a)
	expect("once more", 1, 2)
	dequeue(0)
	dequeue(a)
	expect("a packet that met no queue, at the address of one that is gone", 1, 2)
	enqueue(a)
	enqueue(b)
	dequeue(a)
	dequeue(b)
	expect("two packets", 3, 2)
	dequeue(a)
	expect("a packet that met no queue", 3, 2)
	dequeue(a)
	expect("it comes back", 3, 3)
}

// The stacks are those of kernels that keep or inline different functions, innermost first.
func TestSection(t *testing.T) {
	socket, qdisc := uint32(bpf.KernellatencyKernelSectionKERNEL_SECTION_SOCKET), uint32(bpf.KernellatencyKernelSectionKERNEL_SECTION_QDISC)
	for _, test := range []struct {
		known       uint32
		stack, want string
	}{
		{socket, "tcp_rcv_established+0x1 tcp_v4_do_rcv+0x1 __release_sock+0x1 release_sock+0x1 tcp_sendmsg+0x1", "SOCKET"},
		{qdisc, "__qdisc_run+0x1 net_tx_action+0x1", "QDISC"},
		{0, "tcp_rcv_established+0x1 tcp_v4_rcv+0x1 ip_protocol_deliver_rcu+0x1 ip_local_deliver_finish+0x1 ip_local_deliver+0x1 ip_rcv_finish+0x1 nf_reinject+0x1 nfqnl_reinject+0x1 nfqnl_recv_verdict+0x1 nfnetlink_rcv_msg+0x1", "PREROUTING"},
		{0, "tcp_rcv_established+0x1 tcp_v6_rcv+0x1 ip6_protocol_deliver_rcu+0x1 ip6_input_finish+0x1 nfqnl_reinject+0x1 nfqnl_recv_verdict+0x1", "LOCAL_IN"},
		{0, "__dev_queue_xmit+0x1 ip_finish_output2+0x1 ip_finish_output+0x1 ip_output+0x1 nfqnl_recv_verdict+0x1", "LOCAL_OUT"},
		{0, "__dev_queue_xmit+0x1 ip6_finish_output2+0x1 ip6_finish_output+0x1 nf_reinject+0x1", "POSTROUTING"},
		{0, "__dev_queue_xmit+0x1 neigh_resolve_output+0x1 __neigh_update+0x1 arp_process+0x1", "NEIGHBOR"},
		{0, "tcp_rcv_established+0x1 tcp_v4_rcv+0x1 ip_local_deliver_finish+0x1 __netif_receive_skb_one_core+0x1 process_backlog+0x1 net_rx_action+0x1", ""},
		{0, "__dev_queue_xmit+0x1 neigh_resolve_output+0x1 ip_finish_output2+0x1 tcp_sendmsg+0x1", ""},
		{0, "nf_reinject+0x1", ""},
		{0, "", ""},
	} {
		if got := section(test.known, test.stack); got != test.want {
			t.Errorf("%d, %q: got %q, want %q", test.known, test.stack, got, test.want)
		}
	}
}

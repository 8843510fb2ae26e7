// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

const dropReasons = "skb_drop_reason"

// PacketLoss counts the packets that the kernel drops, by its reason, and samples those whose loss
// is not their own fault.
func PacketLoss() probe.Definition {
	return probe.Definition{
		Name:    "packetloss",
		Spec:    bpf.LoadPacketloss,
		Enums:   []probe.Enum{{Name: dropReasons, Prefixes: []string{"SKB_DROP_REASON_", "SKB_"}}},
		Tune:    tunePacketloss,
		Collect: collectPacketloss,
		Decode:  decodePacketloss,
		Record:  recordPacketloss,
	}
}

// defaultBenignReasons are the faults of a packet itself (integrity, checksum, not meant for here)
// and the ordinary ends of a packet (consumed, a duplicate, the reset or the last ACK that closed
// a connection), by the names of enum skb_drop_reason (include/net/dropreason-core.h).
func defaultBenignReasons() []string {
	return []string{
		"CONSUMED", "DUP_FRAG", "HDR_TRUNC", "ICMP_CSUM", "INVALID_PROTO", "IPV6_BAD_EXTHDR",
		"IPV6_NDISC_BAD_OPTIONS", "IP_CSUM", "IP_INHDR", "IP_NOPROTO", "NOT_DROPPED_YET", "OTHERHOST",
		"PKT_TOO_SMALL", "QUEUE_PURGE", "SKB_CSUM", "TCP_CSUM", "TCP_OFOMERGE", "TCP_OLD_ACK",
		"TCP_OLD_DATA", "TCP_OLD_SEQUENCE", "TCP_RESET", "TCP_RFC7323_PAWS_ACK", "UDP_CSUM",
		"UNHANDLED_PROTO", "UNICAST_IN_L2_MULTICAST",
	}
}

func tunePacketloss(spec *ebpf.CollectionSpec, n *probe.Names, cfg probe.Config) error {
	benign := cfg.BenignReasons
	if benign == nil {
		benign = defaultBenignReasons()
	}
	verdicts := map[string]bpf.PacketlossVerdict{
		// Also given to multicast that nobody here joined (ip6_mc_input(), the input route), to segments
		// that a TIME_WAIT socket has processed, and to what a closed socket had not read.
		"NOT_SPECIFIED": bpf.PacketlossVerdictVERDICT_LOOK,
		"IP_INNOROUTES": bpf.PacketlossVerdictVERDICT_LOOK,
		"NO_SOCKET":     bpf.PacketlossVerdictVERDICT_NO_SOCKET,
	}
	for _, reason := range benign {
		verdicts[reason] = bpf.PacketlossVerdictVERDICT_BENIGN
	}
	var byValue [256]uint8 // MAX_REASONS of bpf/packetloss.bpf.c
	for reason, verdict := range verdicts {
		// A kernel that does not know the reason does not give it.
		if value, ok := n.Value(dropReasons, reason); ok && int(value) < len(byValue) {
			byValue[value] = uint8(verdict)
		}
	}
	_, reasons := n.Value(dropReasons, "NOT_SPECIFIED")
	if !reasons {
		byValue[0] = uint8(bpf.PacketlossVerdictVERDICT_LOOK) // before 5.17 drops have no reason
	}
	places, err := dropPlaces(n, reasons)
	if err != nil {
		return err
	}
	return errors.Join(
		spec.Variables[bpf.PacketlossVarVerdicts].Set(byValue),
		spec.Variables[bpf.PacketlossVarPlaces].Set(places),
	)
}

// endFunctions drop, without a reason on any kernel, what nobody misses.
func endFunctions() []string {
	return []string{
		// The queues of a socket that is closed.
		"skb_queue_purge", "skb_queue_purge_reason", "__skb_queue_purge_reason", "inet_sock_destruct",
		"udp_destruct_common", "udp_destruct_sock", "udpv6_destruct_sock",
		// A sniffer's copy.
		"packet_rcv", "packet_rcv_spkt", "tpacket_rcv",
		// Called by many a driver for what it has sent.
		"__dev_kfree_skb_any", "dev_kfree_skb_any_reason", "net_tx_action",
	}
}

// faultFunctions drop, on kernels that give no reasons, packets at fault themselves and those that they
// have dealt with.
func faultFunctions() []string {
	return []string{
		"ip_rcv_core", "ip6_rcv_core", // IP_INHDR, IP_CSUM, OTHERHOST
		"ip_protocol_deliver_rcu", "ip6_protocol_deliver_rcu", // IP_NOPROTO
		"__netif_receive_skb_core", // UNHANDLED_PROTO
		"icmp_rcv", "icmpv6_rcv", "igmp_rcv", "ping_rcv",
		"tcp_v4_rcv", "tcp_v6_rcv", "tcp_v4_do_rcv", "tcp_v6_do_rcv", // answered by a reset, or taken
		"kfree_skb_list", // the fragments of a datagram that was read
	}
}

// lossFunctions drop, on kernels that give no reasons, packets that are not at fault themselves,
// whatever they are. As far as they drop others as well (bad checksums), those count as lost, too.
func lossFunctions() []string {
	return []string{
		"nf_hook_slow",                     // NETFILTER_DROP
		"__udp4_lib_rcv", "__udp6_lib_rcv", // NO_SOCKET
		"udp_queue_rcv_one_skb", "__udp_queue_rcv_skb", "udpv6_queue_rcv_one_skb", // SOCKET_RCVBUFF
		"enqueue_to_backlog",                      // CPU_BACKLOG
		"__dev_queue_xmit", "dev_hard_start_xmit", // DEV_READY
		"__neigh_event_send", "arp_error_report", "ndisc_error_report", // NEIGH_QUEUEFULL, NEIGH_FAILED
		"ip_fragment", "ip6_fragment", // PKT_TOO_BIG
	}
}

// dropPlaces are the functions of the running kernel by which a drop without a reason is judged.
func dropPlaces(n *probe.Names, reasons bool) ([64]bpf.PacketlossPlace, error) {
	var places [64]bpf.PacketlossPlace // MAX_PLACES of bpf/packetloss.bpf.c
	verdicts := map[string]bpf.PacketlossVerdict{}
	for _, f := range endFunctions() {
		verdicts[f] = bpf.PacketlossVerdictVERDICT_BENIGN
	}
	if !reasons {
		for _, f := range faultFunctions() {
			verdicts[f] = bpf.PacketlossVerdictVERDICT_BENIGN
		}
		for _, f := range lossFunctions() {
			verdicts[f] = bpf.PacketlossVerdictVERDICT_LOSS
		}
	}
	spans := n.Spans(slices.Collect(maps.Keys(verdicts)))
	if len(spans) >= len(places) {
		return places, fmt.Errorf("room for %d functions that drop packets, this kernel has %d", len(places)-1, len(spans))
	}
	for i := range places[1:] {
		if i < len(spans) {
			places[i+1] = bpf.PacketlossPlace{Start: spans[i].Start, End: spans[i].End, Verdict: uint64(verdicts[spans[i].Name])}
		} else {
			places[i+1] = places[i]
		}
	}
	return places, nil
}

type dropCounts struct {
	probe.Counts[bpf.PacketlossDropKey]
}

func collectPacketloss(maps probe.Maps, alive probe.Alive) (probe.Snapshot, error) {
	counts, err := probe.ReadCounts(maps[bpf.PacketlossMapDrops], func(k *bpf.PacketlossDropKey) netns.ID {
		return netns.ID{Cookie: k.Netns.Cookie, Inode: k.Netns.Inode}
	}, alive)
	return dropCounts{counts}, err
}

func (c dropCounts) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, n *probe.Names) {
	var total, abnormal uint64
	byReason := map[uint32]uint64{}
	for _, count := range c.Counts[id] {
		total += count.N
		if count.Key.Abnormal != 0 {
			abnormal += count.N
		}
		byReason[count.Key.Reason] += count.N
	}
	for reason, packets := range byReason {
		mb.RecordInspectorPodPacketlossByReasonDataPoint(at, int64(packets), n.Enum(dropReasons, reason))
	}
	mb.RecordInspectorPodTotallossDataPoint(at, int64(total))
	mb.RecordInspectorPodPacketlossTotalDataPoint(at, int64(total))
	mb.RecordInspectorPodAbnormalallossDataPoint(at, int64(abnormal))
	mb.RecordInspectorPodPacketlossAbnormalDataPoint(at, int64(abnormal))
}

func decodePacketloss(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.PacketlossEvent](raw)
	if err != nil {
		return err
	}
	if int(rec.Frames) > len(rec.Stack) {
		return fmt.Errorf("decode packetloss: a stack of %d frames", rec.Frames)
	}
	*e = probe.Event{
		Header:   rec.Hdr,
		Reason:   rec.Reason,
		Location: rec.Location,
		Stack:    rec.Stack,
		Frames:   int(rec.Frames),
	}
	return nil
}

func recordPacketloss(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, n *probe.Names) {
	f := probe.FlowOf(&e.Header)
	lb.RecordPACKETLOSSEvent(context.Background(), at, f.DestinationAddress, f.DestinationPort,
		n.Symbol(e.Location), "PACKETLOSS", n.Enum(dropReasons, e.Reason), n.Stack(e.Stack[:e.Frames]),
		int64(e.Header.Suppressed), f.Transport, f.Type, f.SourceAddress, f.SourcePort)
}

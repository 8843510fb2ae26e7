// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// KernelLatency measures how long packets of TCP take from the device to their connection, and from their
// connection to the device.
func KernelLatency() probe.Definition {
	return probe.Definition{
		Name:       "kernellatency",
		OptIn:      true,
		Spec:       bpf.LoadKernellatency,
		Threshold:  100 * time.Millisecond,
		Ticks:      true,
		Histograms: []probe.Histogram{kernelLatency()},
		Collect:    collectKernellatency,
		Decode:     decodeKernellatency,
		Record:     recordKernellatency,
	}
}

func kernelLatency() probe.Histogram {
	return probe.Histogram{
		Name:        "inspector_node_kernellatency",
		Description: "Time that a TCP segment is in the kernel's network layer: from the device to the connection (rx), from the connection to the device (tx).",
		Attribute:   "type",
	}
}

// kernelCounts implements probe.Snapshot.
type kernelCounts struct{ *probe.PathCounts }

func collectKernellatency(maps probe.Maps, alive probe.Alive) (probe.Snapshot, error) {
	counts, err := probe.ReadPathCounts(maps, alive)
	return kernelCounts{counts}, err
}

func (c kernelCounts) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, _ *probe.Names) {
	if id == (netns.ID{}) {
		h := kernelLatency()
		mb.RecordHistogram(at, &h, &c.Latencies[bpf.KernellatencyKernelTypeKERNEL_TYPE_RX], "rx")
		mb.RecordHistogram(at, &h, &c.Latencies[bpf.KernellatencyKernelTypeKERNEL_TYPE_TX], "tx")
		return
	}
	slow := c.Slow(id)
	rx, tx := slow[bpf.KernellatencyKernelTypeKERNEL_TYPE_RX], slow[bpf.KernellatencyKernelTypeKERNEL_TYPE_TX]
	mb.RecordInspectorPodKernellatencyRxslow100msDataPoint(at, rx)
	mb.RecordKernellatencyRxslow100msDataPoint(at, rx)
	mb.RecordInspectorPodKernellatencyTxslow100msDataPoint(at, tx)
	mb.RecordKernellatencyTxslow100msDataPoint(at, tx)
}

func decodeKernellatency(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.KernellatencyEvent](raw)
	if err != nil {
		return err
	}
	switch bpf.KernellatencyKernelType(rec.Type) {
	case bpf.KernellatencyKernelTypeKERNEL_TYPE_RX, bpf.KernellatencyKernelTypeKERNEL_TYPE_TX:
	default:
		return fmt.Errorf("decode kernellatency: unknown type %d", rec.Type)
	}
	if int(rec.Frames) > len(rec.Stack) {
		return fmt.Errorf("decode kernellatency: a stack of %d frames", rec.Frames)
	}
	*e = probe.Event{
		Header:  rec.Hdr,
		Type:    rec.Type,
		Section: rec.Section,
		Latency: bpf.Latency(rec.Latency),
		Stack:   rec.Stack,
		Frames:  int(rec.Frames),
	}
	return nil
}

func recordKernellatency(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, n *probe.Names) {
	name, record := "KERNELLAT_RXSLOW", (*metadata.LogsBuilder).RecordKERNELLATRXSLOWEvent
	if bpf.KernellatencyKernelType(e.Type) == bpf.KernellatencyKernelTypeKERNEL_TYPE_TX {
		name, record = "KERNELLAT_TXSLOW", (*metadata.LogsBuilder).RecordKERNELLATTXSLOWEvent
	}
	f := probe.FlowOf(&e.Header)
	stack := n.Stack(e.Stack[:e.Frames])
	record(lb, context.Background(), at, int64(e.Header.Cpu), f.DestinationAddress, f.DestinationPort,
		int64(e.Latency.Ns), name, section(e.Section, stack), stack, int64(e.Header.Suppressed), f.Transport, f.Type,
		int64(e.Latency.Pid), f.SourceAddress, f.SourcePort, e.Comm())
}

// section names where a packet was delayed, empty if that cannot be told. A packet that waits for something
// else than its turn on a CPU goes on in a call of whoever it waited for, so that the stack tells.
func section(known uint32, stack string) string {
	switch bpf.KernellatencyKernelSection(known) {
	case bpf.KernellatencyKernelSectionKERNEL_SECTION_SOCKET:
		return "SOCKET"
	case bpf.KernellatencyKernelSectionKERNEL_SECTION_QDISC:
		return "QDISC"
	}
	var functions []string // the outermost first
	for frame := range strings.FieldsSeq(stack) {
		function, _, _ := strings.Cut(frame, "+")
		functions = append(functions, function)
	}
	slices.Reverse(functions)
	for i, function := range functions {
		switch {
		case function == "neigh_update", function == "__neigh_update":
			return "NEIGHBOR"
		// A program took it from a netfilter queue and gives it back: what it calls is what comes after the hook.
		case strings.Contains(function, "reinject"), function == "nfqnl_recv_verdict", function == "nfqnl_recv_verdict_batch":
			if hook := hookBefore(functions[i+1:]); hook != "" {
				return hook
			}
		}
	}
	return ""
}

// hookBefore returns the netfilter hook that the first of the called functions comes after.
func hookBefore(called []string) string {
	for _, function := range called {
		switch function {
		case "ip_rcv_finish", "ip6_rcv_finish":
			return "PREROUTING"
		case "ip_local_deliver_finish", "ip6_input_finish":
			return "LOCAL_IN"
		case "dst_output", "ip_output", "ip6_output":
			return "LOCAL_OUT"
		case "ip_finish_output", "ip6_finish_output":
			return "POSTROUTING"
		}
	}
	return ""
}

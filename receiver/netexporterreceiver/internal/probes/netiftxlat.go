// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// NetIfTxLat measures how long packets wait in the queueing discipline of a device, and for a busy device to
// take them.
func NetIfTxLat() probe.Definition {
	return probe.Definition{
		Name:       "netiftxlat",
		OptIn:      true,
		Spec:       bpf.LoadNetiftxlat,
		Threshold:  100 * time.Millisecond,
		Ticks:      true,
		Histograms: []probe.Histogram{netIfTxLat()},
		Collect:    collectNetiftxlat,
		Decode:     decodeNetiftxlat,
		Record:     recordNetiftxlat,
	}
}

func netIfTxLat() probe.Histogram {
	return probe.Histogram{
		Name:        "inspector_node_netiftxlat",
		Description: "Time that a packet is in the queueing discipline of a device (qdisc), and then waits for the device because it is busy (xmit).",
		Attribute:   "type",
	}
}

// netIfTxCounts implements probe.Snapshot.
type netIfTxCounts struct{ *probe.PathCounts }

func collectNetiftxlat(maps probe.Maps, alive probe.Alive) (probe.Snapshot, error) {
	counts, err := probe.ReadPathCounts(maps, alive)
	return netIfTxCounts{counts}, err
}

func (c netIfTxCounts) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, _ *probe.Names) {
	if id == (netns.ID{}) {
		h := netIfTxLat()
		mb.RecordHistogram(at, &h, &c.Latencies[bpf.NetiftxlatNetifTypeNETIF_TYPE_QDISC], "qdisc")
		mb.RecordHistogram(at, &h, &c.Latencies[bpf.NetiftxlatNetifTypeNETIF_TYPE_XMIT], "xmit")
		return
	}
	slow := c.Slow(id)
	mb.RecordInspectorPodNetiftxlatQdiscslow100msDataPoint(at, slow[bpf.NetiftxlatNetifTypeNETIF_TYPE_QDISC])
	mb.RecordInspectorPodNetiftxlatXmitslow100msDataPoint(at, slow[bpf.NetiftxlatNetifTypeNETIF_TYPE_XMIT])
}

func decodeNetiftxlat(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.NetiftxlatEvent](raw)
	if err != nil {
		return err
	}
	switch bpf.NetiftxlatNetifType(rec.Type) {
	case bpf.NetiftxlatNetifTypeNETIF_TYPE_QDISC, bpf.NetiftxlatNetifTypeNETIF_TYPE_XMIT:
	default:
		return fmt.Errorf("decode netiftxlat: unknown type %d", rec.Type)
	}
	*e = probe.Event{Header: rec.Hdr, Type: rec.Type, Latency: bpf.Latency(rec.Latency)}
	return nil
}

func recordNetiftxlat(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, _ *probe.Names) {
	name, record := "NETIFTXLAT_QDISC", (*metadata.LogsBuilder).RecordNETIFTXLATQDISCEvent
	if bpf.NetiftxlatNetifType(e.Type) == bpf.NetiftxlatNetifTypeNETIF_TYPE_XMIT {
		name, record = "NETIFTXLAT_XMIT", (*metadata.LogsBuilder).RecordNETIFTXLATXMITEvent
	}
	f := probe.FlowOf(&e.Header)
	record(lb, context.Background(), at, int64(e.Header.Cpu), f.DestinationAddress, f.DestinationPort,
		int64(e.Latency.Ns), name, int64(e.Header.Suppressed), f.Transport, f.Type, int64(e.Latency.Pid),
		f.SourceAddress, f.SourcePort, e.Comm())
}

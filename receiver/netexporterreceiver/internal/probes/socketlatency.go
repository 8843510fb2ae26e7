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

// SocketLatency measures how long processes leave unread what has arrived, and how long what they write
// waits until TCP sends it.
func SocketLatency() probe.Definition {
	return probe.Definition{
		Name:       "socketlatency",
		OptIn:      true,
		Spec:       bpf.LoadSocketlatency,
		Threshold:  100 * time.Millisecond,
		Ticks:      true,
		Histograms: []probe.Histogram{socketLatency()},
		Collect:    collectSocketlatency,
		Decode:     decodeSocketlatency,
		Record:     recordSocketlatency,
	}
}

func socketLatency() probe.Histogram {
	return probe.Histogram{
		Name:        "inspector_node_socketlatency",
		Description: "Time until a process has looked at what arrived (read), and until the first of what it wrote is sent (write).",
		Attribute:   "type",
	}
}

// socketCounts implements probe.Snapshot.
type socketCounts struct{ *probe.PathCounts }

func collectSocketlatency(maps probe.Maps, alive probe.Alive) (probe.Snapshot, error) {
	counts, err := probe.ReadPathCounts(maps, alive)
	return socketCounts{counts}, err
}

func (c socketCounts) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, _ *probe.Names) {
	if id == (netns.ID{}) {
		h := socketLatency()
		mb.RecordHistogram(at, &h, &c.Latencies[bpf.SocketlatencySocketTypeSOCKET_TYPE_READ], "read")
		mb.RecordHistogram(at, &h, &c.Latencies[bpf.SocketlatencySocketTypeSOCKET_TYPE_WRITE], "write")
		return
	}
	slow := c.Slow(id)
	mb.RecordInspectorPodSocketlatencyread100msDataPoint(at, slow[bpf.SocketlatencySocketTypeSOCKET_TYPE_READ])
	mb.RecordInspectorPodSocketlatencywrite100msDataPoint(at, slow[bpf.SocketlatencySocketTypeSOCKET_TYPE_WRITE])
}

func decodeSocketlatency(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.SocketlatencyEvent](raw)
	if err != nil {
		return err
	}
	switch bpf.SocketlatencySocketType(rec.Type) {
	case bpf.SocketlatencySocketTypeSOCKET_TYPE_READ, bpf.SocketlatencySocketTypeSOCKET_TYPE_WRITE:
	default:
		return fmt.Errorf("decode socketlatency: unknown type %d", rec.Type)
	}
	*e = probe.Event{Header: rec.Hdr, Type: rec.Type, Latency: bpf.Latency(rec.Latency)}
	return nil
}

func recordSocketlatency(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, _ *probe.Names) {
	name, record := "SOCKETLAT_READSLOW", (*metadata.LogsBuilder).RecordSOCKETLATREADSLOWEvent
	if bpf.SocketlatencySocketType(e.Type) == bpf.SocketlatencySocketTypeSOCKET_TYPE_WRITE {
		name, record = "SOCKETLAT_WRITESLOW", (*metadata.LogsBuilder).RecordSOCKETLATWRITESLOWEvent
	}
	f := probe.FlowOf(&e.Header)
	record(lb, context.Background(), at, int64(e.Header.Cpu), f.DestinationAddress, f.DestinationPort,
		int64(e.Latency.Ns), name, int64(e.Header.Suppressed), f.Transport, f.Type, int64(e.Latency.Pid),
		f.SourceAddress, f.SourcePort, probe.TCPState(e.Header.Flow.State), e.Comm())
}

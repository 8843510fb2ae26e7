// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// TCPTwRcv counts and reports the segments that arrive for connections in TIME_WAIT.
func TCPTwRcv() probe.Definition {
	return probe.Definition{
		Name:    "tcptwrcv",
		Spec:    bpf.LoadTcptwrcv,
		Collect: collectTcptwrcv,
		Decode:  decodeTcptwrcv,
		Record:  recordTcptwrcv,
	}
}

type timeWaitCounts struct {
	probe.Counts[bpf.TcptwrcvSegmentKey]
}

func collectTcptwrcv(maps probe.Maps, alive probe.Alive) (probe.Snapshot, error) {
	counts, err := probe.ReadCounts(maps[bpf.TcptwrcvMapSegments], func(k *bpf.TcptwrcvSegmentKey) netns.ID {
		return netns.ID{Cookie: k.Netns.Cookie, Inode: k.Netns.Inode}
	}, alive)
	return timeWaitCounts{counts}, err
}

func (c timeWaitCounts) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, _ *probe.Names) {
	var segments uint64
	for _, count := range c.Counts[id] {
		segments += count.N
	}
	mb.RecordInspectorPodTcptwrcvDataPoint(at, int64(segments))
}

func decodeTcptwrcv(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.TcptwrcvEvent](raw)
	if err != nil {
		return err
	}
	*e = probe.Event{Header: rec.Hdr}
	return nil
}

func recordTcptwrcv(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, _ *probe.Names) {
	f := probe.FlowOf(&e.Header)
	lb.RecordTCPTWRCVEvent(context.Background(), at, f.DestinationAddress, f.DestinationPort,
		"TCP_TW_RCV", int64(e.Header.Suppressed), f.Transport, f.Type,
		f.SourceAddress, f.SourcePort, probe.TCPFlags(e.Header.Flow.TcpFlags), probe.TCPState(e.Header.Flow.State))
}

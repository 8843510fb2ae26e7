// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"
	"fmt"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

const resetReasons = "sk_rst_reason"

// TCPReset counts and reports the TCP resets that are sent and received, in six classes.
func TCPReset() probe.Definition {
	return probe.Definition{
		Name:    "tcpreset",
		Spec:    bpf.LoadTcpreset,
		Enums:   []probe.Enum{{Name: resetReasons, Prefixes: []string{"SK_RST_REASON_"}}},
		Collect: collectTcpreset,
		Decode:  decodeTcpreset,
		Record:  recordTcpreset,
	}
}

// resetClass is what a class of resets is called and how its event is recorded.
type resetClass struct {
	name string
	// sent is false for resets that are received: only the sender has a reason.
	sent   bool
	record func(lb *metadata.LogsBuilder, ctx context.Context, at pcommon.Timestamp, destinationAddress string,
		destinationPort int64, name, reason string, suppressed int64, transport, networkType, sourceAddress string,
		sourcePort int64, state string)
}

func resetClassOf(t uint32) (resetClass, bool) {
	switch bpf.TcpresetResetType(t) {
	case bpf.TcpresetResetTypeRESET_TYPE_NOSOCK:
		return resetClass{"TCPRESET_NOSOCK", true, (*metadata.LogsBuilder).RecordTCPRESETNOSOCKEvent}, true
	case bpf.TcpresetResetTypeRESET_TYPE_ACTIVE:
		return resetClass{"TCPRESET_ACTIVE", true, (*metadata.LogsBuilder).RecordTCPRESETACTIVEEvent}, true
	case bpf.TcpresetResetTypeRESET_TYPE_PROCESS:
		return resetClass{"TCPRESET_PROCESS", true, (*metadata.LogsBuilder).RecordTCPRESETPROCESSEvent}, true
	case bpf.TcpresetResetTypeRESET_TYPE_RCV_SYN:
		return resetClass{"TCP_RCV_RST_SYN", false, (*metadata.LogsBuilder).RecordTCPRCVRSTSYNEvent}, true
	case bpf.TcpresetResetTypeRESET_TYPE_RCV_ESTAB:
		return resetClass{"TCP_RCV_RST_ESTAB", false, (*metadata.LogsBuilder).RecordTCPRCVRSTESTABEvent}, true
	case bpf.TcpresetResetTypeRESET_TYPE_RCV_TW:
		return resetClass{"TCP_RCV_RST_TW", false, (*metadata.LogsBuilder).RecordTCPRCVRSTTWEvent}, true
	}
	return resetClass{}, false
}

// reason names the reason of a reset of this class.
func (c resetClass) reason(n *probe.Names, reason uint32) string {
	if !c.sent {
		return ""
	}
	return n.Enum(resetReasons, reason)
}

type resetCounts struct {
	probe.Counts[bpf.TcpresetResetKey]
}

func collectTcpreset(maps probe.Maps, alive probe.Alive) (probe.Snapshot, error) {
	counts, err := probe.ReadCounts(maps[bpf.TcpresetMapResets], func(k *bpf.TcpresetResetKey) netns.ID {
		return netns.ID{Cookie: k.Netns.Cookie, Inode: k.Netns.Inode}
	}, alive)
	return resetCounts{counts}, err
}

func (c resetCounts) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, n *probe.Names) {
	for _, count := range c.Counts[id] {
		if class, ok := resetClassOf(count.Key.Type); ok {
			mb.RecordInspectorPodTcpresetDataPoint(at, int64(count.N), class.reason(n, count.Key.Reason), class.name)
		}
	}
}

func decodeTcpreset(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.TcpresetEvent](raw)
	if err != nil {
		return err
	}
	if _, ok := resetClassOf(rec.Type); !ok {
		return fmt.Errorf("decode tcpreset: unknown type %d", rec.Type)
	}
	*e = probe.Event{Header: rec.Hdr, Type: rec.Type, Reason: rec.Reason}
	return nil
}

func recordTcpreset(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, n *probe.Names) {
	class, _ := resetClassOf(e.Type)
	f := probe.FlowOf(&e.Header)
	class.record(lb, context.Background(), at, f.DestinationAddress, f.DestinationPort,
		class.name, class.reason(n, e.Reason), int64(e.Header.Suppressed), f.Transport, f.Type,
		f.SourceAddress, f.SourcePort, probe.TCPState(e.Header.Flow.State))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"maps"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

type names struct{}

func (names) Names(enum string, _ ...string) map[uint32]string {
	if enum == dropReasons {
		return map[uint32]string{3: "NO_SOCKET", 16: "NETFILTER_DROP"}
	}
	return map[uint32]string{1: "NO_SOCKET"}
}

func (names) Value(string) (uint64, bool) { return 0, false }

func (names) Spans([]string) []kernel.Span { return nil }

func (names) Append(dst []byte, _ uint64) []byte { return dst }

// recorded returns the data points of a namespace as "name|type|reason|vector", of histograms the count as
// "name_count|vector".
func recorded(s probe.Snapshot, id netns.ID) map[string]int64 {
	mb := probe.NewMetricsBuilder(metadata.NewDefaultMetricsBuilderConfig(), receivertest.NewNopSettings(metadata.Type), 0, true)
	s.Record(mb, pcommon.Timestamp(1), id, probe.NewNames(names{}, names{}, All()))
	got := map[string]int64{}
	mb.EmitForResource(pcommon.NewResource())
	for _, rm := range mb.Emit().ResourceMetrics().All() {
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			if m.Type() == pmetric.MetricTypeHistogram {
				for _, dp := range m.Histogram().DataPoints().All() {
					got[series(m.Name()+"_count", dp.Attributes())] = int64(dp.Count())
				}
				continue
			}
			for _, dp := range m.Sum().DataPoints().All() {
				got[series(m.Name(), dp.Attributes())] = dp.IntValue()
			}
		}
	}
	return got
}

func series(name string, attrs pcommon.Map) string {
	for _, key := range []string{"type", "reason", "vector"} {
		if v, ok := attrs.Get(key); ok {
			name += "|" + v.Str()
		}
	}
	return name
}

func expect(t *testing.T, got, want map[string]int64) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestRecordDrops(t *testing.T) {
	here, elsewhere := netns.ID{Cookie: 1, Inode: 1}, netns.ID{Cookie: 2, Inode: 1}
	s := dropCounts{probe.Counts[bpf.PacketlossDropKey]{here: {
		{Key: bpf.PacketlossDropKey{Reason: 3, Abnormal: 1}, N: 5},
		{Key: bpf.PacketlossDropKey{Reason: 3}, N: 2},
		{Key: bpf.PacketlossDropKey{Reason: 16, Abnormal: 1}, N: 1},
		{Key: bpf.PacketlossDropKey{Reason: 70000, Abnormal: 1}, N: 1},
	}}}
	expect(t, recorded(s, here), map[string]int64{
		"inspector_pod_totalloss":                           9,
		"inspector_pod_packetloss_total":                    9,
		"inspector_pod_abnormalalloss":                      7,
		"inspector_pod_packetloss_abnormal":                 7,
		"inspector_pod_packetloss_by_reason|NO_SOCKET":      7,
		"inspector_pod_packetloss_by_reason|NETFILTER_DROP": 1,
		"inspector_pod_packetloss_by_reason|0x11170":        1, // a subsystem's reason has no name in the enum
	})
	expect(t, recorded(s, elsewhere), map[string]int64{
		"inspector_pod_totalloss":           0,
		"inspector_pod_packetloss_total":    0,
		"inspector_pod_abnormalalloss":      0,
		"inspector_pod_packetloss_abnormal": 0,
	})
}

func TestRecordResets(t *testing.T) {
	here := netns.ID{Cookie: 1, Inode: 1}
	s := resetCounts{probe.Counts[bpf.TcpresetResetKey]{here: {
		{Key: bpf.TcpresetResetKey{Type: 1, Reason: 1}, N: 3},
		{Key: bpf.TcpresetResetKey{Type: 5}, N: 2},
	}}}
	expect(t, recorded(s, here), map[string]int64{
		"inspector_pod_tcpreset|TCPRESET_NOSOCK|NO_SOCKET": 3,
		"inspector_pod_tcpreset|TCP_RCV_RST_ESTAB|":        2,
	})
	expect(t, recorded(s, netns.ID{}), map[string]int64{})
}

func TestRecordTimeWait(t *testing.T) {
	here := netns.ID{Cookie: 1, Inode: 1}
	s := timeWaitCounts{probe.Counts[bpf.TcptwrcvSegmentKey]{here: {{N: 3}}}}
	expect(t, recorded(s, here), map[string]int64{"inspector_pod_tcptwrcv": 3})
	expect(t, recorded(s, netns.ID{Cookie: 2}), map[string]int64{"inspector_pod_tcptwrcv": 0})
}

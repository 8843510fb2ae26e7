// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
)

func TestBounds(t *testing.T) {
	b := bounds()
	require.Len(t, b, 26)
	assert.InDelta(t, 1e-6, b[0], 0)
	assert.InDelta(t, 0.032768, b[15], 0)
	assert.InDelta(t, 0.262144, b[18], 0)
	assert.InDelta(t, 33.554432, b[25], 0)
}

func TestMetricsBuilder(t *testing.T) {
	for _, documented := range []bool{true, false} {
		b := NewMetricsBuilder(metadata.NewDefaultMetricsBuilderConfig(), receivertest.NewNopSettings(metadata.Type), 7, documented)
		var l Latencies
		l.Add(&bpf.Histogram{SumNs: 1_500_000_000, Slow: 1, Buckets: [27]uint64{3: 2, 26: 1}})
		l.Add(&bpf.Histogram{SumNs: 1_000_000_000, Slow: 2, Buckets: [27]uint64{3: 4}})
		assert.EqualValues(t, 3, l.Slow)
		two := Histogram{Name: "well", Documented: "misspelt", Description: "What took long.", Attribute: "vector"}
		one := Histogram{Name: "plain", Description: "Another."}
		for range 2 { // a builder is used for many passes
			b.RecordHistogram(9, &two, &l, "A")
			b.RecordHistogram(9, &two, &Latencies{}, "B")
			b.RecordHistogram(9, &one, &l, "")
			b.RecordInspectorPodTotallossDataPoint(9, 1)
			res := pcommon.NewResource()
			res.Attributes().PutStr("host.name", "n")
			b.EmitForResource(res)
			b.EmitForResource(pcommon.NewResource()) // nothing recorded, nothing emitted

			got := map[string]pmetric.Metric{}
			for _, rm := range b.Emit().ResourceMetrics().All() {
				assert.Equal(t, map[string]any{"host.name": "n"}, rm.Resource().Attributes().AsRaw())
				require.Equal(t, 1, rm.ScopeMetrics().Len())
				assert.Equal(t, metadata.ScopeName, rm.ScopeMetrics().At(0).Scope().Name())
				for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
					got[m.Name()] = m
				}
			}
			descriptions := map[string]string{"well": "What took long.", "plain": "Another."}
			if documented {
				descriptions["misspelt"] = "What took long (documented spelling of well)."
			}
			require.Len(t, got, len(descriptions)+1)
			for name, description := range descriptions {
				require.Contains(t, got, name)
				assert.Equal(t, description, got[name].Description())
				assert.Equal(t, "s", got[name].Unit())
				dp := got[name].Histogram().DataPoints().At(0)
				assert.EqualValues(t, 7, dp.StartTimestamp())
				assert.EqualValues(t, 9, dp.Timestamp())
				assert.EqualValues(t, 7, dp.Count())
				assert.InDelta(t, 2.5, dp.Sum(), 0)
				assert.Equal(t, bounds(), dp.ExplicitBounds().AsRaw())
				assert.EqualValues(t, 6, dp.BucketCounts().At(3))
				assert.EqualValues(t, 1, dp.BucketCounts().At(26))
				want := map[string]any{"vector": "A"}
				if name == "plain" {
					want = map[string]any{}
				}
				assert.Equal(t, want, dp.Attributes().AsRaw())
			}
			assert.Equal(t, 2, got["well"].Histogram().DataPoints().Len())
		}
	}
}

func TestComm(t *testing.T) {
	var e Event
	assert.Empty(t, e.Comm())
	for i, c := range []byte("sixteen letters!") {
		e.Latency.Comm[i] = int8(c)
	}
	assert.Equal(t, "sixteen letters!", e.Comm())
	e.Latency.Comm[3] = 0
	assert.Equal(t, "six", e.Comm())
}

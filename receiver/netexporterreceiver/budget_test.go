// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.yaml.in/yaml/v3"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probes"
)

// passOf makes the metrics of a pass: two counters and a gauge a namespace, whose cookies are the keys.
func passOf(values map[uint64][3]int64) pmetric.Metrics {
	md := pmetric.NewMetrics()
	for cookie, v := range values {
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("host.name", "worker-1")
		rm.Resource().Attributes().PutInt("network.netns.inode", int64(4026531840+cookie))
		rm.Resource().Attributes().PutInt("network.netns.cookie", int64(cookie))
		ms := rm.ScopeMetrics().AppendEmpty().Metrics()
		for i, name := range []string{"a", "b"} {
			m := ms.AppendEmpty()
			m.SetName(name)
			m.SetEmptySum().SetIsMonotonic(true)
			m.Sum().DataPoints().AppendEmpty().SetIntValue(v[i])
		}
		m := ms.AppendEmpty()
		m.SetName("g")
		m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(v[2])
	}
	return md
}

// byCookie returns the values of each namespace, 0 for other.
func byCookie(md pmetric.Metrics) map[uint64]map[string]int64 {
	got := map[uint64]map[string]int64{}
	eachPoint(md, func(ns uint64, m pmetric.Metric, dp pmetric.NumberDataPoint) {
		if got[ns] == nil {
			got[ns] = map[string]int64{}
		}
		got[ns][m.Name()] = dp.IntValue()
	})
	return got
}

func TestBudgetNotReached(t *testing.T) {
	md := passOf(map[uint64][3]int64{1: {0, 0, 0}, 2: {1, 2, 3}})
	for _, limit := range []int{0, 6} {
		b := newBudget(limit)
		assert.Equal(t, spent{served: 6}, applyTo(b, md))
		assert.Equal(t, 6, md.DataPointCount())
	}
}

func TestBudgetLeavesOutIdleZerosFirst(t *testing.T) {
	b := newBudget(7)
	// Nobody is known to be idle in the first pass: the youngest is folded.
	first := passOf(map[uint64][3]int64{1: {5, 0, 1}, 2: {0, 0, 0}, 3: {1, 0, 0}})
	assert.Equal(t, spent{served: 6, folded: 6}, applyTo(b, first))
	second := passOf(map[uint64][3]int64{1: {5, 0, 1}, 2: {0, 0, 0}, 3: {2, 0, 0}})
	assert.Equal(t, spent{served: 5, zeros: 4}, applyTo(b, second))
	assert.Equal(t, map[uint64]map[string]int64{
		1: {"a": 5, "g": 1},
		3: {"a": 2, "b": 0, "g": 0}, // it has moved: its zeros are news
	}, byCookie(second))
}

func TestBudgetFoldsTheYoungest(t *testing.T) {
	b := newBudget(6)
	md := passOf(map[uint64][3]int64{1: {10, 20, 1}, 2: {100, 200, 2}, 3: {1000, 2000, 3}})
	assert.Equal(t, spent{served: 6, folded: 6}, applyTo(b, md))
	assert.Equal(t, map[uint64]map[string]int64{1: {"a": 10, "b": 20, "g": 1}, 0: {"a": 1100, "b": 2200, "g": 5}}, byCookie(md))
	other := md.ResourceMetrics().At(md.ResourceMetrics().Len() - 1).Resource().Attributes().AsRaw()
	assert.Equal(t, map[string]any{"host.name": "worker-1", "network.netns.folded": int64(2)}, other)

	// One of them goes and another comes: the counters of other do not go back, its gauges do.
	md = passOf(map[uint64][3]int64{1: {11, 20, 1}, 3: {1001, 2000, 4}, 4: {7, 0, 0}})
	applyTo(b, md)
	assert.Equal(t, map[string]int64{"a": 1108, "b": 2200, "g": 4}, byCookie(md)[0])
}

func applyTo(b *budget, md pmetric.Metrics) spent { return b.apply(md, seriesCount(md)) }

// What a namespace did under its own name is not told again when it is folded.
func TestBudgetFoldsWithoutCountingTwice(t *testing.T) {
	b := newBudget(6)
	applyTo(b, passOf(map[uint64][3]int64{1: {1, 1, 1}, 2: {500, 1, 1}}))
	md := passOf(map[uint64][3]int64{1: {1, 1, 1}, 2: {501, 2, 1}, 3: {2, 3, 1}})
	applyTo(b, md)
	assert.Equal(t, map[string]int64{"a": 2, "b": 3, "g": 2}, byCookie(md)[0])
	md = passOf(map[uint64][3]int64{1: {1, 1, 1}, 2: {504, 2, 1}, 3: {2, 3, 1}})
	applyTo(b, md)
	assert.Equal(t, int64(5), byCookie(md)[0]["a"])
}

// The same holds for a namespace that was served while the limit was far.
func TestBudgetFoldsAtOnceWithoutCountingTwice(t *testing.T) {
	b := newBudget(12)
	applyTo(b, passOf(map[uint64][3]int64{1: {1, 1, 1}, 5: {500, 1, 1}}))
	md := passOf(map[uint64][3]int64{1: {1, 1, 1}, 2: {1, 1, 1}, 3: {1, 1, 1}, 4: {1, 1, 1}, 5: {501, 1, 1}})
	applyTo(b, md)
	assert.Equal(t, map[string]int64{"a": 1, "b": 1, "g": 2}, byCookie(md)[0], "namespaces 4, which is new, and 5")
}

// A histogram is as many series as Prometheus makes of it; it is of the node, which gives way to nobody.
func TestBudgetOfHistograms(t *testing.T) {
	pass := func() pmetric.Metrics {
		md := passOf(map[uint64][3]int64{1: {1, 1, 1}, 2: {2, 2, 2}})
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("host.name", "worker-1")
		m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		m.SetName("h")
		dp := m.SetEmptyHistogram().DataPoints().AppendEmpty()
		dp.ExplicitBounds().FromRaw([]float64{1})
		dp.BucketCounts().FromRaw([]uint64{0, 0})
		return md
	}
	assert.Equal(t, spent{served: 10}, newBudget(0).apply(pass(), 10), "two buckets, sum and count")
	assert.Equal(t, spent{served: 10}, newBudget(100).apply(pass(), 10), "far from the limit")
	assert.Equal(t, spent{served: 10}, newBudget(10).apply(pass(), 10), "close to it")
	b := newBudget(9)
	for range 2 {
		md := pass()
		s := applyTo(b, md)
		assert.Positive(t, s.folded)
		assert.EqualValues(t, seriesCount(md), s.served)
		histograms := 0
		eachHistogram(md, func(pmetric.HistogramDataPoint) { histograms++ })
		assert.Equal(t, 1, histograms)
	}
}

func TestMaxSeries(t *testing.T) {
	r := start(t, func(c *Config) { c.MaxSeries = 300 })
	for range 12 {
		r.see(t, nettest.NewNamespace(t))
	}
	r.pass(t)
	metrics, err := r.agent.collect(t.Context())
	require.NoError(t, err)
	assert.LessOrEqual(t, metrics.DataPointCount(), 300)
	state := r.self(t, "otelcol_netexporter.series", "state")
	assert.EqualValues(t, metrics.DataPointCount(), state["/served"])
	assert.Positive(t, state["/zero_left_out"])
}

// All series of a pass are told: of quiet and of busy namespaces, of the node, and histograms.
func TestSeriesServed(t *testing.T) {
	r := start(t, everyProbe)
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, false)
	r.see(t, p.A)
	r.pass(t)
	metrics, err := r.agent.collect(t.Context())
	require.NoError(t, err)
	assert.EqualValues(t, seriesCount(metrics), r.self(t, "otelcol_netexporter.series", "state")["/served"])
}

// The switch turns off exactly the names that metadata.yaml, or a histogram, calls a documented spelling.
func TestDocumentedSpellings(t *testing.T) {
	raw, err := os.ReadFile("metadata.yaml")
	require.NoError(t, err)
	var doc struct {
		Metrics map[string]struct {
			Description string `yaml:"description"`
		} `yaml:"metrics"`
	}
	require.NoError(t, yaml.Unmarshal(raw, &doc))
	canonical := map[string]string{} // by the documented name
	for name, m := range doc.Metrics {
		if _, well, misspelt := strings.Cut(m.Description, "documented spelling of "); misspelt {
			canonical[name] = strings.TrimSuffix(well, ").")
		}
	}
	for _, d := range probes.All() {
		if d.Name == "virtcmdlatency" && !canTraceVirtio() {
			continue
		}
		for _, h := range d.Histograms {
			if h.Documented != "" {
				canonical[h.Documented] = h.Name
			}
		}
	}
	require.NotEmpty(t, canonical)

	p := nettest.New(t)
	p.B.Hold(t)
	for _, documented := range []bool{false, true} {
		r := start(t, func(c *Config) {
			everyProbe(c)
			c.DocumentedSpellings = documented
		})
		metrics, err := r.agent.collect(t.Context())
		require.NoError(t, err)
		served := map[string]bool{}
		for _, rm := range metrics.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					served[m.Name()] = true
				}
			}
		}
		for misspelt, well := range canonical {
			assert.True(t, served[well], well)
			assert.Equal(t, documented, served[misspelt], misspelt)
		}
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
)

// Histogram declares a metric that is a cumulative histogram of durations in seconds. It is the only
// kind of metric that is not in metadata.yaml: mdatagen writes no builder for it.
//
// A histogram is a fact of the node: its probe records it for the zero namespace alone. It has far more
// series than a counter, too many to have them once a namespace.
type Histogram struct {
	Name        string
	Description string
	// Documented is the name under which it is documented if that is misspelt, else empty. It is served
	// under both.
	Documented string
	// Attribute is the key of its only attribute, empty if it has none.
	Attribute string
}

// Latencies are the buckets of a histogram, summed up over CPUs.
type Latencies struct {
	// Slow is how many took longer than 100 ms.
	Slow uint64

	sumNs   uint64
	buckets [len(bpf.Histogram{}.Buckets)]uint64
}

// Add adds what one CPU has measured.
func (l *Latencies) Add(h *bpf.Histogram) {
	l.Slow += h.Slow
	l.sumNs += h.SumNs
	for i, n := range h.Buckets {
		l.buckets[i] += n
	}
}

// Count returns the number of latencies.
func (l *Latencies) Count() (n uint64) {
	for _, in := range l.buckets {
		n += in
	}
	return n
}

// bounds returns the upper bounds of the buckets in seconds: the powers of two of a microsecond, as in
// bpf/include/latency.h. The last bucket has none.
func bounds() []float64 {
	bounds := make([]float64, len(Latencies{}.buckets)-1)
	for i := range bounds {
		bounds[i] = float64(uint64(1)<<i) / 1e6
	}
	return bounds
}

// MetricsBuilder is the generated builder with histograms.
type MetricsBuilder struct {
	*metadata.MetricsBuilder

	start      pcommon.Timestamp
	version    string
	documented bool

	bounds  []float64
	current pmetric.MetricSlice // of the resource that is being recorded
	emitted pmetric.ResourceMetricsSlice
}

// NewMetricsBuilder returns a builder of sums and histograms that began at start. It serves documented
// names that are misspelt, too, if documented is true.
func NewMetricsBuilder(cfg metadata.MetricsBuilderConfig, set receiver.Settings, start pcommon.Timestamp, documented bool) *MetricsBuilder {
	return &MetricsBuilder{
		MetricsBuilder: metadata.NewMetricsBuilder(cfg, set, metadata.WithStartTime(start)),
		start:          start,
		version:        set.BuildInfo.Version,
		documented:     documented,
		bounds:         bounds(),
		current:        pmetric.NewMetricSlice(),
		emitted:        pmetric.NewResourceMetricsSlice(),
	}
}

// RecordHistogram adds a data point to a histogram; value is that of its attribute, if it has one.
func (b *MetricsBuilder) RecordHistogram(at pcommon.Timestamp, h *Histogram, l *Latencies, value string) {
	b.record(at, h, h.Name, h.Description, l, value)
	if h.Documented != "" && b.documented {
		b.record(at, h, h.Documented, fmt.Sprintf("%s (documented spelling of %s).", h.Description[:len(h.Description)-1], h.Name), l, value)
	}
}

func (b *MetricsBuilder) record(at pcommon.Timestamp, h *Histogram, name, description string, l *Latencies, value string) {
	dp := b.metric(name, description).Histogram().DataPoints().AppendEmpty()
	dp.SetStartTimestamp(b.start)
	dp.SetTimestamp(at)
	if h.Attribute != "" {
		dp.Attributes().PutStr(h.Attribute, value)
	}
	dp.ExplicitBounds().FromRaw(b.bounds)
	dp.BucketCounts().FromRaw(l.buckets[:])
	dp.SetCount(l.Count())
	dp.SetSum(float64(l.sumNs) / 1e9)
}

// metric returns the metric of that name of the current resource.
func (b *MetricsBuilder) metric(name, description string) pmetric.Metric {
	for _, m := range b.current.All() {
		if m.Name() == name {
			return m
		}
	}
	m := b.current.AppendEmpty()
	m.SetName(name)
	m.SetDescription(description)
	m.SetUnit("s")
	m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	return m
}

// EmitForResource closes what was recorded since it was last called: it is of res.
func (b *MetricsBuilder) EmitForResource(res pcommon.Resource) {
	b.MetricsBuilder.EmitForResource(metadata.WithResource(res))
	if b.current.Len() == 0 {
		return
	}
	rm := b.emitted.AppendEmpty()
	res.CopyTo(rm.Resource())
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(metadata.ScopeName)
	sm.Scope().SetVersion(b.version)
	b.current.MoveAndAppendTo(sm.Metrics())
}

// Emit returns what was emitted for all resources.
func (b *MetricsBuilder) Emit() pmetric.Metrics {
	metrics := b.MetricsBuilder.Emit()
	b.emitted.MoveAndAppendTo(metrics.ResourceMetrics())
	return metrics
}

// ReadPerCPU returns the only element of a per-CPU array as each CPU has it.
func ReadPerCPU[T any](m *ebpf.Map) ([]T, error) {
	var values []T
	if err := m.Lookup(uint32(0), &values); err != nil {
		return nil, fmt.Errorf("read %s: %w", m, err)
	}
	return values, nil
}

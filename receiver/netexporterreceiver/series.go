// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// seriesWriter writes the counters of namespaces as OTLP. It knows of them what the generated builder
// makes of them, and is for the many: the builder buffers each metric, and moves it to another for
// each resource, which for a thousand namespaces is a tenth of a pass.
type seriesWriter struct {
	counters [][]pmetric.Metric // for each counter the metrics that it becomes, without points
	most     int                // metrics of a namespace
	start    pcommon.Timestamp
	schema   string
	scope    pcommon.InstrumentationScope
}

// newSeriesWriter asks builder, which must be empty, what it makes of each counter.
func newSeriesWriter(builder *metadata.MetricsBuilder, counters []probe.Counter) *seriesWriter {
	w := &seriesWriter{counters: make([][]pmetric.Metric, len(counters)), scope: pcommon.NewInstrumentationScope()}
	for i, c := range counters {
		for _, record := range c.Record {
			record(builder, 0, 0)
		}
		for _, rm := range builder.Emit().ResourceMetrics().All() {
			w.schema = rm.SchemaUrl()
			for _, sm := range rm.ScopeMetrics().All() {
				sm.Scope().CopyTo(w.scope)
				for _, m := range sm.Metrics().All() {
					w.start = pointsOf(m).At(0).StartTimestamp()
					w.counters[i] = append(w.counters[i], m)
					w.most++
				}
			}
		}
	}
	return w
}

// begin takes over a resource and returns it with what takes its metrics: those of the counters, and some more.
func (w *seriesWriter) begin(resource pcommon.Resource, more int) (pmetric.ResourceMetrics, pmetric.MetricSlice) {
	rm := pmetric.NewResourceMetrics()
	rm.SetSchemaUrl(w.schema)
	resource.MoveTo(rm.Resource())
	sm := rm.ScopeMetrics().AppendEmpty()
	w.scope.CopyTo(sm.Scope())
	sm.Metrics().EnsureCapacity(w.most + more)
	return rm, sm.Metrics()
}

// add appends the metrics of a counter.
func (w *seriesWriter) add(to pmetric.MetricSlice, counter int, at pcommon.Timestamp, value int64) {
	for _, like := range w.counters[counter] {
		dp := appendLike(to, like).AppendEmpty()
		dp.SetStartTimestamp(w.start)
		dp.SetTimestamp(at)
		dp.SetIntValue(value)
	}
}

// appendLike appends a sum or gauge like another, and returns its points, of which there are none.
func appendLike(to pmetric.MetricSlice, like pmetric.Metric) pmetric.NumberDataPointSlice {
	m := to.AppendEmpty()
	m.SetName(like.Name())
	m.SetDescription(like.Description())
	m.SetUnit(like.Unit())
	if like.Type() == pmetric.MetricTypeGauge {
		return m.SetEmptyGauge().DataPoints()
	}
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(like.Sum().IsMonotonic())
	sum.SetAggregationTemporality(like.Sum().AggregationTemporality())
	return sum.DataPoints()
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"cmp"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// budget keeps the number of series that a node serves below a limit. What is over it goes in two
// steps: first the zeros of namespaces in which nothing moved since the last pass, then the youngest
// namespaces as a whole, which are folded into one named other. Their sums stay complete.
type budget struct {
	max int // series, 0 for no limit

	// Of the pass before.
	sums   map[uint64]int64 // sum of all values, by namespace
	served map[uint64]bool  // namespaces with series of their own
	folded map[seriesOf]int64

	// other are the values of the counters of other: they only ever rise, though namespaces come and go.
	other map[string]int64
}

// seriesOf is one series of a namespace.
type seriesOf struct {
	namespace uint64
	series    string
}

// spent is what became of the series of a pass.
type spent struct{ served, zeros, folded int64 }

func newBudget(maxSeries int) *budget { return &budget{max: maxSeries, other: map[string]int64{}} }

// namespaceOf returns what tells namespaces apart, 0 for resources that are none.
func namespaceOf(r pcommon.Resource) uint64 {
	inode, ok := r.Attributes().Get("network.netns.inode")
	if !ok {
		return 0
	}
	if cookie, ok := r.Attributes().Get("network.netns.cookie"); ok {
		return uint64(cookie.Int()) // also their age
	}
	return uint64(inode.Int())
}

// namespacesOf returns the namespaces that have series of their own.
func namespacesOf(metrics pmetric.Metrics) map[uint64]bool {
	namespaces := map[uint64]bool{}
	for _, rm := range metrics.ResourceMetrics().All() {
		namespaces[namespaceOf(rm.Resource())] = true
	}
	return namespaces
}

// apply brings metrics, which hold a whole pass of total series, below the limit.
func (b *budget) apply(metrics pmetric.Metrics, total int) spent {
	if b.max == 0 || total <= b.max/2 {
		// Far from the limit: what it would take to know what is idle is not worth it.
		b.sums, b.served, b.folded = nil, namespacesOf(metrics), nil
		return spent{served: int64(total)}
	}
	sums, counts := map[uint64]int64{}, map[uint64]int{}
	eachPoint(metrics, func(ns uint64, _ pmetric.Metric, dp pmetric.NumberDataPoint) {
		sums[ns] += dp.IntValue()
		counts[ns]++
	})
	eachHistogram(metrics, func(dp pmetric.HistogramDataPoint) { counts[0] += seriesOfHistogram(dp) })
	var s spent
	if total > b.max {
		s.zeros = b.dropZeros(metrics, sums, counts)
		total -= int(s.zeros)
	}
	b.sums = sums
	if total <= b.max {
		b.folded = nil
	} else {
		s.folded = b.fold(metrics, b.choose(counts))
	}
	b.served = namespacesOf(metrics)
	s.served = int64(seriesCount(metrics))
	return s
}

// dropZeros removes the zeros of namespaces in which nothing has moved.
func (b *budget) dropZeros(metrics pmetric.Metrics, sums map[uint64]int64, counts map[uint64]int) (dropped int64) {
	for _, rm := range metrics.ResourceMetrics().All() {
		ns := namespaceOf(rm.Resource())
		if before, ok := b.sums[ns]; ns == 0 || !ok || before != sums[ns] {
			continue
		}
		for _, sm := range rm.ScopeMetrics().All() {
			sm.Metrics().RemoveIf(func(m pmetric.Metric) bool {
				dps := pointsOf(m)
				dps.RemoveIf(func(dp pmetric.NumberDataPoint) bool {
					if dp.IntValue() != 0 {
						return false
					}
					dropped++
					counts[ns]--
					return true
				})
				return dps.Len() == 0
			})
		}
	}
	return dropped
}

// choose returns the namespaces to fold: the youngest, so that those with a history keep it.
func (b *budget) choose(counts map[uint64]int) map[uint64]bool {
	namespaces := make([]uint64, 0, len(counts))
	perNamespace := 0
	for ns, n := range counts {
		namespaces = append(namespaces, ns)
		perNamespace = max(perNamespace, n)
	}
	slices.SortFunc(namespaces, cmp.Compare[uint64])
	left := b.max - perNamespace // for other itself
	fold := map[uint64]bool{}
	for _, ns := range namespaces {
		if left -= counts[ns]; left < 0 && ns != 0 {
			fold[ns] = true
		}
	}
	return fold
}

// fold moves the chosen namespaces into one resource.
func (b *budget) fold(metrics pmetric.Metrics, chosen map[uint64]bool) (folded int64) {
	now := map[seriesOf]int64{}
	gauges := map[string]int64{}
	var other pmetric.ResourceMetrics
	merged := pmetric.NewMetricSlice()
	index := map[string]pmetric.NumberDataPoint{}
	eachPoint(metrics, func(ns uint64, m pmetric.Metric, dp pmetric.NumberDataPoint) {
		if !chosen[ns] {
			return
		}
		folded++
		id := seriesID(m, dp)
		if index[id] == (pmetric.NumberDataPoint{}) {
			index[id] = appendLike(merged, m).AppendEmpty()
			dp.CopyTo(index[id])
		}
		if m.Type() == pmetric.MetricTypeGauge {
			gauges[id] += dp.IntValue()
			index[id].SetIntValue(gauges[id])
			return
		}
		key := seriesOf{ns, id}
		now[key] = dp.IntValue()
		switch before, ok := b.folded[key]; {
		case ok:
			b.other[id] += max(0, dp.IntValue()-before)
		case !b.served[ns]: // what a namespace did under its own name has been told
			b.other[id] += dp.IntValue()
		}
		index[id].SetIntValue(b.other[id])
	})
	b.folded = now
	metrics.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		if !chosen[namespaceOf(rm.Resource())] {
			return false
		}
		if other == (pmetric.ResourceMetrics{}) {
			other = pmetric.NewResourceMetrics()
			rm.CopyTo(other)
		}
		return true
	})
	if other == (pmetric.ResourceMetrics{}) {
		return 0
	}
	host, _ := other.Resource().Attributes().Get("host.name")
	name := host.Str()
	other.Resource().Attributes().Clear()
	other.Resource().Attributes().PutStr("host.name", name)
	other.Resource().Attributes().PutInt("network.netns.folded", int64(len(chosen)))
	merged.MoveAndAppendTo(emptied(other.ScopeMetrics().At(0).Metrics()))
	other.MoveTo(metrics.ResourceMetrics().AppendEmpty())
	return folded
}

func emptied(s pmetric.MetricSlice) pmetric.MetricSlice {
	s.RemoveIf(func(pmetric.Metric) bool { return true })
	return s
}

// seriesID tells the series of a namespace apart.
func seriesID(m pmetric.Metric, dp pmetric.NumberDataPoint) string {
	if dp.Attributes().Len() == 0 {
		return m.Name()
	}
	var b strings.Builder
	b.WriteString(m.Name())
	for key, value := range dp.Attributes().All() { // in the order of metadata.yaml
		b.WriteString("\x00" + key + "\x00" + value.AsString())
	}
	return b.String()
}

// seriesOfHistogram returns how many series a histogram is on the Prometheus endpoint: its buckets, _sum and _count.
func seriesOfHistogram(dp pmetric.HistogramDataPoint) int { return dp.BucketCounts().Len() + 2 }

// seriesCount returns the number of series of a pass.
func seriesCount(metrics pmetric.Metrics) int {
	n := metrics.DataPointCount()
	eachHistogram(metrics, func(dp pmetric.HistogramDataPoint) { n += seriesOfHistogram(dp) - 1 })
	return n
}

// eachHistogram visits the data points of histograms. They are facts of the node, so neither left out nor folded.
func eachHistogram(metrics pmetric.Metrics, visit func(pmetric.HistogramDataPoint)) {
	for _, rm := range metrics.ResourceMetrics().All() {
		if namespaceOf(rm.Resource()) != 0 {
			continue
		}
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Type() != pmetric.MetricTypeHistogram {
					continue
				}
				for _, dp := range m.Histogram().DataPoints().All() {
					visit(dp)
				}
			}
		}
	}
}

func eachPoint(metrics pmetric.Metrics, visit func(uint64, pmetric.Metric, pmetric.NumberDataPoint)) {
	for _, rm := range metrics.ResourceMetrics().All() {
		ns := namespaceOf(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				for _, dp := range pointsOf(m).All() {
					visit(ns, m, dp)
				}
			}
		}
	}
}

// pointsOf returns the data points of a counter or a gauge, none of others.
func pointsOf(m pmetric.Metric) pmetric.NumberDataPointSlice {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints()
	}
	return pmetric.NewNumberDataPointSlice()
}

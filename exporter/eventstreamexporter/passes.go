// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/collector/pdata/pmetric"
)

// passes hands collection passes to those who watch them. It keeps none: without a watcher they cost nothing.
type passes struct {
	finished chan struct{} // closed at the end
	once     sync.Once

	mu       sync.Mutex
	watchers map[*passWatcher]struct{}
}

// passWatcher is one who watches, who is given at most one pass that it has not taken yet.
type passWatcher struct {
	filter  *filter
	names   set
	next    chan pass
	skipped uint64
}

// pass is MetricsData in parts of batchSize, or of one resource.
type pass struct {
	parts   [][]byte
	skipped uint64
}

func newPasses() *passes {
	return &passes{finished: make(chan struct{}), watchers: map[*passWatcher]struct{}{}}
}

func (p *passes) finish() { p.once.Do(func() { close(p.finished) }) }

func (p *passes) add(f *filter, names set) *passWatcher {
	w := &passWatcher{filter: f, names: names, next: make(chan pass, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers[w] = struct{}{}
	return w
}

func (p *passes) remove(w *passWatcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watchers, w)
}

// consumeMetrics gives a pass to each watcher that has taken the one before.
func (s *stream) consumeMetrics(_ context.Context, md pmetric.Metrics) error {
	p := s.passes
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for w := range p.watchers {
		if len(w.next) > 0 {
			w.skipped++
			continue
		}
		parts, err := w.encode(md)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w.next <- pass{parts, w.skipped} // there is room: nobody else sends
		w.skipped = 0
	}
	return errors.Join(errs...)
}

// encode returns what a watcher wants of a pass. There is always one part, which may be empty.
func (w *passWatcher) encode(md pmetric.Metrics) ([][]byte, error) {
	var (
		marshaler pmetric.ProtoMarshaler
		parts     [][]byte
		part      []byte
	)
	for _, rm := range md.ResourceMetrics().All() {
		if !w.filter.passesWhere(whereOf(rm.Resource().Attributes())) {
			continue
		}
		wanted := w.wanted(rm)
		if wanted.MetricCount() == 0 {
			continue
		}
		raw, err := marshaler.MarshalMetrics(wanted)
		if err != nil {
			return nil, err
		}
		if len(part)+len(raw) > batchSize && len(part) > 0 {
			parts, part = append(parts, part), nil
		}
		part = append(part, raw...)
	}
	return append(parts, part), nil
}

// wanted returns the metrics of a resource that a watcher wants.
func (w *passWatcher) wanted(rm pmetric.ResourceMetrics) pmetric.Metrics {
	out := pmetric.NewMetrics()
	to := out.ResourceMetrics().AppendEmpty()
	if len(w.names) == 0 {
		rm.CopyTo(to)
		return out
	}
	rm.Resource().CopyTo(to.Resource())
	for _, sm := range rm.ScopeMetrics().All() {
		scope := to.ScopeMetrics().AppendEmpty()
		sm.Scope().CopyTo(scope.Scope())
		for _, m := range sm.Metrics().All() {
			if w.names[m.Name()] {
				m.CopyTo(scope.Metrics().AppendEmpty())
			}
		}
	}
	return out
}

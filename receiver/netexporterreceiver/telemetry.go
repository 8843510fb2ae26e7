// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// telemetry is what the receiver says of itself (otelcol_netexporter_*).
type telemetry struct {
	*metadata.TelemetryBuilder

	namespaces            atomic.Int64
	served, zeros, folded atomic.Int64 // series

	mu    sync.Mutex
	btf   kernel.BTFSource
	hooks map[string][]kernel.Hook // by probe; none if it does not run
	stats func() ([]probe.Stats, error)
	// verified is what the self-test said of each probe of which it could say something.
	verified map[string]bool
	beats    func() map[beat]uint64
}

func newTelemetry(set component.TelemetrySettings) (*telemetry, error) {
	tb, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	t := &telemetry{TelemetryBuilder: tb, hooks: map[string][]kernel.Hook{}}
	if err := errors.Join(
		tb.RegisterNetexporterNetnsCallback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(t.namespaces.Load())
			return nil
		}),
		tb.RegisterNetexporterSeriesCallback(func(_ context.Context, o metric.Int64Observer) error {
			for state, n := range map[string]*atomic.Int64{"served": &t.served, "zero_left_out": &t.zeros, "folded": &t.folded} {
				o.Observe(n.Load(), metric.WithAttributes(attribute.String("state", state)))
			}
			return nil
		}),
		tb.RegisterNetexporterBtfCallback(t.observeBTF),
		tb.RegisterNetexporterProbeUpCallback(t.observeUp),
		tb.RegisterNetexporterProbeHookCallback(t.observeHooks),
		tb.RegisterNetexporterProbeVerifiedCallback(t.observeVerified),
		tb.RegisterNetexporterHeartbeatsCallback(t.observeBeats),
		tb.RegisterNetexporterEventsCallback(t.observeStats(func(o metric.Int64Observer, s probe.Stats) {
			observe(o, s.Delivered, s.Probe)
		})),
		tb.RegisterNetexporterEventsSuppressedCallback(t.observeStats(func(o metric.Int64Observer, s probe.Stats) {
			observe(o, s.Suppressed, s.Probe)
		})),
		tb.RegisterNetexporterEventsLostCallback(t.observeStats(func(o metric.Int64Observer, s probe.Stats) {
			for hop, n := range lostByHop(s) {
				observe(o, n, s.Probe, attribute.String("hop", hop))
			}
		})),
	); err != nil {
		tb.Shutdown()
		return nil, err
	}
	return t, nil
}

// setBTF takes note of where the BTF is from.
func (t *telemetry) setBTF(s kernel.BTFSource) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.btf = s
}

// setProbe takes note of the hooks of a probe, none if it does not run.
func (t *telemetry) setProbe(name string, hooks []kernel.Hook) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hooks[name] = hooks
}

// setSpent takes note of the series of a pass.
func (t *telemetry) setSpent(s spent) {
	t.served.Store(s.served)
	t.zeros.Store(s.zeros)
	t.folded.Store(s.folded)
}

// setSelfTest takes note of what the self-test has said. A probe is verified if something of it was
// seen to work, and nothing seen to fail.
func (t *telemetry) setSelfTest(results []SelfTestResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.verified = map[string]bool{}
	for _, r := range results {
		switch before, told := t.verified[r.Probe]; r.Verdict {
		case VerdictOK:
			t.verified[r.Probe] = before || !told
		case VerdictFailed:
			t.verified[r.Probe] = false
		}
	}
}

// setHeartbeat makes the answers to the heartbeat known.
func (t *telemetry) setHeartbeat(beats func() map[beat]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beats = beats
}

// setStats makes the statistics of the probes known.
func (t *telemetry) setStats(stats func() ([]probe.Stats, error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats = stats
}

// probeState is a probe as telemetry knows it.
type probeState struct {
	name     string
	hooks    []kernel.Hook
	verified *bool        // nil if the self-test said nothing
	stats    *probe.Stats // nil if it has no kernel object
}

// probes returns the state of all probes, sorted by name.
func (t *telemetry) probes() ([]probeState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var (
		stats []probe.Stats
		err   error
	)
	if t.stats != nil {
		stats, err = t.stats()
	}
	states := make([]probeState, 0, len(t.hooks))
	for _, name := range slices.Sorted(maps.Keys(t.hooks)) {
		s := probeState{name: name, hooks: t.hooks[name]}
		if ok, told := t.verified[name]; told {
			s.verified = &ok
		}
		if i := slices.IndexFunc(stats, func(s probe.Stats) bool { return s.Probe == name }); i >= 0 {
			s.stats = &stats[i]
		}
		states = append(states, s)
	}
	return states, err
}

func (t *telemetry) observeBTF(_ context.Context, o metric.Int64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	o.Observe(int64(truth(t.btf.Path != "")), metric.WithAttributes(attribute.String("path", t.btf.Path), attribute.String("proof", t.btf.Proof)))
	return nil
}

func (t *telemetry) observeUp(_ context.Context, o metric.Int64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, hooks := range t.hooks {
		observe(o, truth(runs(hooks)), name)
	}
	return nil
}

func (t *telemetry) observeHooks(_ context.Context, o metric.Int64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, hooks := range t.hooks {
		for _, h := range hooks {
			observe(o, truth(h.Variant != kernel.NoVariant), name, attribute.String("hook", h.Name), attribute.String("variant", h.Variant))
		}
	}
	return nil
}

func (t *telemetry) observeVerified(_ context.Context, o metric.Int64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, ok := range t.verified {
		observe(o, truth(ok), name)
	}
	return nil
}

func (t *telemetry) observeBeats(_ context.Context, o metric.Int64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.beats == nil {
		return nil
	}
	for b, n := range t.beats() {
		observe(o, n, b.probe, attribute.String("outcome", b.outcome))
	}
	return nil
}

func (t *telemetry) observeStats(each func(metric.Int64Observer, probe.Stats)) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.stats == nil {
			return nil
		}
		stats, err := t.stats()
		for _, s := range stats {
			each(o, s)
		}
		return err
	}
}

// lostByHop returns the events of a probe that were lost, by the values of the attribute hop.
func lostByHop(s probe.Stats) map[string]uint64 {
	return map[string]uint64{"ring_full": s.RingFull, "map_full": s.MapFull, "decode": s.Undecodable, "pipeline": s.Refused}
}

// truth is the value of a gauge that tells whether something holds.
func truth(holds bool) uint64 {
	if holds {
		return 1
	}
	return 0
}

func observe(o metric.Int64Observer, value uint64, probeName string, attrs ...attribute.KeyValue) {
	o.Observe(int64(value), metric.WithAttributes(append(attrs, attribute.String("probe", probeName))...))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package reload keeps a collector from taking over a configuration that would end it.
//
// A collector that is told of a change stops all its components, and only then looks at the new configuration;
// if it cannot run with that, it ends. So a Guard stands between the configuration providers and
// the collector. It resolves a changed configuration by itself and has it checked. Only if it is good does the collector hear of
// the change, and then gets exactly what was checked. If the collector cannot start with it all the same, because a port
// is taken, for example, it goes back to what ran before.
package reload

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

// retryInterval is the time between two tries to resolve a configuration of which a part cannot be had: of that
// nobody tells when it changes.
const retryInterval = time.Second

// Check tells whether a collector can run with a configuration. It gets the settings of a resolver that gives just that
// configuration.
type Check func(context.Context, confmap.ResolverSettings) error

// Guard is the configuration of a process whose collector may be made anew. One collector at a time has its
// Settings.
type Guard struct {
	set   confmap.ResolverSettings
	check Check
	top   map[string]bool // URIs of set

	mu       sync.Mutex
	logger   *zap.Logger
	resolver *confmap.Resolver // nil before the collector has asked
	stop     context.CancelFunc
	watching sync.WaitGroup
	record   snapshot // of what resolver retrieves
	// given is what the collector has, proven what it has run with, next what was checked since.
	given, proven, next snapshot
	asking              bool  // the collector's next Retrieve begins another resolution
	failed              error // why the collector could not run with given
	changed             confmap.WatcherFunc
	told                bool  // changed was called since the resolution began
	refused             error // why the configuration that is there now is not in force
	unresolved          bool  // it could not even be resolved
	counts              map[string]int64
}

// What becomes of a changed configuration.
const (
	outcomeAccepted   = "accepted"    // given to the collector
	outcomeRefused    = "refused"     // kept from it
	outcomeRolledBack = "rolled_back" // given to it, but it did not start
)

// snapshot is a configuration: what was retrieved, by URI.
type snapshot map[string]*confmap.Retrieved

// New returns a Guard of the configuration at set.URIs, which it reads when a collector asks.
func New(set confmap.ResolverSettings, check Check) *Guard {
	g := &Guard{
		set: set, check: check, top: map[string]bool{}, logger: zap.NewNop(), asking: true, stop: func() {},
		counts: map[string]int64{outcomeAccepted: 0, outcomeRefused: 0, outcomeRolledBack: 0},
	}
	for _, uri := range set.URIs {
		if !strings.Contains(uri, ":") {
			uri = "file:" + uri // as the resolver does
		}
		g.top[uri] = true
	}
	return g
}

// open makes the resolver, and watches what it has read.
func (g *Guard) open() error {
	set := g.set
	set.ProviderSettings.Logger = g.logger
	set.ConverterFactories = nil // the collector's are applied to what is recorded here
	set.ProviderFactories = nil
	for _, f := range g.set.ProviderFactories {
		set.ProviderFactories = append(set.ProviderFactories, confmap.NewProviderFactory(func(ps confmap.ProviderSettings) confmap.Provider {
			return &recorder{f.Create(ps), g}
		}))
	}
	resolver, err := confmap.NewResolver(set)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.resolver, g.stop = resolver, cancel
	g.watching.Go(func() { g.watch(ctx, resolver.Watch()) })
	return nil
}

// Close ends the watch of the configuration, after the collector.
func (g *Guard) Close(ctx context.Context) error {
	g.mu.Lock()
	g.stop()
	g.mu.Unlock()
	g.watching.Wait()
	if g.resolver == nil {
		return nil
	}
	return g.resolver.Shutdown(ctx)
}

// Settings are those of the collector's resolver.
func (g *Guard) Settings() confmap.ResolverSettings {
	set := g.set
	set.ProviderFactories = nil
	for _, f := range g.set.ProviderFactories {
		set.ProviderFactories = append(set.ProviderFactories, confmap.NewProviderFactory(func(ps confmap.ProviderSettings) confmap.Provider {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.logger = ps.Logger
			return &guarded{f.Create(ps).Scheme(), g}
		}))
	}
	return set
}

// RollBack makes the next collector get the configuration that the one before last ran with, because that ended
// with err when it should have taken over another. It is false if there is none.
func (g *Guard) RollBack(err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proven == nil {
		return false
	}
	g.failed, g.asking = err, true
	return true
}

// Register makes known what became of the changes: a count by outcome, and whether what runs is what is there.
func (g *Guard) Register(meter metric.Meter) error {
	changes, err := meter.Int64ObservableCounter("otelcol_netexporter_config_changes", metric.WithUnit("{changes}"),
		metric.WithDescription("Changed configurations, by what became of them"))
	if err != nil {
		return err
	}
	current, err := meter.Int64ObservableGauge("otelcol_netexporter_config_current", metric.WithUnit("1"),
		metric.WithDescription("1 if the configuration that runs is the one that is there, 0 if that was refused or rolled back"))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		for outcome, n := range g.counts {
			o.ObserveInt64(changes, n, metric.WithAttributes(attribute.String("outcome", outcome)))
		}
		o.ObserveInt64(current, map[bool]int64{true: 1}[g.refused == nil])
		return nil
	}, changes, current)
	return err
}

// watch waits for changes.
func (g *Guard) watch(ctx context.Context, changes <-chan error) {
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes: // that watching itself failed is seen when it is resolved
			g.consider(ctx, false)
		case <-retry.C:
			g.consider(ctx, true)
		}
	}
}

// consider has a changed configuration checked, and tells the collector if it is good. To try again is for one that could not be resolved.
func (g *Guard) consider(ctx context.Context, again bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if again && !g.unresolved {
		return
	}
	s, err := g.resolve(ctx)
	switch {
	case err != nil && again && g.refused != nil && g.refused.Error() == err.Error():
	case err != nil:
		g.refuse(err)
	case s.equal(g.given):
		g.refused, g.next = nil, nil // as it was
	default:
		g.next = s
		g.tell()
	}
}

// tell tells the collector of next, once.
func (g *Guard) tell() {
	if g.next != nil && g.changed != nil && !g.told {
		g.told = true
		g.changed(&confmap.ChangeEvent{})
	}
}

// refuse keeps a configuration out.
func (g *Guard) refuse(err error) {
	g.refused = err
	g.counts[outcomeRefused]++
	g.logger.Error("The changed configuration is refused; the one before stays in force", zap.Error(err))
}

// resolve reads the configuration as it is now and checks it.
func (g *Guard) resolve(ctx context.Context) (snapshot, error) {
	g.record = snapshot{}
	_, err := g.resolver.Resolve(ctx)
	if g.unresolved = err != nil; g.unresolved {
		return nil, err
	}
	set := g.set
	set.ProviderFactories = nil
	for _, f := range g.set.ProviderFactories {
		set.ProviderFactories = append(set.ProviderFactories, confmap.NewProviderFactory(func(ps confmap.ProviderSettings) confmap.Provider {
			return &replay{f.Create(ps).Scheme(), g.record}
		}))
	}
	set.ProviderSettings, set.ConverterSettings = confmap.ProviderSettings{}, confmap.ConverterSettings{}
	return g.record, g.check(ctx, set)
}

// begin decides what the collector gets, which asks for its configuration at its start, after it was told of a
// change, and at SIGHUP.
func (g *Guard) begin(ctx context.Context) error {
	if g.resolver == nil {
		if err := g.open(); err != nil {
			return err
		}
	}
	g.asking, g.told = false, false
	if err := g.failed; err != nil {
		g.failed, g.given = nil, g.proven
		g.refused = err
		g.counts[outcomeRolledBack]++
		g.logger.Error("The collector did not start with the changed configuration; the one before is in force again", zap.Error(err))
		return nil
	}
	g.proven = g.given // it has run with that until now
	s := g.next
	if g.next = nil; s == nil {
		var err error
		if s, err = g.resolve(ctx); err != nil {
			if g.proven == nil {
				return err
			}
			g.refuse(err)
			return nil
		}
	}
	g.refused = nil
	if g.proven != nil && !s.equal(g.given) {
		g.counts[outcomeAccepted]++
		g.logger.Info("The configuration has changed")
	}
	g.given = s
	return nil
}

func (s snapshot) equal(other snapshot) bool {
	if len(s) != len(other) {
		return false
	}
	for uri, a := range s {
		b := other[uri]
		if b == nil {
			return false
		}
		// Neither returns an error.
		rawA, _ := a.AsRaw()
		rawB, _ := b.AsRaw()
		if !reflect.DeepEqual(rawA, rawB) {
			return false
		}
		if _, isMap := rawA.(map[string]any); isMap {
			continue // only comments or the order may differ
		}
		textA, _ := a.AsString()
		textB, _ := b.AsString()
		if textA != textB {
			return false
		}
	}
	return true
}

// recorder is a provider that takes note of what it gave.
type recorder struct {
	confmap.Provider
	guard *Guard
}

func (r *recorder) Retrieve(ctx context.Context, uri string, changed confmap.WatcherFunc) (*confmap.Retrieved, error) {
	ret, err := r.Provider.Retrieve(ctx, uri, changed)
	if err != nil {
		return nil, err
	}
	r.guard.record[uri] = ret
	if r.guard.top[uri] {
		if _, err := ret.AsConf(); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", uri, err), ret.Close(ctx))
		}
	}
	return ret, nil
}

// replay is a provider of what was retrieved before.
type replay struct {
	scheme string
	from   snapshot
}

func (r *replay) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	return r.from.again(uri)
}

func (r *replay) Scheme() string                 { return r.scheme }
func (r *replay) Shutdown(context.Context) error { return nil }

// again returns a copy of what was retrieved, without its life.
func (s snapshot) again(uri string, opts ...confmap.RetrievedOption) (*confmap.Retrieved, error) {
	ret := s[uri]
	if ret == nil {
		return nil, fmt.Errorf("%s was not a part of the configuration when it was checked", uri)
	}
	raw, err := ret.AsRaw()
	if err != nil {
		return nil, err
	}
	// A number, for example, is known with its spelling, in case that it is used as a string.
	if text, err := ret.AsString(); err == nil && raw != any(text) {
		return confmap.NewRetrievedFromYAML([]byte(text), opts...)
	}
	return confmap.NewRetrieved(raw, opts...)
}

// guarded is a provider of the collector.
type guarded struct {
	scheme string
	guard  *Guard
}

func (p *guarded) Retrieve(ctx context.Context, uri string, changed confmap.WatcherFunc) (*confmap.Retrieved, error) {
	g := p.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asking {
		if err := g.begin(ctx); err != nil {
			return nil, err
		}
	}
	g.changed = changed
	g.tell()
	return g.given.again(uri, confmap.WithRetrievedClose(func(context.Context) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.asking, g.changed = true, nil
		return nil
	}))
}

func (p *guarded) Scheme() string                 { return p.scheme }
func (p *guarded) Shutdown(context.Context) error { return nil }

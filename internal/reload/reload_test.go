// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package reload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a provider of values that a test sets.
type source struct {
	mu      sync.Mutex
	values  map[string]string
	changed confmap.WatcherFunc
}

func (s *source) Retrieve(_ context.Context, uri string, changed confmap.WatcherFunc) (*confmap.Retrieved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[uri]
	if !ok {
		return nil, fmt.Errorf("there is no %s", uri)
	}
	s.changed = changed
	return confmap.NewRetrievedFromYAML([]byte(value))
}

func (s *source) Scheme() string                 { return "test" }
func (s *source) Shutdown(context.Context) error { return nil }

// put changes a value silently.
func (s *source) put(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values["test:"+name] = value
}

// set changes a value and tells.
func (s *source) set(name, value string) {
	s.put(name, value)
	s.changed(&confmap.ChangeEvent{})
}

// world is a guard with the resolver of a collector.
type world struct {
	*source
	guard     *Guard
	collector *confmap.Resolver
}

func newWorld(t *testing.T, config string) *world {
	w := &world{source: &source{values: map[string]string{"test:main": config}}}
	w.guard = New(confmap.ResolverSettings{
		URIs:          []string{"test:main"},
		DefaultScheme: "test",
		ProviderFactories: []confmap.ProviderFactory{confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider {
			return w.source
		})},
	}, func(ctx context.Context, set confmap.ResolverSettings) error {
		r, err := confmap.NewResolver(set)
		require.NoError(t, err)
		defer func() { require.NoError(t, r.Shutdown(ctx)) }()
		conf, err := r.Resolve(ctx)
		if err == nil && conf.Get("bad") != nil {
			err = fmt.Errorf("bad is %v", conf.Get("bad"))
		}
		return err
	})
	w.start(t)
	t.Cleanup(func() { require.NoError(t, w.guard.Close(context.Background())) })
	return w
}

// start makes another collector.
func (w *world) start(t *testing.T) {
	var err error
	w.collector, err = confmap.NewResolver(w.guard.Settings())
	require.NoError(t, err)
}

// gets resolves as the collector does.
func (w *world) gets(t *testing.T, want map[string]any) {
	t.Helper()
	conf, err := w.collector.Resolve(t.Context())
	require.NoError(t, err)
	assert.Equal(t, want, conf.ToStringMap())
}

func (w *world) counts(t *testing.T) map[string]int64 {
	reader := sdkmetric.NewManualReader()
	require.NoError(t, w.guard.Register(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")))
	var rm metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &rm))
	counts := map[string]int64{}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				outcome, _ := p.Attributes.Value("outcome")
				counts[outcome.AsString()] = p.Value
			}
		case metricdata.Gauge[int64]:
			counts["current"] = data.DataPoints[0].Value
		}
	}
	return counts
}

func (w *world) waitFor(t *testing.T, outcome string, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return w.counts(t)[outcome] == n }, time.Minute, time.Millisecond)
}

func (w *world) told() bool { return len(w.collector.Watch()) > 0 }

func TestGoodChanges(t *testing.T) {
	w := newWorld(t, "n: 0")
	w.gets(t, map[string]any{"n": 0})
	for i := 1; i < 4; i++ {
		w.set("main", fmt.Sprintf("n: %d", i))
		require.NoError(t, <-w.collector.Watch())
		w.put("main", "bad: 1") // what was checked is given, not what is there by now
		w.gets(t, map[string]any{"n": i})
		assert.Equal(t, map[string]int64{"accepted": int64(i), "refused": 0, "rolled_back": 0, "current": 1}, w.counts(t))
	}
}

func TestBadChangesAreKeptOut(t *testing.T) {
	w := newWorld(t, "n: 0")
	w.gets(t, map[string]any{"n": 0})
	for i, bad := range []string{"bad: 1", "[", "x: ${test:nowhere}"} {
		w.set("main", bad)
		w.waitFor(t, "refused", int64(i+1))
		assert.False(t, w.told(), bad)
	}
	assert.EqualValues(t, 0, w.counts(t)["current"])
	w.set("main", "n: 0 # as it was")
	w.waitFor(t, "current", 1)
	assert.False(t, w.told())
	w.set("main", "n: 1")
	require.NoError(t, <-w.collector.Watch())
	w.gets(t, map[string]any{"n": 1})
}

// What cannot be resolved is tried again, although nobody tells that it has changed.
func TestPartThatComesLater(t *testing.T) {
	w := newWorld(t, "n: 0")
	w.gets(t, map[string]any{"n": 0})
	w.set("main", "n: ${test:later}")
	w.waitFor(t, "refused", 1)
	w.put("later", "7")
	require.NoError(t, <-w.collector.Watch())
	w.gets(t, map[string]any{"n": 7})
	assert.EqualValues(t, 1, w.counts(t)["refused"], "counted once")
}

// At SIGHUP the collector asks without having been told.
func TestCollectorAsksByItself(t *testing.T) {
	w := newWorld(t, "n: 0")
	w.gets(t, map[string]any{"n": 0})
	w.put("main", "bad: 1")
	w.gets(t, map[string]any{"n": 0})
	assert.Equal(t, map[string]int64{"accepted": 0, "refused": 1, "rolled_back": 0, "current": 0}, w.counts(t))
	w.put("main", "n: 1")
	w.gets(t, map[string]any{"n": 1})
}

func TestRollBack(t *testing.T) {
	w := newWorld(t, "n: 0")
	assert.False(t, w.guard.RollBack(errors.New("first")), "nothing to go back to")
	w.gets(t, map[string]any{"n": 0})
	w.set("main", "n: 1")
	require.NoError(t, <-w.collector.Watch())
	w.gets(t, map[string]any{"n": 1})
	require.True(t, w.guard.RollBack(errors.New("port taken")))
	w.start(t)
	w.gets(t, map[string]any{"n": 0})
	assert.Equal(t, map[string]int64{"accepted": 1, "refused": 0, "rolled_back": 1, "current": 0}, w.counts(t))
	w.set("main", "n: 2")
	require.NoError(t, <-w.collector.Watch())
	w.gets(t, map[string]any{"n": 2})
}

func TestFirstConfigurationIsBad(t *testing.T) {
	w := newWorld(t, "bad: 1")
	_, err := w.collector.Resolve(t.Context())
	require.ErrorContains(t, err, "bad is 1")
}

// A part keeps its spelling, in case that it is used as a string.
func TestSpelling(t *testing.T) {
	w := newWorld(t, "password: ${test:secret}\nwhole: x${test:secret}")
	w.put("secret", "0123")
	conf, err := w.collector.Resolve(t.Context())
	require.NoError(t, err)
	var got struct {
		Password string `mapstructure:"password"`
		Whole    string `mapstructure:"whole"`
	}
	require.NoError(t, conf.Unmarshal(&got))
	assert.Equal(t, "0123", got.Password)
	assert.Equal(t, "x0123", got.Whole)
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// Verdict is what the self-test says of a hook.
type Verdict string

const (
	// VerdictOK says that what the hook must see was seen, in every field.
	VerdictOK Verdict = "ok"
	// VerdictFailed says that it was not.
	VerdictFailed Verdict = "failed"
	// VerdictUnavailable says that this kernel cannot run the hook, or not make what it must see.
	VerdictUnavailable Verdict = "unavailable"
	// VerdictUntested says that nothing makes what the hook must see without touching more than the
	// self-test's own namespaces.
	VerdictUntested Verdict = "untested"
)

// SelfTestResult is the verdict on one hook of a probe.
type SelfTestResult struct {
	Probe   string  `json:"probe"`
	Hook    string  `json:"hook"`
	Variant string  `json:"variant"`
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"`
}

// SelfTestOptions are the options of SelfTest.
type SelfTestOptions struct {
	// RootPath is where the root directory of the host is mounted.
	RootPath string
	// Probes are the names of those to test, empty for all.
	Probes []string
	// Logger is told what the probes say when they start; nil for nobody.
	Logger *zap.Logger

	// change is for the tests of the self-test.
	change func([]probe.Definition)
}

const (
	// arrival is how long something that has happened may take to be reported.
	arrival = 2 * time.Second
	look    = 5 * time.Millisecond
	// sensitivity is the threshold of probes of the node's latencies, so that ordinary traffic exceeds it;
	// patience that of probes that look at every packet, so that what else the node does is no event.
	sensitivity = time.Microsecond
	patience    = 50 * time.Millisecond
	// plenty is a limit of events that what else happens on the node does not use up.
	plenty = 100_000
	// attempts at a check: what else happens on the node may spoil one.
	attempts = 2
)

// SelfTest runs all probes, apart from any that run already, and makes in private network namespaces
// what each of their hooks must see: datagrams to closed ports, resets, a late reader. It checks
// every field of the events and the counters, IPv4 and IPv6. Nothing outside those namespaces is touched,
// and they are gone with the process, however it ends. An error says that there was no test at all.
func SelfTest(ctx context.Context, opts SelfTestOptions) ([]SelfTestResult, error) {
	a, sink, err := newTestedAgent(opts)
	if err != nil {
		return nil, err
	}
	if err := a.Start(ctx, nil); err != nil {
		return nil, err
	}
	defer func() { _ = a.Shutdown(context.WithoutCancel(ctx)) }()

	s := &selfTest{agent: a, sink: sink, tried: map[[2]string]bool{}, reasons: map[[2]string][]string{}, skips: map[[2]string]string{}}
	checks := selfChecks()
	if fault := try(ctx, func(t nettest.T) { s.run(t, checks) }); fault.failed || fault.skipped {
		return nil, fmt.Errorf("self-test: %s", fault.reason)
	}
	return s.results(), ctx.Err()
}

// newTestedAgent returns an agent of all probes, those that cost something included, which is as
// sensitive as can be.
func newTestedAgent(opts SelfTestOptions) (*agent, *recordSink, error) {
	cfg := createDefaultConfig().(*Config)
	cfg.RootPath = opts.RootPath
	logger := opts.Logger
	if logger == nil {
		logger = zap.NewNop()
	}
	set := receiver.Settings{
		ID: component.NewIDWithName(metadata.Type, "selftest"),
		TelemetrySettings: component.TelemetrySettings{
			Logger: logger, MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider(),
			Resource: pcommon.NewResource(),
		},
	}
	a := newAgent(set, cfg, func() {})
	if opts.change != nil {
		opts.change(a.all)
	}
	if err := choose(a, opts.Probes); err != nil {
		return nil, nil, err
	}
	cfg.Probes = map[string]probe.Config{}
	for _, d := range a.all {
		p := probe.DefaultConfig()
		p.EventsPerSecond = plenty
		if d.Threshold != 0 {
			p.Threshold = new(time.Duration)
			*p.Threshold = sensitivity
		}
		p.FullHistograms = d.Ticks
		if slices.Contains(packetPath(), d.Name) {
			*p.Threshold = patience
		}
		cfg.Probes[d.Name] = p
	}
	sink := &recordSink{}
	return a, sink, a.sendEventsTo(set, sink)
}

// packetPath lists the probes that look at every packet.
func packetPath() []string { return []string{"socketlatency", "kernellatency", "netiftxlat"} }

// ErrNoProbe is SelfTest's for a name that no probe has.
var ErrNoProbe = errors.New("no probe")

// choose leaves an agent the probes of these names.
func choose(a *agent, names []string) error {
	if len(names) == 0 {
		return nil
	}
	known := a.all
	a.all = nil
	for _, name := range names {
		i := slices.IndexFunc(known, func(d probe.Definition) bool { return d.Name == name })
		if i < 0 {
			var names []string
			for i := range known {
				names = append(names, known[i].Name)
			}
			return fmt.Errorf("%w %q; there are %s", ErrNoProbe, name, strings.Join(names, ", "))
		}
		a.all = append(a.all, known[i])
	}
	return nil
}

// selfTest is a run of the self-test.
type selfTest struct {
	agent *agent
	sink  *recordSink
	pair  *nettest.Pair

	// By probe and hook: which checks were made, why those failed that did, and why one could not be made.
	tried   map[[2]string]bool
	reasons map[[2]string][]string
	skips   map[[2]string]string
}

// selfCheck makes one thing happen and says what must be seen of it.
type selfCheck struct {
	probe string
	hooks []string // all those that it takes to see it
	// what says in a few words what is made to happen.
	what string
	// run makes it happen. It fails t with the reason if it is not seen as it was.
	run func(t nettest.T, s *selfTest, f nettest.Family)
}

// run makes every check of hooks that run, each in namespaces of its own.
func (s *selfTest) run(t nettest.T, checks []selfCheck) {
	for _, c := range checks {
		hooks := slices.DeleteFunc(c.hooks, func(hook string) bool { return s.variant(c.probe, hook) == kernel.NoVariant })
		if len(hooks) == 0 {
			continue
		}
		for _, f := range nettest.Families() {
			fault := s.check(t, c, f)
			for _, hook := range hooks {
				key := [2]string{c.probe, hook}
				s.tried[key] = s.tried[key] || !fault.skipped
				switch {
				case fault.skipped:
					s.skips[key] = fault.reason
				case fault.failed:
					s.reasons[key] = append(s.reasons[key], fmt.Sprintf("%s, %s: %s", c.what, f, fault.reason))
				}
			}
		}
	}
}

// check makes a check, and again if it fails.
func (s *selfTest) check(t nettest.T, c selfCheck, f nettest.Family) (fault *trial) {
	for range attempts {
		fault = try(t.Context(), func(t nettest.T) {
			own := *s
			own.pair = nettest.NewPrivate(t)
			c.run(t, &own, f)
		})
		if !fault.failed {
			break
		}
	}
	return fault
}

// hooks returns those of a probe.
func (s *selfTest) hooks(name string) []kernel.Hook {
	t := s.agent.running.telemetry
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hooks[name]
}

// variant returns that of a hook, NoVariant if it does not run.
func (s *selfTest) variant(name, hook string) string {
	for _, h := range s.hooks(name) {
		if h.Name == hook {
			return h.Variant
		}
	}
	return kernel.NoVariant
}

func (s *selfTest) results() []SelfTestResult {
	var results []SelfTestResult
	for _, d := range s.agent.all {
		for _, h := range s.hooks(d.Name) {
			key := [2]string{d.Name, h.Name}
			r := SelfTestResult{Probe: d.Name, Hook: h.Name, Variant: h.Variant, Verdict: VerdictOK}
			switch reasons := s.reasons[key]; {
			case h.Variant == kernel.NoVariant:
				r.Verdict, r.Reason = VerdictUnavailable, oneLine(h.Err)
			case len(reasons) > 0:
				r.Verdict, r.Reason = VerdictFailed, strings.Join(reasons, "; ")
			case !s.tried[key]:
				r.Verdict, r.Reason = VerdictUntested, cmp.Or(s.skips[key], "nothing within a private namespace makes it happen")
			}
			results = append(results, r)
		}
	}
	return results
}

// oneLine returns an error without line breaks.
func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// trial is the [nettest.T] of one check.
type trial struct {
	ctx context.Context

	mu              sync.Mutex
	cleanups        []func()
	failed, skipped bool
	reason          string
}

// try runs f, and returns what became of it when it and all that it deferred has ended.
func try(ctx context.Context, f func(nettest.T)) *trial {
	t := &trial{ctx: ctx}
	if err := ctx.Err(); err != nil {
		t.Errorf("out of time: %v", err)
		return t
	}
	t.step(func() { f(t) })
	t.end()
	return t
}

// step runs f, which Fatal and Skip end.
func (*trial) step(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// end runs what was deferred.
func (t *trial) end() {
	for _, cleanup := range slices.Backward(t.cleanups) {
		t.step(cleanup)
	}
	t.cleanups = nil
}

func (*trial) Helper()                    {}
func (t *trial) Context() context.Context { return t.ctx }

func (t *trial) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *trial) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *trial) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.failed { // what follows is mostly a consequence
		t.failed, t.reason = true, fmt.Sprintf(format, args...)
	}
}

func (t *trial) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

func (t *trial) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

func (t *trial) Skipf(format string, args ...any) {
	t.mu.Lock()
	t.skipped, t.reason = true, fmt.Sprintf(format, args...)
	t.mu.Unlock()
	runtime.Goexit()
}

func (t *trial) Skip(args ...any) { t.Skipf("%s", fmt.Sprint(args...)) }

// recordSink keeps the log records that it gets.
type recordSink struct {
	mu      sync.Mutex
	records []reported
}

// reported is an event as the pipeline gets it.
type reported struct {
	name       string
	namespace  uint64 // inode, 0 if the event is of none
	attributes map[string]any
}

func (*recordSink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *recordSink) ConsumeLogs(_ context.Context, logs plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range logs.ResourceLogs().All() {
		var namespace uint64
		if inode, ok := rl.Resource().Attributes().Get("network.netns.inode"); ok {
			namespace = uint64(inode.Int())
		}
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				s.records = append(s.records, reported{rec.EventName(), namespace, rec.Attributes().AsRaw()})
			}
		}
	}
	return nil
}

func (s *recordSink) named(name string, namespace uint64) []reported {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.records), func(r reported) bool {
		return r.name != name || r.namespace != namespace
	})
}

// expect waits for an event of a namespace whose attributes are as want says: a value, or a function
// that tells whether a value will do. It fails t with what comes nearest.
func (s *selfTest) expect(t nettest.T, name string, namespace uint64, want map[string]any) {
	t.Helper()
	var nearest string
	for deadline := time.Now().Add(arrival); ; time.Sleep(look) {
		for _, r := range s.sink.named(name, namespace) {
			wrong := mismatch(r.attributes, want)
			if wrong == "" {
				return
			}
			nearest = wrong
		}
		switch {
		case time.Now().Before(deadline) && t.Context().Err() == nil:
		case nearest == "":
			t.Fatalf("no event %s", name)
		default:
			t.Fatalf("event %s: %s", name, nearest)
		}
	}
}

// mismatch returns in words the first attribute that is not as wanted, empty if there is none.
func mismatch(got, want map[string]any) string {
	for key, value := range want {
		will := got[key] == value
		if accept, ok := value.(func(any) bool); ok {
			will, value = accept(got[key]), "another"
		}
		if !will {
			return fmt.Sprintf("%s is %v, not %v", key, got[key], value)
		}
	}
	return ""
}

// counted waits until the series of a namespace, 0 for the node, have at least these values.
func (s *selfTest) counted(t nettest.T, namespace uint64, want map[string]int64) {
	t.Helper()
	for _, n := range []*nettest.Namespace{s.pair.A, s.pair.B} {
		if namespace == n.Inode && s.agent.running.readsWithin() {
			n.Hold(t)
		}
	}
	var wrong string
	for deadline := time.Now().Add(arrival); ; time.Sleep(look) {
		got := s.sums(t, namespace)
		wrong = ""
		for name, least := range want {
			switch value, ok := got[name]; {
			case !ok:
				wrong = "there is no " + name
			case value < least:
				wrong = fmt.Sprintf("%s is %d, not %d", name, value, least)
			}
		}
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) || t.Context().Err() != nil {
			t.Fatalf("%s", wrong)
		}
	}
}

// sums makes a collection pass and returns the metrics of a namespace, 0 for the node.
func (s *selfTest) sums(t nettest.T, namespace uint64) map[string]int64 {
	t.Helper()
	metrics, err := s.agent.collect(t.Context())
	if metrics == (pmetric.Metrics{}) || metrics.ResourceMetrics().Len() == 0 {
		t.Fatalf("collect: %v", err)
	}
	return sumsOf(metrics, namespace)
}

// sumsOf returns the metrics of a namespace, 0 for the node, each summed up over its series; of histograms the
// number of values, by the value of their attribute.
func sumsOf(metrics pmetric.Metrics, namespace uint64) map[string]int64 {
	sums := map[string]int64{}
	for _, rm := range metrics.ResourceMetrics().All() {
		var inode uint64
		if v, ok := rm.Resource().Attributes().Get("network.netns.inode"); ok {
			inode = uint64(v.Int())
		}
		if inode != namespace {
			continue
		}
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Type() == pmetric.MetricTypeHistogram {
					for _, dp := range m.Histogram().DataPoints().All() {
						for _, v := range dp.Attributes().All() {
							sums[m.Name()+"{"+v.AsString()+"}"] = int64(dp.Count())
						}
					}
					continue
				}
				for _, dp := range pointsOf(m).All() {
					sums[m.Name()] += dp.IntValue()
				}
			}
		}
	}
	return sums
}

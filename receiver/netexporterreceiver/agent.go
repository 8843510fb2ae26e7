// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.opentelemetry.io/collector/scraper/scrapererror"
	"go.uber.org/zap"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probes"
)

// agent is the one instance behind the receivers of a configuration: it starts with the first of
// them and ends with the last.
type agent struct {
	cfg    *Config
	set    receiver.Settings
	forget func()
	all    []probe.Definition
	keeper *Keeper // nil if the kernel side ends with the agent

	events *eventSink // nil if there is no logs pipeline

	mu      sync.Mutex
	users   int // receivers that have started and not shut down
	running *running
}

// running is what an agent holds between start and shutdown.
type running struct {
	*kernelSide

	telemetry *telemetry
	node      []nodeProbe
	resources *resources
	budget    *budget
	entities  *entities     // nil if nobody wants them
	series    *seriesWriter // of the counters
	// Counters of the kernel began with it, those of the probes with their programs.
	sinceBoot  *metadata.MetricsBuilder
	sinceStart *probe.MetricsBuilder
}

// nodeProbe is a probe with facts of the node.
type nodeProbe struct {
	name string
	read probe.NodeReader
}

func newAgent(set receiver.Settings, cfg *Config, forget func()) *agent {
	return &agent{cfg: cfg, set: set, forget: forget, all: probes.All()}
}

// sendEventsTo makes next get the events; it is called before Start.
func (a *agent) sendEventsTo(set receiver.Settings, next consumer.Logs) error {
	obs, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, Transport: "bpf", ReceiverCreateSettings: set,
	})
	if err != nil {
		return err
	}
	a.events = newEventSink(set, a.cfg, next, obs)
	return nil
}

// Start starts the agent for the first of its receivers.
func (a *agent) Start(ctx context.Context, _ component.Host) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users > 0 {
		a.users++
		return nil
	}
	r, err := a.start(ctx)
	if err != nil {
		return err
	}
	a.running, a.users = r, 1
	return nil
}

// Shutdown ends the agent with the last of its receivers. It is safe before Start.
func (a *agent) Shutdown(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users > 1 {
		a.users--
		return nil
	}
	a.users = 0
	a.forget()
	if a.running == nil {
		return nil
	}
	r := a.running
	a.running = nil
	a.detach(r.kernelSide)
	if r.entities != nil {
		r.entities.close()
	}
	r.telemetry.Shutdown()
	return a.keeper.park(a.set.ID, r.kernelSide)
}

// drainTime bounds how long the events that are on their way are waited for.
const drainTime = 5 * time.Second

// detach ends the flow of events into the pipeline. Those that it has not taken by then are counted as refused; those that
// are not on their way yet wait.
func (a *agent) detach(k *kernelSide) {
	if a.events == nil {
		return
	}
	if k.runner != nil {
		patience := time.AfterFunc(drainTime, a.events.cancel)
		k.runner.Detach()
		patience.Stop()
	}
	a.events.cancel()
}

func (a *agent) start(ctx context.Context) (_ *running, err error) {
	defs := a.definitions()
	if len(defs) > 0 {
		if err := kernel.CheckPrivileges(); err != nil {
			return nil, err
		}
	}
	side, err := a.kernelSide()
	if err != nil {
		return nil, err
	}
	defer func() {
		side.kernel.FlushTypes() // only loading needs them
		debug.FreeOSMemory()
	}()
	r := &running{kernelSide: side, budget: newBudget(a.cfg.MaxSeries)}
	defer func() {
		if err == nil {
			return
		}
		if r.telemetry != nil {
			r.telemetry.Shutdown()
		}
		a.detach(side)
		err = errors.Join(err, a.keeper.park(a.set.ID, side))
	}()
	a.selfTest(ctx, side, defs)
	if r.resources, err = newResources(a.cfg); err != nil {
		return nil, err
	}
	if r.telemetry, err = newTelemetry(a.set.TelemetrySettings); err != nil {
		return nil, err
	}
	r.telemetry.setSelfTest(side.tested)
	if err := a.openSource(r, defs); err != nil {
		return nil, err
	}
	a.beat(r)
	if err := a.startNode(r, defs); err != nil {
		return nil, err
	}
	if err := a.startProbes(r, defs); err != nil {
		return nil, err
	}
	boot, err := kernel.BootTime()
	if err != nil {
		return nil, err
	}
	build := metadata.MetricsBuilderConfig{Metrics: a.cfg.metrics(), ResourceAttributes: a.cfg.ResourceAttributes}
	r.sinceBoot = metadata.NewMetricsBuilder(build, a.set, metadata.WithStartTime(pcommon.NewTimestampFromTime(boot)))
	r.series = newSeriesWriter(r.sinceBoot, r.counters)
	r.sinceStart = probe.NewMetricsBuilder(build, a.set, pcommon.NewTimestampFromTime(side.started), a.cfg.DocumentedSpellings)
	if err := a.firstPass(r, defs); err != nil {
		return nil, err
	}
	if a.cfg.Entities && a.events != nil {
		r.entities = startEntities(a, r)
	}
	return r, nil
}

// selfTestTime bounds the self-test at the start.
const selfTestTime = 30 * time.Second

// selfTest tests the probes before they start, so that what it does is not seen, if the
// configuration wants it. What does not work is told, and starts all the same.
func (a *agent) selfTest(ctx context.Context, k *kernelSide, defs []probe.Definition) {
	if !a.cfg.SelfTest {
		k.tested = nil
		return
	}
	tested := func(d probe.Definition) bool {
		return slices.ContainsFunc(k.tested, func(r SelfTestResult) bool { return r.Probe == d.Name })
	}
	defs = slices.DeleteFunc(slices.Clone(defs), tested)
	if len(defs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, selfTestTime)
	defer cancel()
	var names []string
	for _, d := range defs {
		names = append(names, d.Name)
	}
	results, err := SelfTest(ctx, SelfTestOptions{RootPath: a.cfg.RootPath, Probes: names})
	if err != nil {
		a.set.Logger.Error("Self-test did not come to its end", zap.Error(err))
	}
	verdicts := map[Verdict]int{}
	for _, r := range results {
		verdicts[r.Verdict]++
		if r.Verdict == VerdictFailed {
			a.set.Logger.Error("Self-test: the probe does not see what it must see", zap.String("probe", r.Probe),
				zap.String("hook", r.Hook), zap.String("variant", r.Variant), zap.String("reason", r.Reason))
		}
	}
	a.set.Logger.Info("Self-test", zap.Any("hooks", verdicts))
	k.tested = append(k.tested, results...)
}

// walks tells whether the collection pass runs, which meets namespaces without a process.
func (r *running) walks() bool {
	return !slices.ContainsFunc(r.source.Hooks(), func(h kernel.Hook) bool {
		return h.Name == netns.HookNamespaces && h.Variant == "procfs"
	})
}

// readsWithin tells whether counters are read within the namespaces, into which nothing leads without a process or a name.
func (r *running) readsWithin() bool {
	return !r.walks() || slices.ContainsFunc(r.sourceHooks, func(h kernel.Hook) bool { return h.Variant == sockDiag })
}

// beat starts the heartbeat if the configuration wants it, where the collection pass meets namespaces without a process.
func (a *agent) beat(r *running) {
	if !a.cfg.SelfTest {
		if r.heartbeat != nil {
			r.heartbeat.close()
			r.heartbeat = nil
		}
		return
	}
	if !r.walks() {
		a.set.Logger.Warn("No heartbeat: from /proc its network namespaces cannot be seen")
		return
	}
	if r.heartbeat == nil {
		h, err := newHeartbeat(a.set)
		if err != nil {
			a.set.Logger.Error("No heartbeat", zap.Error(err))
			return
		}
		r.heartbeat = h
	}
	r.telemetry.setHeartbeat(r.heartbeat.answers)
}

// firstPass fills the inventory, which the first events may need before the first collection, and
// finds out what may be read within namespaces.
func (a *agent) firstPass(r *running, defs []probe.Definition) error {
	var err error
	if slices.ContainsFunc(defs, func(d probe.Definition) bool { return needs(d, netns.HookNetlink) }) {
		if r.netlink == nil {
			if r.netlink, err = nslink.New(); err != nil {
				return err
			}
		}
		if err := r.inventory.ReadNetlink(r.netlink); err != nil {
			return err
		}
	}
	hook := kernel.Hook{Name: netns.HookNetlink, Variant: "setns"}
	r.rows, err = r.inventory.Pass(r.rows[:0])
	var denied *nslink.PermissionError
	if errors.As(err, &denied) {
		hook.Variant, hook.Err = kernel.NoVariant, denied
		r.inventory.StopNetlink()
		r.rows, err = r.inventory.Pass(r.rows[:0])
	}
	if len(r.rows) == 0 {
		return fmt.Errorf("read network namespaces: %w", err)
	}
	for _, d := range defs {
		if !needs(d, netns.HookNetlink) {
			continue
		}
		if err := a.settle(r, d, hook); err != nil {
			return err
		}
	}
	return nil
}

// definitions returns the probes that shall run.
func (a *agent) definitions() []probe.Definition {
	var defs []probe.Definition
	for _, d := range a.all {
		if _, wanted := a.cfg.probe(d); wanted {
			defs = append(defs, d)
		}
	}
	return defs
}

// openKernel reads what any of the probes may want to know of the kernel.
func (a *agent) openKernel() (*kernel.Kernel, error) {
	query := kernel.Query{Prefixes: netns.MIBPrefixes()}
	for _, d := range a.all {
		for _, e := range d.Enums {
			query.Enums = append(query.Enums, e.Name)
		}
		query.Prefixes = append(query.Prefixes, d.Constants...)
	}
	k, err := kernel.Open(a.cfg.RootPath, query)
	switch {
	case errors.Is(err, kernel.ErrNoBTF):
		a.set.Logger.Warn("Running without BTF: counters are read from /proc, there are no events", zap.Error(err))
	case err != nil:
		return nil, err
	default:
		a.set.Logger.Info("Kernel", zap.String("release", k.Release), zap.String("btf", k.Source.Path), zap.String("proof", k.Source.Proof))
	}
	return k, nil
}

func (a *agent) symbols() *kernel.Symbols {
	s, err := kernel.LoadSymbols()
	if err != nil {
		a.set.Logger.Warn("Kernel stacks will show addresses instead of functions", zap.Error(err))
	}
	return s
}

// openSource opens the collection pass, or its substitute in /proc, unless one runs that reads the same.
func (a *agent) openSource(r *running, defs []probe.Definition) error {
	var readers []string
	for _, d := range defs {
		if len(d.Counters) > 0 {
			readers = append(readers, d.Name)
		}
	}
	if r.source == nil || !slices.Equal(readers, r.readers) {
		if err := a.replaceSource(r.kernelSide, defs); err != nil {
			return err
		}
		r.readers = readers
	}
	r.telemetry.setBTF(r.kernel.Source)
	r.telemetry.setProbe("netns", r.sourceHooks)
	a.logProbe("netns", r.sourceHooks)
	for _, d := range defs {
		if len(d.Counters) == 0 || needs(d, netns.HookNetlink) {
			continue
		}
		own := slices.DeleteFunc(slices.Clone(r.sourceHooks), func(h kernel.Hook) bool { return !needs(d, h.Name) })
		if err := a.settle(r, d, own...); err != nil {
			return err
		}
	}
	for i, served := range r.serves {
		if !served && r.counters[i].MIB != "" {
			a.set.Logger.Warn("This kernel does not have a counter", zap.String("counter", r.counters[i].MIB))
		}
	}
	return nil
}

// replaceSource opens a collection pass for the counters of defs, and closes the one before, if there is one. The
// inventory, and with it what has been counted by namespaces and processes that are gone, stays.
func (a *agent) replaceSource(k *kernelSide, defs []probe.Definition) error {
	var (
		counters []probe.Counter
		wanted   []netns.Counter
	)
	for _, d := range defs {
		for _, c := range d.Counters {
			counters = append(counters, c)
			wanted = append(wanted, c.Counter)
		}
	}
	procRoot := filepath.Join(a.cfg.RootPath, "proc")
	source, err := netns.NewWalk(k.kernel, procRoot, wanted)
	if errors.Is(err, kernel.ErrWrongBTF) {
		a.set.Logger.Error("The BTF is not used", zap.String("btf", k.kernel.Source.Path), zap.Error(err))
		k.kernel.Distrust()
	}
	if err != nil {
		a.set.Logger.Warn("This kernel cannot run the collection pass: counters are read from /proc, which costs more and misses network namespaces without a process", zap.Error(err))
		source = netns.NewProc(procRoot, wanted)
	}
	if k.inventory == nil {
		k.inventory = netns.NewInventory(source, a.cfg.RootPath, wanted)
	} else {
		k.inventory.Use(source, wanted)
	}
	err = k.closeSource()
	k.source, k.serves, k.counters, k.rows = source, source.Serves(), counters, nil
	k.sourceHooks = source.Hooks()
	return errors.Join(err, a.readSocketsWithin(k, k.sourceHooks))
}

// sockDiag is the variant of hooks of sockets that are read through netlink.
const sockDiag = "sock_diag"

// readSocketsWithin finds a substitute for the walk of sockets where the source has none: what sockets
// within the namespaces tell, of those that listen, too.
func (a *agent) readSocketsWithin(r *kernelSide, hooks []kernel.Hook) error {
	isMissing := func(h kernel.Hook) bool { return h.Name == netns.HookSockets && h.Variant == kernel.NoVariant }
	isOfSockets := func(c probe.Counter) bool { return c.Sockets != nil || c.Listeners != nil }
	if !slices.ContainsFunc(hooks, isMissing) || !slices.ContainsFunc(r.counters, isOfSockets) {
		return nil
	}
	var err error
	if r.diag, err = nslink.New(); err != nil {
		return err
	}
	err = r.inventory.ReadSockets(r.diag)
	for i := range hooks {
		switch h := &hooks[i]; {
		case h.Name != netns.HookSockets && h.Name != netns.HookListeners:
		case err != nil:
			h.Err = errors.Join(h.Err, err)
		default:
			h.Variant, h.Err = sockDiag, nil
		}
	}
	for i, c := range r.counters {
		r.serves[i] = r.serves[i] || err == nil && isOfSockets(c)
	}
	return nil
}

// demanded tells whether the user asked for a probe by name.
func (a *agent) demanded(d probe.Definition) bool {
	cfg, wanted := a.cfg.probe(d)
	return wanted && cfg.Enabled != nil
}

// settle takes note of the hooks of a probe. That none of them runs is an error if the probe was asked
// for by name.
func (a *agent) settle(r *running, d probe.Definition, hooks ...kernel.Hook) error {
	if a.demanded(d) && !runs(hooks) {
		return fmt.Errorf("probe %s: hook %s: %w", d.Name, hooks[0].Name, hooks[0].Err)
	}
	r.telemetry.setProbe(d.Name, hooks)
	a.logProbe(d.Name, hooks)
	return nil
}

// runs tells whether one of the hooks runs.
func runs(hooks []kernel.Hook) bool {
	return slices.ContainsFunc(hooks, func(h kernel.Hook) bool { return h.Variant != kernel.NoVariant })
}

// needs tells whether the counters of a probe come from one of the hooks of the collection pass.
func needs(d probe.Definition, hook string) bool {
	return slices.ContainsFunc(d.Counters, func(c probe.Counter) bool {
		switch {
		case c.Sockets != nil:
			return hook == netns.HookSockets
		case c.Listeners != nil:
			return hook == netns.HookListeners
		case c.Tasks != nil:
			return hook == netns.HookTasks
		case c.Links != nil, c.Conntrack != nil:
			return hook == netns.HookNetlink
		}
		return hook == netns.HookNamespaces
	})
}

// hookNode is what a probe of facts of the node reads.
const hookNode = "node"

// startNode finds the probes whose facts of the node can be read.
func (a *agent) startNode(r *running, defs []probe.Definition) error {
	for _, d := range defs {
		if d.Node == nil {
			continue
		}
		hook, read := kernel.Hook{Name: hookNode, Variant: "procfs"}, r.nodes[d.Name]
		if read == nil {
			read = d.Node()
			r.nodes[d.Name] = read
		}
		if _, err := read(r.root); err != nil {
			hook.Variant, hook.Err = kernel.NoVariant, err
		} else {
			r.node = append(r.node, nodeProbe{d.Name, read})
		}
		if err := a.settle(r, d, hook); err != nil {
			return err
		}
	}
	return nil
}

// startProbes starts the probes that have a kernel object, and ends those that are not wanted any more. One that cannot
// start does not stop another, but is an error if it was asked for by name.
func (a *agent) startProbes(r *running, defs []probe.Definition) error {
	if r.runner == nil {
		set := probe.Settings{Kernel: r.kernel, Names: r.names}
		var err error
		if set.Host, err = r.source.Host(); err != nil {
			a.set.Logger.Warn("Events of the host's network are not told apart by pod", zap.Error(err))
		}
		r.runner = probe.NewRunner(set)
	}
	if a.events == nil {
		r.runner.Attach(nil)
	} else {
		a.events.inventory, a.events.names, a.events.resources, a.events.heartbeat = r.inventory, r.names, r.resources, r.heartbeat
		a.events.cgroups = netns.NewCgroups(a.cfg.RootPath)
		r.runner.Attach(a.events.consume)
	}
	r.telemetry.setStats(r.runner.Stats)
	var names []string
	for _, d := range defs {
		names = append(names, d.Name)
	}
	if err := r.runner.Keep(names); err != nil {
		return err
	}
	for _, d := range defs {
		if d.Spec == nil {
			continue
		}
		cfg, _ := a.cfg.probe(d)
		hooks, err := r.runner.Start(d, cfg)
		if err != nil {
			hooks = idleHooks(err)
		}
		r.telemetry.setProbe(d.Name, hooks)
		if err != nil && a.demanded(d) {
			return err
		}
		if err != nil {
			a.set.Logger.Warn("Probe does not run", zap.String("probe", d.Name), zap.Error(err))
			continue
		}
		a.logProbe(d.Name, hooks)
	}
	return nil
}

// idleHooks returns the hooks of a probe that did not start, each with its reason.
func idleHooks(err error) []kernel.Hook {
	var none *kernel.NoHookError
	if errors.As(err, &none) {
		return none.Hooks
	}
	return []kernel.Hook{{Name: "start", Variant: kernel.NoVariant, Err: err}}
}

// logProbe says which variant of each hook of a probe runs.
func (a *agent) logProbe(name string, hooks []kernel.Hook) {
	fields := []zap.Field{zap.String("probe", name)}
	incomplete := false
	for _, h := range hooks {
		fields = append(fields, zap.String(h.Name, h.Variant))
		if h.Variant == kernel.NoVariant {
			incomplete = true
			fields = append(fields, zap.NamedError(h.Name+"_error", h.Err))
		}
	}
	switch {
	case incomplete && !runs(hooks):
		a.set.Logger.Warn("Probe does not run", fields...)
		return
	case incomplete:
		a.set.Logger.Warn("Probe runs without some of its hooks", fields...)
		return
	}
	a.set.Logger.Info("Probe runs", fields...)
}

// collect runs one collection pass.
func (a *agent) collect(context.Context) (pmetric.Metrics, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.running
	if r == nil {
		return pmetric.NewMetrics(), errors.New("the receiver is not running")
	}
	// Before it reads: what a sample says must not be older than its time.
	now := pcommon.NewTimestampFromTime(time.Now())
	var beatErr error
	if r.heartbeat != nil {
		beatErr = r.heartbeat.beat()
	}
	rows, passErr := r.inventory.Pass(r.rows[:0])
	if rows == nil {
		return pmetric.NewMetrics(), passErr
	}
	r.rows = rows
	snapshots, err := r.runner.Collect(r.inventory.Known)
	if r.heartbeat != nil {
		r.heartbeat.listen(r, rows, snapshots, now)
		rows = slices.DeleteFunc(rows, func(row netns.Row) bool { return r.heartbeat.owns(row.ID) })
	}
	r.telemetry.namespaces.Store(int64(len(rows)))
	node, nodeErr := r.readNode()
	metrics, series := r.record(rows, snapshots, node, now)
	r.telemetry.setSpent(r.budget.apply(metrics, series))
	if r.entities != nil {
		r.entities.wake()
	}
	if err = errors.Join(beatErr, passErr, err, nodeErr); err != nil {
		err = scrapererror.NewPartialScrapeError(err, 1)
	}
	return metrics, err
}

// record returns all that a pass has read, and how many series that is: to count them afterwards would
// fetch each of them from memory again.
func (r *running) record(rows []netns.Row, snapshots []probe.Snapshot, node []probe.NodeSnapshot, now pcommon.Timestamp) (metrics pmetric.Metrics, series int) {
	metrics = pmetric.NewMetrics()
	all := metrics.ResourceMetrics()
	all.EnsureCapacity(len(rows) + 2)
	busy := map[netns.ID]bool{}
	for _, s := range snapshots {
		for _, id := range s.Namespaces() {
			busy[id] = true
		}
	}
	zeros, none := r.zeros(snapshots, now), pmetric.NewMetricSlice()
	seriesOfZeros := 0
	for _, m := range zeros.All() {
		seriesOfZeros += pointsOf(m).Len()
	}
	for i := range rows {
		ns := r.inventory.Namespace(rows[i].ID)
		resource := r.resources.of(ns)
		if ns.Host {
			for _, s := range node {
				s.RecordHost(r.sinceBoot, now)
			}
			r.sinceBoot.EmitForResource(metadata.WithResource(resource))
		}
		quiet := zeros
		series += seriesOfZeros
		if busy[rows[i].ID] {
			for _, s := range snapshots {
				s.Record(r.sinceStart, now, rows[i].ID, r.names)
			}
			r.sinceStart.EmitForResource(resource)
			quiet = none
			series -= seriesOfZeros
		}
		series += r.recordRow(all, &rows[i], resource, quiet, now)
	}
	r.recordNode(snapshots, node, now)
	for _, rest := range []pmetric.Metrics{r.sinceBoot.Emit(), r.sinceStart.Emit()} {
		series += seriesCount(rest)
		rest.ResourceMetrics().MoveAndAppendTo(all)
	}
	return metrics, series
}

// zeros returns what the probes record of a namespace in which they have counted nothing.
func (r *running) zeros(snapshots []probe.Snapshot, now pcommon.Timestamp) pmetric.MetricSlice {
	nowhere := netns.ID{Cookie: math.MaxUint64}
	for _, s := range snapshots {
		s.Record(r.sinceStart, now, nowhere, r.names)
	}
	r.sinceStart.EmitForResource(pcommon.NewResource())
	zeros := pmetric.NewMetricSlice()
	for _, rm := range r.sinceStart.Emit().ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			sm.Metrics().MoveAndAppendTo(zeros)
		}
	}
	return zeros
}

// recordRow records the counters of one namespace, and what its probes say if they are quiet. It takes
// over the resource, and returns the number of series of the counters.
func (r *running) recordRow(to pmetric.ResourceMetricsSlice, row *netns.Row, resource pcommon.Resource, quiet pmetric.MetricSlice, now pcommon.Timestamp) (series int) {
	rm, metrics := r.series.begin(resource, quiet.Len())
	for i, c := range r.counters {
		if !r.serves[i] || c.Links != nil && !row.Links || c.Conntrack != nil && !row.Conntrack ||
			(c.Sockets != nil || c.Listeners != nil) && row.NoSockets {
			continue
		}
		r.series.add(metrics, i, now, int64(row.Values[i]))
	}
	series = metrics.Len() // a counter has one point
	for _, m := range quiet.All() {
		m.CopyTo(metrics.AppendEmpty())
	}
	if metrics.Len() > 0 {
		rm.MoveTo(to.AppendEmpty())
	}
	return series
}

// recordNode records the facts of the node, among them what was counted where the namespace could
// not be told.
func (r *running) recordNode(snapshots []probe.Snapshot, node []probe.NodeSnapshot, now pcommon.Timestamp) {
	for _, s := range snapshots {
		if slices.Contains(s.Namespaces(), netns.ID{}) {
			s.Record(r.sinceStart, now, netns.ID{}, r.names)
		}
	}
	for _, s := range node {
		s.RecordNode(r.sinceBoot, now)
	}
	resource := r.resources.of(netns.Namespace{})
	r.sinceBoot.EmitForResource(metadata.WithResource(resource))
	r.sinceStart.EmitForResource(resource)
}

// readNode reads what the kernel keeps for the node as a whole. One probe that fails does not hide
// the others.
func (r *running) readNode() ([]probe.NodeSnapshot, error) {
	var (
		snapshots []probe.NodeSnapshot
		errs      []error
	)
	for _, n := range r.node {
		s, err := n.read(r.root)
		if err != nil {
			errs = append(errs, fmt.Errorf("probe %s: %w", n.name, err))
			continue
		}
		snapshots = append(snapshots, s)
	}
	return snapshots, errors.Join(errs...)
}

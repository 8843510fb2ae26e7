// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"cmp"
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap/zaptest"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// rig is a receiver on the real kernel, with what it emits.
type rig struct {
	agent     *agent
	metrics   *consumertest.MetricsSink
	logs      *consumertest.LogsSink
	telemetry *componenttest.Telemetry
}

// requireRoot skips a test that needs to load programs and to make network namespaces.
func requireRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs, makes network namespaces")
	}
}

// start starts a receiver in a metrics and a logs pipeline, as the collector does. It makes no pass
// by itself: a test calls pass.
func start(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r, err := startAs(t, change, nil)
	require.NoError(t, err)
	return r
}

// startDefault starts a receiver as it is configured by default.
func startDefault(t testing.TB) *rig { return start(t, nil) }

// onePerTest returns start, or, where the kernel gives namespaces a cookie, what returns one and the same
// receiver: without it, a namespace inherits the events of an earlier one with its inode.
func onePerTest(t testing.TB, start func(testing.TB) *rig) func(testing.TB) *rig {
	requireRoot(t)
	if nettest.NewNamespace(t).Cookie == 0 {
		return start
	}
	r := start(t)
	return func(testing.TB) *rig { return r }
}

// startAs starts a receiver whose agent prepare may change, and returns the error of its start.
func startAs(t testing.TB, change func(*Config), prepare func(*agent)) (*rig, error) {
	t.Helper()
	requireRoot(t)
	cfg := createDefaultConfig().(*Config)
	cfg.ControllerConfig.CollectionInterval = time.Hour
	cfg.ControllerConfig.InitialDelay = time.Hour
	cfg.Entities = false // logs are events, but for the tests of entities
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	r := &rig{metrics: &consumertest.MetricsSink{}, logs: &consumertest.LogsSink{}, telemetry: componenttest.NewTelemetry()}
	set := receivertest.NewNopSettings(metadata.Type)
	set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	set.Logger = zaptest.NewLogger(t)
	s := &shared{agents: map[*Config]*agent{}}
	metrics, err := s.createMetrics(t.Context(), set, cfg, r.metrics)
	require.NoError(t, err)
	logs, err := s.createLogs(t.Context(), set, cfg, r.logs)
	require.NoError(t, err)
	r.agent = s.agent(set, cfg)
	if prepare != nil {
		prepare(r.agent)
	}
	for _, receiver := range []component.Component{metrics, logs} {
		if err := receiver.Start(t.Context(), componenttest.NewNopHost()); err != nil {
			require.NoError(t, receiver.Shutdown(context.Background()))
			return nil, err
		}
		t.Cleanup(func() { require.NoError(t, receiver.Shutdown(context.Background())) })
	}
	return r, nil
}

// walks tells whether an agent runs the collection pass; it must where the kernel can.
func (a *agent) walks(t testing.TB) bool {
	t.Helper()
	hooks := a.running.source.Hooks()
	i := slices.IndexFunc(hooks, func(h kernel.Hook) bool { return h.Name == netns.HookNamespaces })
	walks := hooks[i].Variant != "procfs"
	require.Equal(t, hasHelper("map_lookup_percpu_elem") && hasHelper("loop"), walks, "%s: %v", hooks[i].Name, hooks[i].Err)
	return walks
}

// needsWalk skips a test of the collection pass on a kernel that cannot run it.
func (r *rig) needsWalk(t testing.TB) {
	t.Helper()
	if !r.agent.walks(t) {
		t.Skip("this kernel cannot run the collection pass (before 5.19, or without BTF)")
	}
}

// see makes namespaces such that the receiver sees them: where it reads /proc they need a process.
func (r *rig) see(t testing.TB, namespaces ...*nettest.Namespace) {
	t.Helper()
	if r.agent.walks(t) {
		return
	}
	for _, n := range namespaces {
		n.Hold(t)
	}
}

// pair makes two namespaces that the receiver sees.
func (r *rig) pair(t testing.TB) *nettest.Pair {
	t.Helper()
	p := nettest.New(t)
	r.see(t, p.A, p.B)
	return p
}

// hasHelper tells whether the running kernel has a BPF helper, by its name in enum bpf_func_id.
func hasHelper(name string) bool { return hasMember("bpf_func_id", "BPF_FUNC_"+name) }

// hasDropReasons tells whether the running kernel gives drops a reason (5.17).
func hasDropReasons() bool { return hasMember("skb_drop_reason", "SKB_NOT_DROPPED_YET") }

// hasResetReasons tells whether the running kernel gives resets a reason (6.10).
func hasResetReasons() bool { return hasMember("sk_rst_reason", "SK_RST_REASON_NOT_SPECIFIED") }

// hasMember tells whether an enum of the running kernel has a member, false without BTF.
func hasMember(enum, member string) bool {
	k := thisKernel()
	if k == nil {
		return false
	}
	_, ok := k.Enum(enum)[member]
	return ok
}

// thisKernel is the running kernel with the enums that tests ask for, nil without BTF.
var thisKernel = sync.OnceValue(func() *kernel.Kernel {
	k, err := kernel.Open("/", kernel.Query{Enums: []string{"bpf_func_id", "skb_drop_reason", "sk_rst_reason"}})
	if err != nil {
		return nil
	}
	k.FlushTypes()
	return k
})

// series are the values of one namespace by metric name; those with attributes by "name{value,...}",
// the attributes' values in order of their keys. A histogram has its number of values as "name_count".
type series map[string]int64

// pass runs a collection pass and returns the series of each namespace by its inode, 0 for the node.
func (r *rig) pass(t testing.TB) map[uint64]series {
	t.Helper()
	metrics, err := r.agent.collect(t.Context())
	require.NoError(t, err)
	return byNamespace(metrics)
}

func byNamespace(metrics pmetric.Metrics) map[uint64]series {
	all := map[uint64]series{}
	for _, rm := range metrics.ResourceMetrics().All() {
		inode := inodeOf(rm.Resource())
		if all[inode] == nil {
			all[inode] = series{}
		}
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				for _, dp := range pointsOf(m).All() {
					all[inode][m.Name()+labels(dp.Attributes())] = dp.IntValue()
				}
				if m.Type() == pmetric.MetricTypeHistogram {
					for _, dp := range m.Histogram().DataPoints().All() {
						all[inode][m.Name()+"_count"+labels(dp.Attributes())] = int64(dp.Count())
					}
				}
			}
		}
	}
	return all
}

func labels(attrs pcommon.Map) string {
	s := ""
	for _, key := range []string{"type", "reason", "vector"} {
		if v, ok := attrs.Get(key); ok {
			s += "," + v.Str()
		}
	}
	if s == "" {
		return ""
	}
	return "{" + s[1:] + "}"
}

func inodeOf(r pcommon.Resource) uint64 {
	v, ok := r.Attributes().Get("network.netns.inode")
	if !ok {
		return 0
	}
	return uint64(v.Int())
}

// isOf tells whether a resource is that of a namespace, and not of an earlier one with its inode.
func isOf(resource pcommon.Map, n *nettest.Namespace) bool {
	if v, ok := resource.Get("network.netns.cookie"); ok {
		return uint64(v.Int()) == n.Cookie
	}
	v, ok := resource.Get("network.netns.inode")
	return ok && uint64(v.Int()) == n.Inode
}

// event is a log record with its resource.
type event struct {
	plog.LogRecord
	resource pcommon.Map
}

func (e event) attr(key string) string {
	v, ok := e.Attributes().Get(key)
	if !ok {
		return "<absent>"
	}
	return v.AsString()
}

// events returns those of the namespaces so far, in order of time: those that arrive together are by namespace.
func (r *rig) events(of ...*nettest.Namespace) []event {
	events := slices.DeleteFunc(r.allEvents(), func(e event) bool {
		return !slices.ContainsFunc(of, func(n *nettest.Namespace) bool { return isOf(e.resource, n) })
	})
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.Timestamp(), b.Timestamp()) })
	return events
}

// allEvents returns those of all namespaces so far.
func (r *rig) allEvents() []event {
	var all []event
	for _, logs := range r.logs.AllLogs() {
		for _, rl := range logs.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, rec := range sl.LogRecords().All() {
					all = append(all, event{rec, rl.Resource().Attributes()})
				}
			}
		}
	}
	return all
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// onlyProbe runs one probe and no other, one that must run.
func onlyProbe(name string, change func(*probe.Config)) func(*Config) {
	return func(c *Config) {
		enabled := true
		cfg := probe.DefaultConfig()
		cfg.Enabled = &enabled
		if change != nil {
			change(&cfg)
		}
		c.DefaultProbes, c.Probes = false, map[string]probe.Config{name: cfg}
	}
}

// everything makes every latency an event.
func everything(c *probe.Config) {
	threshold := time.Nanosecond
	c.Threshold, c.EventsPerSecond = &threshold, math.MaxUint32
}

// full makes a probe measure every latency.
func full(c *probe.Config) { c.FullHistograms = true }

// procSoftirqs returns how often a soft interrupt has run on all CPUs.
func procSoftirqs(t testing.TB, vector string) (n int64) {
	raw, err := os.ReadFile("/proc/softirqs")
	require.NoError(t, err)
	_, line, found := strings.Cut(string(raw), vector+":")
	require.True(t, found)
	line, _, _ = strings.Cut(line, "\n")
	for field := range strings.FieldsSeq(line) {
		v, err := strconv.ParseInt(field, 10, 64)
		require.NoError(t, err)
		n += v
	}
	return n
}

// histograms returns the histograms of a pass by name and vector, and fails the test if one is not the
// node's.
func (r *rig) histograms(t testing.TB) map[string]pmetric.HistogramDataPoint {
	t.Helper()
	metrics, err := r.agent.collect(t.Context())
	require.NoError(t, err)
	found := map[string]pmetric.HistogramDataPoint{}
	for _, rm := range metrics.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Type() != pmetric.MetricTypeHistogram {
					continue
				}
				assert.Equal(t, []string{"host.name"}, keys(rm.Resource().Attributes()), "%s is a fact of the node", m.Name())
				assert.Equal(t, "s", m.Unit())
				assert.Equal(t, pmetric.AggregationTemporalityCumulative, m.Histogram().AggregationTemporality())
				for _, dp := range m.Histogram().DataPoints().All() {
					id := m.Name() + labels(dp.Attributes())
					assert.NotContains(t, found, id)
					assert.Less(t, dp.StartTimestamp(), dp.Timestamp())
					found[id] = dp
				}
			}
		}
	}
	return found
}

func keys(m pcommon.Map) (keys []string) {
	for key := range m.All() {
		keys = append(keys, key)
	}
	return keys
}

// nodeEvents returns the events of the node so far.
func (r *rig) nodeEvents() (all []event) {
	for _, logs := range r.logs.AllLogs() {
		for _, rl := range logs.ResourceLogs().All() {
			if inodeOf(rl.Resource()) != 0 {
				continue
			}
			for _, sl := range rl.ScopeLogs().All() {
				for _, rec := range sl.LogRecords().All() {
					all = append(all, event{rec, rl.Resource().Attributes()})
				}
			}
		}
	}
	return all
}

// Each run is counted, as the kernel itself counts it.
func TestNetSoftirqEqualsProc(t *testing.T) {
	r := start(t, onlyProbe("net_softirq", full))
	p := nettest.New(t)
	const id = "inspector_pod_netsoftirq{NET_RX}"
	procBefore := procSoftirqs(t, "NET_RX")
	before := r.histograms(t)[id].Count()
	procWithin := procSoftirqs(t, "NET_RX")
	for _, f := range nettest.Families() {
		p.UDPToClosedPort(t, f, 500, false)
		p.ConnectTCP(t, f)
	}
	procWithin = procSoftirqs(t, "NET_RX") - procWithin
	after := r.histograms(t)
	procBefore = procSoftirqs(t, "NET_RX") - procBefore
	counted := int64(after[id].Count() - before)
	// The kernel counts a run when it begins, the probe when it has ended: one may be on its way on each CPU.
	cpus := int64(runtime.NumCPU())
	t.Logf("%d runs, by /proc/softirqs %d to %d", counted, procWithin, procBefore)
	assert.GreaterOrEqual(t, procWithin, int64(500))
	assert.GreaterOrEqual(t, counted, procWithin-cpus)
	assert.LessOrEqual(t, counted, procBefore+cpus)
	assert.Positive(t, after["inspector_pod_netsoftirqsched{NET_RX}"].Count())
	assert.LessOrEqual(t, after["inspector_pod_netsoftirqsched{NET_RX}"].Count(), after[id].Count()+uint64(cpus), "none waits twice for a run")

	for id, dp := range after {
		var sum uint64
		for _, n := range dp.BucketCounts().All() {
			sum += n
		}
		assert.Equal(t, dp.Count(), sum, id)
		assert.Equal(t, dp.ExplicitBounds().Len()+1, dp.BucketCounts().Len(), id)
		assert.InDelta(t, 1e-6, dp.ExplicitBounds().At(0), 0, id)
		assert.InDelta(t, 0.032768, dp.ExplicitBounds().At(15), 0, "level 15 of %s", id)
		assert.InDelta(t, 0.262144, dp.ExplicitBounds().At(18), 0, "level 18 of %s", id)
		assert.Equal(t, dp.Count() > 0, dp.Sum() > 0, id)
	}
	assert.Len(t, after, 6, "waiting in two spellings and running, of two vectors")
	assert.Equal(t, after["inspector_pod_netsoftirqsched{NET_RX}"].Count(), after["inspector_pod_netsoftirqshed{NET_RX}"].Count())
}

var softirqLine = regexp.MustCompile(`^type=NETSOFTIRQ_(SCHED|EXECUTE)_SLOW cpu=(\d+) pid=(\d+) comm=(\S+) vector=(NET_RX|NET_TX) latency=(\d+\.\d{3})ms$`)

// With the threshold at nothing each latency is an event, and events and histograms tell the same.
func TestNetSoftirqEvents(t *testing.T) {
	started := time.Now()
	r := start(t, onlyProbe("net_softirq", func(c *probe.Config) {
		everything(c)
		full(c)
	}))
	p := nettest.New(t)
	for _, f := range nettest.Families() {
		p.UDPToClosedPort(t, f, 20, true)
	}
	type tally struct {
		count uint64
		ns    uint64
	}
	events := func() map[string]tally {
		all := map[string]tally{}
		for _, e := range r.nodeEvents() {
			id := map[string]string{"NETSOFTIRQ_SCHED_SLOW": "inspector_pod_netsoftirqsched", "NETSOFTIRQ_EXECUTE_SLOW": "inspector_pod_netsoftirq"}[e.EventName()] +
				"{" + e.attr("softirq.vector") + "}"
			ns, err := strconv.ParseUint(e.attr("event.duration"), 10, 64)
			require.NoError(t, err)
			all[id] = tally{all[id].count + 1, all[id].ns + ns}
		}
		return all
	}
	// What the histograms had arrives as events; what the events had is in the histograms by then.
	first := r.histograms(t)
	require.Positive(t, first["inspector_pod_netsoftirqsched{NET_RX}"].Count())
	require.Positive(t, first["inspector_pod_netsoftirq{NET_RX}"].Count())
	var got map[string]tally
	nettest.Wait(t, "all latencies to arrive as events", func() bool {
		got = events()
		for id, dp := range first {
			if !strings.Contains(id, "shed") && got[id].count < dp.Count() {
				return false
			}
		}
		return true
	})
	second := r.histograms(t)
	stats := r.eventStats(t, "net_softirq")
	require.Zero(t, stats.RingFull+stats.Suppressed+stats.Undecodable+stats.Refused)
	for id, tally := range got {
		require.Contains(t, second, id)
		assert.LessOrEqual(t, tally.count, second[id].Count(), id)
		assert.GreaterOrEqual(t, float64(tally.ns)/1e9, first[id].Sum()-1e-9, id)
		assert.LessOrEqual(t, float64(tally.ns)/1e9, second[id].Sum()+1e-9, id)
	}

	own, names := 0, map[string]bool{}
	for _, e := range r.nodeEvents() {
		line := e.Body().Str()
		parts := softirqLine.FindStringSubmatch(line)
		require.NotNil(t, parts, line)
		names[e.EventName()] = true
		assert.Equal(t, []string{"host.name"}, keys(e.resource), "an event of the node")
		assert.Equal(t, e.EventName(), e.attr("event.name"))
		assert.Equal(t, "NETSOFTIRQ_"+parts[1]+"_SLOW", e.EventName())
		assert.Equal(t, parts[2], e.attr("cpu.logical_number"))
		assert.Equal(t, parts[3], e.attr("process.pid"))
		assert.Equal(t, parts[4], e.attr("thread.name"))
		assert.Equal(t, parts[5], e.attr("softirq.vector"))
		ns, err := strconv.ParseFloat(e.attr("event.duration"), 64)
		require.NoError(t, err)
		assert.Equal(t, parts[6], fmt.Sprintf("%.3f", math.Ceil(ns/1e3)/1e3), e.attr("event.duration"))
		assert.Greater(t, ns, 1.0)
		assert.False(t, e.Timestamp().AsTime().Before(started.Add(-time.Second)), line)
		assert.False(t, e.Timestamp().AsTime().After(time.Now()), line)
		cpu, err := strconv.Atoi(parts[2])
		require.NoError(t, err)
		assert.Less(t, cpu, runtime.NumCPU())
		if parts[3] == "0" {
			assert.Equal(t, "swapper/"+parts[2], parts[4], "the idle task of that CPU")
		}
		if strings.HasPrefix(parts[4], "ksoftirqd/") {
			assert.Equal(t, "ksoftirqd/"+parts[2], parts[4], "the thread of that CPU")
		}
		if parts[3] == strconv.Itoa(os.Getpid()) {
			own++
		}
	}
	assert.Len(t, names, 2, "waiting and running")
	assert.Positive(t, own, "the sender itself runs what its datagrams raise")
}

// A threshold that nothing exceeds makes no event; the metrics do not ask for it.
func TestNetSoftirqThreshold(t *testing.T) {
	r := start(t, onlyProbe("net_softirq", func(c *probe.Config) {
		threshold := time.Hour
		c.Threshold, c.FullHistograms = &threshold, true
	}))
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 20, true)
	assert.Positive(t, r.histograms(t)["inspector_pod_netsoftirq{NET_RX}"].Count())
	stats := r.eventStats(t, "net_softirq")
	assert.Zero(t, stats.Delivered+stats.Suppressed+stats.RingFull)
}

// It costs something on each packet: it is not in the default set.
func TestNetSoftirqIsOptIn(t *testing.T) {
	r := start(t, nil)
	assert.Empty(t, r.histograms(t))
	assert.NotContains(t, r.self(t, "otelcol_netexporter.probe.up", "probe"), "/net_softirq")
	assert.NotContains(t, r.self(t, "otelcol_netexporter.probe.up", "probe"), "/virtcmdlatency")
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probes"
)

// with replaces the kernel object of a probe by a changed one.
func with(name string, change func(*ebpf.CollectionSpec)) func(*agent) {
	return func(a *agent) {
		a.all = slices.Clone(a.all)
		for i, d := range a.all {
			if d.Name != name {
				continue
			}
			a.all[i].Spec = func() (*ebpf.CollectionSpec, error) {
				spec, err := d.Spec()
				if err == nil {
					change(spec)
				}
				return spec, err
			}
		}
	}
}

// addBrokenHook adds a hook to what no kernel has.
func addBrokenHook(spec *ebpf.CollectionSpec) {
	broken := spec.Programs["received__raw_tp"].Copy() // one that every kernel loads
	broken.SectionName, broken.AttachTo = "raw_tp/no_such_tracepoint", "no_such_tracepoint"
	spec.Programs["broken__raw_tp"] = broken
}

// breakAllHooks leaves nothing that a kernel could run.
func breakAllHooks(spec *ebpf.CollectionSpec) {
	addBrokenHook(spec)
	for name := range spec.Programs {
		if name != "broken__raw_tp" {
			delete(spec.Programs, name)
		}
	}
}

// self returns the values of one of the receiver's own metrics by the values of attributes.
func (r *rig) self(t testing.TB, name string, keys ...string) map[string]int64 {
	t.Helper()
	m, err := r.telemetry.GetMetric(name)
	require.NoError(t, err)
	var points []metricdata.DataPoint[int64]
	switch data := m.Data.(type) {
	case metricdata.Gauge[int64]:
		points = data.DataPoints
	case metricdata.Sum[int64]:
		points = data.DataPoints
	}
	got := map[string]int64{}
	for _, dp := range points {
		id := ""
		for _, key := range keys {
			v, _ := dp.Attributes.Value(attribute.Key(key))
			id += "/" + v.AsString()
		}
		got[id] = dp.Value
	}
	return got
}

// everyProbe runs the probes that are not in the default set, too.
func everyProbe(c *Config) {
	c.Probes = map[string]probe.Config{}
	for _, d := range probes.All() {
		if d.OptIn {
			c.Probes[d.Name] = probe.DefaultConfig()
		}
	}
}

// canTraceVirtio tells whether this machine has what virtcmdlatency looks at, and a kernel that lets it.
func canTraceVirtio() bool {
	for _, path := range []string{"/sys/bus/virtio/drivers/virtio_net", "/sys/bus/event_source/devices/kprobe"} {
		if _, err := os.Stat(path); err != nil {
			return false
		}
	}
	return true
}

func TestSelfTelemetry(t *testing.T) {
	r := start(t, everyProbe)
	for name, up := range r.self(t, "otelcol_netexporter.probe.up", "probe") {
		if hasResetReasons() && (name != "/virtcmdlatency" || canTraceVirtio()) {
			assert.EqualValues(t, 1, up, name)
		}
	}
	assert.Len(t, r.self(t, "otelcol_netexporter.probe.up", "probe"), len(r.agent.definitions())+1, "the probes and the pass itself")
	hooks := map[string]string{}
	for id, runs := range r.self(t, "otelcol_netexporter.probe.hook", "probe", "hook", "variant") {
		parts := strings.Split(id, "/")
		hooks[parts[1]+"/"+parts[2]] = parts[3]
		assert.Equal(t, parts[3] != kernel.NoVariant, runs == 1, id)
		// What an old kernel cannot run is in docs/kernels.md; this one can run all.
		if hasResetReasons() && (parts[1] != "virtcmdlatency" || canTraceVirtio()) {
			assert.NotEqual(t, kernel.NoVariant, parts[3], id)
		}
	}
	r.agent.walks(t)
	// For internal/cmd/kernelsdoc.
	release, err := kernel.Release()
	require.NoError(t, err)
	report, err := json.Marshal(map[string]any{"release": release, "hooks": hooks})
	require.NoError(t, err)
	t.Logf("variants: %s", report)
	n := len(r.pass(t))
	assert.GreaterOrEqual(t, n, 1)
	assert.GreaterOrEqual(t, r.self(t, "otelcol_netexporter.netns")[""], int64(1))

	p := nettest.New(t)
	p.ConnectClosedPort(t, nettest.IPv4)
	nettest.Wait(t, "the events to be counted", func() bool {
		return r.self(t, "otelcol_netexporter.events", "probe")["/tcpreset"] >= 2
	})
	for hop, lost := range r.self(t, "otelcol_netexporter.events.lost", "probe", "hop") {
		assert.Zero(t, lost, hop)
	}
}

func TestOneHookDoesNotRun(t *testing.T) {
	r, err := startAs(t, nil, with("tcpreset", addBrokenHook))
	require.NoError(t, err)
	hooks := r.self(t, "otelcol_netexporter.probe.hook", "probe", "hook", "variant")
	runs, ok := hooks["/tcpreset/broken/none"]
	assert.True(t, ok, "%v", hooks)
	assert.Zero(t, runs)
	assert.EqualValues(t, 1, r.self(t, "otelcol_netexporter.probe.up", "probe")["/tcpreset"])

	p := nettest.New(t)
	p.ConnectClosedPort(t, nettest.IPv6)
	nettest.Wait(t, "the events of the other hooks", func() bool { return len(r.events(p.A, p.B)) >= 2 })
}

func TestOneProbeDoesNotRun(t *testing.T) {
	r, err := startAs(t, nil, with("tcpreset", breakAllHooks))
	require.NoError(t, err)
	up := r.self(t, "otelcol_netexporter.probe.up", "probe")
	assert.Zero(t, up["/tcpreset"])
	assert.EqualValues(t, 1, up["/packetloss"])

	p := r.pair(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	b := r.pass(t)[p.B.Inode]
	assert.EqualValues(t, 1, b["inspector_pod_udpnoports"])
	assert.EqualValues(t, 1, b["inspector_pod_abnormalalloss"])
}

func TestAProbeAskedForMustRun(t *testing.T) {
	yes := true
	cfg := probe.DefaultConfig()
	cfg.Enabled = &yes
	_, err := startAs(t, func(c *Config) { c.Probes = map[string]probe.Config{"tcpreset": cfg} }, with("tcpreset", breakAllHooks))
	require.ErrorContains(t, err, "probe tcpreset")
	require.ErrorContains(t, err, "no_such_tracepoint")
}

// A receiver in only one of the pipelines does its work.
func TestMetricsAlone(t *testing.T) {
	r, err := startAs(t, nil, func(a *agent) { a.events = nil })
	require.NoError(t, err)
	p := r.pair(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	assert.EqualValues(t, 1, r.pass(t)[p.B.Inode]["inspector_pod_abnormalalloss"])
	assert.Empty(t, r.events(p.A, p.B))
}

// A pipeline that refuses events makes them a counted loss, not a hang.
func TestRefusedEventsAreCounted(t *testing.T) {
	r, err := startAs(t, nil, func(a *agent) { a.events.next = refuse{} })
	require.NoError(t, err)
	p := nettest.New(t)
	p.ConnectClosedPort(t, nettest.IPv4)
	nettest.Wait(t, "the loss to be counted", func() bool {
		return r.self(t, "otelcol_netexporter.events.lost", "probe", "hop")["/tcpreset/pipeline"] >= 2
	})
}

// A pipeline that blocks does not hold up the shutdown.
func TestShutdownOfABlockedPipeline(t *testing.T) {
	entered := make(chan struct{}, 1)
	_, err := startAs(t, nil, func(a *agent) { a.events.next = block{entered} })
	require.NoError(t, err)
	p := nettest.New(t)
	p.ConnectClosedPort(t, nettest.IPv4)
	<-entered
}

var errRefused = errors.New("the pipeline is full")

type refuse struct{}

func (refuse) Capabilities() consumer.Capabilities          { return consumer.Capabilities{} }
func (refuse) ConsumeLogs(context.Context, plog.Logs) error { return errRefused }

type block struct{ entered chan<- struct{} }

func (block) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }
func (b block) ConsumeLogs(ctx context.Context, _ plog.Logs) error {
	select {
	case b.entered <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

// Facts of the node that cannot be read are reported once, not with every pass.
func TestNodeFactsThatCannotBeRead(t *testing.T) {
	unreadable := func(a *agent) {
		a.all = slices.Clone(a.all)
		for i := range a.all {
			if a.all[i].Node != nil {
				a.all[i].Node = func() probe.NodeReader {
					return func(fs.FS) (probe.NodeSnapshot, error) { return nil, fs.ErrPermission }
				}
			}
		}
	}
	r, err := startAs(t, nil, unreadable)
	require.NoError(t, err)
	assert.Zero(t, r.self(t, "otelcol_netexporter.probe.up", "probe")["/slab"])
	r.pass(t) // without an error

	yes := true
	cfg := probe.DefaultConfig()
	cfg.Enabled = &yes
	_, err = startAs(t, func(c *Config) { c.Probes = map[string]probe.Config{"slab": cfg} }, unreadable)
	require.ErrorContains(t, err, "probe slab")
}

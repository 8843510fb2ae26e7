// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// kept is a receiver that a keeper is to keep the kernel side of.
func kept(t *testing.T, k *Keeper, change func(*Config)) *rig {
	t.Helper()
	r, err := startAs(t, change, func(a *agent) { a.keeper, a.set.ID = k, component.NewID(metadata.Type) })
	require.NoError(t, err)
	return r
}

// stop ends a receiver before its test does.
func (r *rig) stop(t *testing.T) {
	t.Helper()
	for range 2 { // a metrics and a logs receiver
		require.NoError(t, r.agent.Shutdown(context.Background()))
	}
}

func newKeeper(t *testing.T) *Keeper {
	requireRoot(t)
	if thisKernel() == nil {
		t.Skip("this kernel has no BTF: nothing is kept, there may be some at the next start")
	}
	k := NewKeeper()
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	return k
}

func plentyOf(name string) func(*Config) {
	return func(cfg *Config) {
		cfg.Probes = map[string]probe.Config{name: {Events: true, EventsPerSecond: plenty}}
	}
}

// refused returns how many connections to closed ports a namespace has answered, whatever reason the kernel knows.
func refused(s series) (n int64) {
	for name, value := range s {
		if strings.HasPrefix(name, "inspector_pod_tcpreset{TCPRESET_NOSOCK") {
			n += value
		}
	}
	return n
}

// What happens while the components are made anew arrives in the new pipeline, once, and counters count on.
func TestKeptAcrossRestart(t *testing.T) {
	k := newKeeper(t)
	first := kept(t, k, plentyOf("tcpreset"))
	p := first.pair(t)
	p.ConnectClosedPort(t, nettest.IPv4)
	require.EqualValues(t, 1, refused(first.pass(t)[p.B.Inode]))
	require.Eventually(t, func() bool { return len(first.events(p.B)) == 1 }, time.Minute, time.Millisecond)
	side := first.agent.running.kernelSide
	first.stop(t)
	for range 3 {
		p.ConnectClosedPort(t, nettest.IPv6)
	}
	second := kept(t, k, plentyOf("tcpreset"))
	assert.Same(t, side, second.agent.running.kernelSide)
	require.Eventually(t, func() bool { return len(second.events(p.B)) == 3 }, time.Minute, time.Millisecond)
	assert.Len(t, first.events(p.B), 1)
	assert.EqualValues(t, 4, refused(second.pass(t)[p.B.Inode]))
}

// A probe with other settings is another program, which counts on from where the one before was.
func TestOtherSettings(t *testing.T) {
	k := newKeeper(t)
	first := kept(t, k, plentyOf("tcpreset"))
	p := first.pair(t)
	p.ConnectClosedPort(t, nettest.IPv4)
	require.EqualValues(t, 1, refused(first.pass(t)[p.B.Inode]))
	objects := func(r *rig) map[string]any {
		all := map[string]any{}
		for _, s := range []string{"tcpreset", "packetloss"} {
			all[s] = r.agent.running.runner.Object(s)
		}
		return all
	}
	before := objects(first)
	first.stop(t)
	second := kept(t, k, func(cfg *Config) { plentyOf("tcpreset")(cfg); cfg.Probes["tcpreset"] = probe.Config{} })
	after := objects(second)
	assert.Same(t, before["packetloss"], after["packetloss"])
	assert.NotSame(t, before["tcpreset"], after["tcpreset"])
	p.ConnectClosedPort(t, nettest.IPv4)
	assert.EqualValues(t, 2, refused(second.pass(t)[p.B.Inode]))
	assert.Empty(t, second.events(p.B), "they were switched off")
}

// Fewer counters of the pass, and then all of them again: what ended processes have written still counts.
func TestOtherCounters(t *testing.T) {
	k := newKeeper(t)
	without := func(name string) func(*Config) {
		off := false
		return func(cfg *Config) { cfg.Probes = map[string]probe.Config{name: {Enabled: &off}} }
	}
	r := kept(t, k, nil)
	p := r.pair(t)
	r.pass(t)
	p.UDPToClosedPort(t, nettest.IPv4, 2, true)
	all := r.pass(t)[p.B.Inode]
	r.stop(t)
	r = kept(t, k, without("udp"))
	some := r.pass(t)[p.B.Inode]
	assert.NotContains(t, some, "inspector_pod_udpnoports")
	for name, value := range some {
		assert.GreaterOrEqual(t, value, all[name], name)
	}
	r.stop(t)
	r = kept(t, k, nil)
	assert.EqualValues(t, 2, r.pass(t)[p.B.Inode]["inspector_pod_udpnoports"])
}

// Another root is another host.
func TestOtherRootIsNotKept(t *testing.T) {
	k := newKeeper(t)
	first := kept(t, k, nil)
	side := first.agent.running.kernelSide
	first.stop(t)
	second := kept(t, k, func(cfg *Config) { cfg.RootPath = "/./" })
	assert.NotSame(t, side, second.agent.running.kernelSide)
}

// Where nobody comes back, or keeps, all is closed.
func TestKeeperClose(t *testing.T) {
	k := newKeeper(t)
	r := kept(t, k, nil)
	runner := r.agent.running.runner
	r.stop(t)
	assert.NotNil(t, runner.Object("tcpreset"))
	require.NoError(t, k.Close())
	assert.Nil(t, runner.Object("tcpreset"))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

func withHeartbeat(c *Config) {
	c.SelfTest = true
	c.DefaultProbes = false
	c.Probes = map[string]probe.Config{"packetloss": probe.DefaultConfig(), "udp": probe.DefaultConfig()}
}

// With self_test the receiver says that what runs was verified, and with each pass that it still works; of the namespaces
// that it takes nothing shows.
func TestHeartbeat(t *testing.T) {
	r := start(t, withHeartbeat)
	verified := r.self(t, "otelcol_netexporter.probe.verified", "probe")
	assert.Equal(t, map[string]int64{"/packetloss": 1, "/udp": 1}, verified)
	r.needsWalk(t)

	own := r.agent.running.heartbeat.pair
	for range 4 {
		all := r.pass(t)
		for _, n := range []*nettest.Namespace{own.A, own.B} {
			assert.NotContains(t, all, n.Inode)
		}
	}
	assert.Equal(t, map[string]int64{"/udp/seen": 4, "/packetloss/seen": 4},
		r.self(t, "otelcol_netexporter.heartbeats", "probe", "outcome"))

	// What is someone's still shows.
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	nettest.Wait(t, "the event", func() bool { return len(r.events(p.B)) > 0 })
	assert.Empty(t, r.events(own.A, own.B))
}

// A probe that does not count is told, and hides no other.
func TestHeartbeatMissed(t *testing.T) {
	r, err := startAs(t, withHeartbeat, func(a *agent) {
		i := slices.IndexFunc(a.all, func(d probe.Definition) bool { return d.Name == "packetloss" })
		blind(&a.all[i])
	})
	require.NoError(t, err)
	r.needsWalk(t)
	r.pass(t) // nothing was sent before it
	r.pass(t)
	beats := r.self(t, "otelcol_netexporter.heartbeats", "probe", "outcome")
	assert.Equal(t, map[string]int64{"/udp/seen": 2, "/packetloss/seen": 1, "/packetloss/missed": 1}, beats)
}

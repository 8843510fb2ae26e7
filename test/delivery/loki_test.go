// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
)

// bothRoutes sends events by both of the exporters.
const bothRoutes = "service: {pipelines: {logs/loki: {exporters: [otlp_http/loki, loki]}}}"

// Loki is away for a minute, in which the agent is killed: it has each event once all the same, by both routes.
func TestLokiOutage(t *testing.T) {
	const (
		outage = time.Minute
		pause  = 20 * time.Millisecond
	)
	agenttest.RequireRoot(t)
	loki := startLoki(t)
	variables := environment("LOKI_URL="+loki.url(), "NETEXPORTER_QUEUE="+t.TempDir())
	d := newDatagrams(t)
	agent := startCollector(t, variables, bothRoutes, lokiConfig)

	d.make(t, 100, pause)
	first, _ := agent.settle(t, d)
	for _, route := range []string{routeOTLP, routePush} {
		agenttest.Wait(t, "the first events to be in Loki", func() bool { return loki.count(of(route)) >= first })
	}

	loki.stop()
	gone := time.Now()
	for time.Since(gone) < outage/2 {
		d.make(t, 10, pause)
	}
	before, refused := agent.settle(t, d)
	assert.Zero(t, refused)
	require.Positive(t, agent.waiting(t, routeOTLP))
	require.Positive(t, agent.waiting(t, routePush))
	agent.kill(t)

	d.since = 0
	agent = startCollector(t, variables, bothRoutes, lokiConfig)
	for time.Since(gone) < outage {
		d.make(t, 10, pause)
	}
	loki.start()
	t.Logf("Loki was away for %v", time.Since(gone).Round(time.Second))
	d.make(t, 100, pause)

	var after int
	for _, route := range []string{routeOTLP, routePush} {
		agenttest.Wait(t, "all that waited to be delivered by "+route, func() bool { return agent.waiting(t, route) == 0 })
		var stored int
		agenttest.Wait(t, "as many events in Loki as the receiver emitted, by "+route, func() bool {
			after, refused = agent.settle(t, d)
			stored = loki.count(of(route))
			return stored >= before+after
		})
		assert.Zero(t, refused)
		t.Logf("%s: %d events before the kill and %d after it, %d in Loki", route, before, after, stored)
		assert.Equal(t, before+after, stored, "by %s", route)
		d.assertEach(t, loki, route)
		assert.Zero(t, agent.own(t, "otelcol_exporter_send_failed_log_records", `exporter="`+route+`"`))
		assert.Zero(t, agent.own(t, "otelcol_exporter_enqueue_failed_log_records", `exporter="`+route+`"`))

		// The documented look-up: a node, and a word.
		found := loki.query(of(route) + fmt.Sprintf(` |= "dport=%d "`, firstPort+42))
		if assert.Len(t, found, 1) {
			assert.Contains(t, found[0].line, "type=PACKETLOSS protocol=UDP ")
		}
	}
	assert.Zero(t, agent.own(t, "otelcol_netexporter_loki_dropped"))

	// What tells streams apart is little, and what a query may ask for is all.
	assert.NotEmpty(t, loki.query(`{node="`+nodeName()+`", namespace="netns", type="PACKETLOSS"} | logfmt | protocol="UDP"`), "push")
	assert.NotEmpty(t, loki.query(`{node="`+nodeName()+`", namespace="netns"} | event_name="PACKETLOSS" | network_transport="udp"`), "OTLP")
}

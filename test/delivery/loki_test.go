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
	t.Parallel()
	const (
		outage = time.Minute
		pause  = 20 * time.Millisecond
	)
	agenttest.RequireRoot(t)
	loki := agenttest.StartLoki(t)
	variables := environment("LOKI_URL="+loki.URL, "NETEXPORTER_QUEUE="+t.TempDir())
	d := newDatagrams(t)
	agent := startAgent(t, variables, d, lokiConfig, "loki", bothRoutes)
	routes := []string{routeOTLP, routePush}

	d.make(t, 100, pause)
	for _, route := range routes {
		d.waitStored(t, agent, loki, route)
	}

	loki.Stop(t)
	gone := time.Now()
	for time.Since(gone) < outage/2 {
		d.make(t, 10, pause)
	}
	d.settle(t, agent)
	for _, route := range routes {
		require.Positive(t, waiting(t, agent, route))
	}
	d.kill(t, agent)

	agent = startAgent(t, variables, d, lokiConfig, "loki", bothRoutes)
	for time.Since(gone) < outage {
		d.make(t, 10, pause)
	}
	loki.Start(t)
	t.Logf("Loki was away for %v", time.Since(gone).Round(time.Second))
	d.make(t, 100, pause)

	for _, route := range routes {
		d.waitStored(t, agent, loki, route)
		t.Logf("%s: %d events before the kill and %d after it, %d in Loki", route, len(d.reportedEarlier), len(d.reported)-len(d.reportedEarlier), len(d.stored(t, loki, route)))
		assert.Zero(t, agent.Own(t, "otelcol_exporter_send_failed_log_records", exporterIs(route)))
		assert.Zero(t, agent.Own(t, "otelcol_exporter_enqueue_failed_log_records", exporterIs(route)))

		// The documented look-up: a node, and a word.
		found := loki.Query(t, of(route)+fmt.Sprintf(` |= "dport=%d "`, d.reported[42]))
		if assert.Len(t, found, 1) {
			assert.Contains(t, found[0], "type=PACKETLOSS protocol=UDP ")
		}
	}
	assert.Zero(t, agent.Own(t, "otelcol_netexporter_loki_dropped"))

	// What tells streams apart is little, and what a query may ask for is all.
	assert.NotEmpty(t, loki.Query(t, `{node="`+nodeName()+`", namespace="netns", type="PACKETLOSS"} | logfmt | protocol="UDP"`), "push")
	assert.NotEmpty(t, loki.Query(t, `{node="`+nodeName()+`", namespace="netns"} | event_name="PACKETLOSS" | network_transport="udp"`), "OTLP")
}

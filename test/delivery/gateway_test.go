// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"fmt"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
)

const (
	gatewayConfig = "../../deploy/gateway/gateway.yaml"
	agentConfig   = "../../deploy/gateway/agent.yaml"
)

// startGateway runs a gateway that listens on address and sends to Loki.
func startGateway(t testing.TB, address, loki string) *agenttest.Agent {
	t.Helper()
	ports := agenttest.FreePorts(t, 2)
	c := &agenttest.Agent{Self: "http://" + agenttest.Loopback(ports[0]) + "/metrics"}
	c.Process = agenttest.Run(
		t, environment("LOKI_URL="+loki, "NETEXPORTER_LISTEN="+address, "NETEXPORTER_HEALTH="+agenttest.Loopback(ports[1])),
		agenttest.Program(t, "netexporter"), "--config", gatewayConfig, "--config", fmt.Sprintf(
			`yaml:service: {telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: %d, without_type_suffix: true}}}}]}}}`, ports[0],
		),
	)
	agenttest.Wait(t, "the gateway to be ready", func() bool {
		if c.Ended() {
			t.Fatalf("the gateway has ended: %v", c.Cmd.ProcessState)
		}
		_, err := agenttest.Get("http://" + agenttest.Loopback(ports[1]))
		return err == nil
	})
	return c
}

// withHosts makes a command see a file for /etc/hosts, as if the DNS said so.
func withHosts(t *testing.T, hosts string, next func(*exec.Cmd)) func(*exec.Cmd) {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	require.NoError(t, err)
	return func(cmd *exec.Cmd) {
		next(cmd)
		cmd.Args = append([]string{"unshare", "--mount", "--propagation=slave", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = unshare
	}
}

// One of two gateways is killed under load. Loki has each event once: what the gateway had not delivered is still the agent's.
func TestGatewayDies(t *testing.T) {
	agenttest.RequireRoot(t)
	loki := agenttest.StartLoki(t)
	// Loki takes its time, so that the gateways have something under way.
	slow := newProxy(t, loki.URL)
	slow.instead(func(w http.ResponseWriter, r *http.Request) {
		slow.forward.ServeHTTP(w, r)
		select {
		case <-r.Context().Done():
		case <-time.After(300 * time.Millisecond):
		}
	})
	port := agenttest.FreePorts(t, 1)[0]
	addresses := []string{"127.0.0.2", "127.0.0.3"}
	var gateways []*agenttest.Agent
	for _, address := range addresses {
		gateways = append(gateways, startGateway(t, fmt.Sprint(address, ":", port), slow.URL))
	}
	hosts := agenttest.WriteFile(t, "hosts", "127.0.0.1 localhost\n127.0.0.2 gateways.test\n127.0.0.3 gateways.test\n")
	variables := withHosts(t, hosts, environment(
		fmt.Sprint("NETEXPORTER_GATEWAY=gateways.test:", port), "NETEXPORTER_GATEWAY_INSECURE=true", "NETEXPORTER_QUEUE="+t.TempDir(),
	))
	d := newDatagrams(t)
	// Small batches, so that there are many.
	agent := startAgent(t, variables, d, agentConfig, "gateway",
		"exporters: {otlp_grpc/gateway: {sending_queue: {batch: {flush_timeout: 100ms, min_size: 20000, max_size: 20000}}}}")

	received := func(g *agenttest.Agent) int {
		return g.Own(t, "otelcol_receiver_accepted_log_records", `receiver="otlp"`)
	}
	agenttest.Wait(t, "both gateways to have had something", func() bool {
		d.make(t, 10, 5*time.Millisecond)
		return received(gateways[0]) > 0 && received(gateways[1]) > 0
	})
	d.make(t, 200, 2*time.Millisecond)
	require.Positive(t, waiting(t, agent, "otlp_grpc/gateway"), "events wait for the gateways")
	agenttest.Wait(t, "the gateway to be at work", func() bool {
		d.make(t, 1, 0)
		return gateways[0].Own(t, "otelcol_exporter_in_flight_requests") > 0
	})
	gateways[0].Kill(t)
	had := received(gateways[1])
	slow.instead(nil)
	d.make(t, 200, 2*time.Millisecond)

	d.waitStored(t, agent, loki, routeOTLP)
	assert.Greater(t, received(gateways[1]), had, "the other gateway went on")
	assert.Zero(t, agent.Own(t, "otelcol_exporter_send_failed_log_records"))
	assert.Zero(t, agent.Own(t, "otelcol_exporter_enqueue_failed_log_records"))
	t.Logf("%d events, %d in Loki", d.sent, len(d.stored(t, loki, routeOTLP)))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"sync/atomic"
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
	return startCollector(t, agenttest.Program(t, "netexporter"), gatewayConfig, "LOKI_URL="+loki, "NETEXPORTER_LISTEN="+address)
}

// startCollector runs a collector without the receiver of the agent, and returns once it is ready.
func startCollector(t testing.TB, program, config string, variables ...string) *agenttest.Agent {
	t.Helper()
	ports := agenttest.FreePorts(t, 2)
	c := &agenttest.Agent{Self: "http://" + agenttest.Loopback(ports[0]) + "/metrics"}
	c.Process = agenttest.Run(
		t, environment(append(variables, "NETEXPORTER_HEALTH="+agenttest.Loopback(ports[1]))...), program, "--config", config, "--config", fmt.Sprintf(
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
	t.Parallel()
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

// Through Kafka: Loki has each event once, though the collector behind the topic is killed with a message in hand, and the one
// before the topic, too.
func TestKafka(t *testing.T) {
	t.Parallel()
	agenttest.RequireRoot(t)
	const collector, broker = "../../bin/kafka/collector", "../../bin/kafka/broker"
	if _, err := os.Stat(collector); err != nil {
		t.Skip("NOT TESTED: delivery by Kafka, for want of bin/kafka. `make bin/kafka` builds it, once, in some minutes.")
	}
	loki := agenttest.StartLoki(t)
	p := newProxy(t, loki.URL)
	ports := agenttest.FreePorts(t, 2)
	agenttest.Run(t, nil, broker, fmt.Sprint("-port=", ports[0]))
	agenttest.Wait(t, "the broker to listen", func() bool { return !agenttest.IsFree(ports[0]) })
	brokers := "KAFKA_BROKERS=" + agenttest.Loopback(ports[0])
	produce := func() *agenttest.Agent {
		return startCollector(t, collector, "../../deploy/gateway/kafka/producer.yaml", brokers, "NETEXPORTER_LISTEN="+agenttest.Loopback(ports[1]))
	}
	consume := func() *agenttest.Agent {
		return startCollector(t, collector, "../../deploy/gateway/kafka/consumer.yaml", brokers, "LOKI_URL="+p.URL)
	}
	producer, consumer := produce(), consume()
	d := newDatagrams(t)
	variables := environment("NETEXPORTER_GATEWAY="+agenttest.Loopback(ports[1]), "NETEXPORTER_GATEWAY_INSECURE=true", "NETEXPORTER_QUEUE="+t.TempDir())
	agent := startAgent(t, variables, d, agentConfig, "gateway",
		"exporters: {otlp_grpc/gateway: {retry_on_failure: {max_interval: 1s}, sending_queue: {batch: {flush_timeout: 100ms, min_size: 20000, max_size: 20000}}}}")
	d.make(t, 50, time.Millisecond)
	d.waitStored(t, agent, loki, routeOTLP)

	// Loki takes a message or does not, and the collector is killed before it knows, while it tries for the second time: by then
	// it would have told Kafka that it has read the message, if it did so before Loki has it.
	for _, takes := range []bool{true, false} {
		var asked atomic.Int64
		p.instead(func(_ http.ResponseWriter, r *http.Request) {
			if takes {
				p.forward.ServeHTTP(httptest.NewRecorder(), r)
			}
			// What is not read to its end does not tell when the other side is gone.
			_, _ = io.Copy(io.Discard, r.Body)
			asked.Add(1)
			<-r.Context().Done()
		})
		d.make(t, 50, time.Millisecond)
		agenttest.Wait(t, "Loki to be asked again", func() bool { return asked.Load() > 1 })
		consumer.Kill(t)
		producer.Kill(t)
		d.make(t, 50, time.Millisecond)
		p.instead(nil)
		producer, consumer = produce(), consume()
		d.make(t, 50, time.Millisecond)
		d.waitStored(t, agent, loki, routeOTLP)
	}
	assert.Zero(t, agent.Own(t, "otelcol_exporter_send_failed_log_records"))
	t.Logf("%d events, %d in Loki", len(d.reported), len(d.stored(t, loki, routeOTLP)))
}

// What a cluster is given is what was tested: the manifests name the container's ports and the variables of the configuration.
func TestGatewayManifests(t *testing.T) {
	t.Parallel()
	const dir = "../../deploy/gateway/"
	manifests, err := os.ReadFile(dir + "kubernetes.yaml")
	require.NoError(t, err)
	config, err := os.ReadFile(gatewayConfig)
	require.NoError(t, err)
	agent, err := os.ReadFile(agentConfig)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`\{name: ([A-Z_]+), value: "(.*?)"\}`).FindAllStringSubmatch(string(manifests), -1) {
		assert.Contains(t, string(config), "${env:"+m[1]+":-")
	}
	assert.Contains(t, string(agent), "NETEXPORTER_GATEWAY:-netexporter-gateway.netexporter.svc.cluster.local:4317", "the Service")

	// With its environment the gateway listens on both IPv4 and IPv6.
	ports := agenttest.FreePorts(t, 3)
	agenttest.Run(t, environment(
		fmt.Sprintf("NETEXPORTER_LISTEN=[::]:%d", ports[0]), fmt.Sprintf("NETEXPORTER_HEALTH=[::]:%d", ports[1]), "NETEXPORTER_SELF=[::]",
	), agenttest.Program(t, "netexporter"), "--config", gatewayConfig, "--set", fmt.Sprint("service::telemetry::metrics::readers=[{pull: {exporter: {prometheus: {host: '[::]', port: ", ports[2], "}}}}]"))
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		for page, port := range map[string]int{"/": ports[1], "/metrics": ports[2]} {
			agenttest.Wait(t, host+page, func() bool {
				_, err := agenttest.Get(fmt.Sprint("http://", host, ":", port, page))
				return err == nil
			})
		}
		conn, err := net.Dial("tcp", fmt.Sprint(host, ":", ports[0]))
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
}

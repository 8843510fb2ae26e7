// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// sick is an agent with all the ailments that one can have at once: a probe that this machine cannot run, too many series,
// too few events allowed, a back end that refuses and one that hangs. Its node has another name, so that nobody mistakes it.
const sick = `
receivers:
  netexporter:
    self_test: true
    default_probes: false
    max_series: 40
    probes: {udp: , softnet: , packetloss: {events_per_second: 10}, virtcmdlatency: }
processors:
  k8spod: {node: sick}
exporters:
  otlp_http/refuses: {endpoint: %q, retry_on_failure: {enabled: false}, compression: none}
  otlp_http/hangs: {endpoint: %q, timeout: 1h, sending_queue: {queue_size: 10, num_consumers: 1, sizer: requests}, compression: none}
service:
  pipelines:
    logs: {exporters: [stdout, otlp_http/refuses, otlp_http/hangs]}
`

// sickAgent starts it, and blinds it to its own heartbeat.
func sickAgent(t *testing.T) (*agenttest.Agent, *agenttest.Prometheus) {
	t.Helper()
	refuses := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(refuses.Close)
	hangs, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections and never answers
	require.NoError(t, err)
	t.Cleanup(func() { _ = hangs.Close() })
	agent := agenttest.Start(t, agenttest.WriteFile(t, "sick.yaml", fmt.Sprintf(sick, refuses.URL, "http://"+hangs.Addr().String())))
	t.Cleanup(func() { agent.Kill(t) }) // asked to stop, it would wait for the back end that hangs

	server := startPrometheus(t, agent)
	agenttest.Wait(t, "heartbeats", func() bool {
		return len(server.Query(t, `otelcol_netexporter_heartbeats{outcome="seen"} > 1`)) == 2
	})
	blind(t, agent.Cmd.Process.Pid)
	return agent, server
}

// blind drops what the agent sends between its private namespaces, which it holds open as files.
func blind(t *testing.T, pid int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(t, err)
	namespaces := map[string]string{}
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil && strings.HasPrefix(target, "net:[") {
			namespaces[target] = file
		}
	}
	host, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	delete(namespaces, host)
	require.NotEmpty(t, namespaces, "the agent holds no namespaces of its own")
	for _, file := range namespaces {
		cmd := exec.Command("nsenter", "--net="+file, agenttest.SystemProgram(t, "nft"), "-f", "-")
		cmd.Stdin = strings.NewReader("add table inet blind\n" +
			"add chain inet blind input { type filter hook input priority 0; }\n" +
			"add rule inet blind input meta l4proto udp drop\n")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", cmd, out)
	}
}

// firesFor waits until alerts fire, while something goes on happening.
func firesFor(t *testing.T, server *agenttest.Prometheus, happen func(), want ...string) {
	t.Helper()
	missing := want
	for start := time.Now(); len(missing) > 0; time.Sleep(interval / 5) {
		require.Less(t, time.Since(start), patience, "these do not fire: %s", missing)
		happen()
		for _, a := range server.Alerts(t) {
			if a.State == "firing" {
				missing = slices.DeleteFunc(slices.Clone(missing), func(name string) bool { return name == a.Labels["alertname"] })
			}
		}
	}
}

// Alerts of agents, by what is wrong: those of a sick one fire wherever a test runs, but for alertProbeDown, which takes a kernel that
// cannot run a probe.
func alertsOfSick() []string {
	return []string{
		"NetexporterBlind", "NetexporterEventsSuppressed", "NetexporterEventsLost", "NetexporterSeriesFolded", "NetexporterDeliveryFails",
		"NetexporterQueueFills", "NetexporterRefuses",
	}
}

func alertsOfDead() []string { return []string{"NetexporterDown", "NetexporterStale"} }

const alertProbeDown = "NetexporterProbeDown"

// testSick has the alerts of the sick agent fire, and no other of agents.
func testSick(t *testing.T, server *agenttest.Prometheus) {
	p := nettest.New(t)
	storm := func() { p.UDPToClosedPort(t, nettest.IPv4, 200, false) }
	want := alertsOfSick()
	// Where there are virtio-net devices, and a kernel that shows their commands, the probe runs.
	if len(server.Query(t, `otelcol_netexporter_probe_up{probe="virtcmdlatency"} == 0`)) > 0 {
		want = append(want, alertProbeDown)
	}
	firesFor(t, server, storm, want...)
	for _, a := range server.Alerts(t) {
		if strings.HasPrefix(a.Labels["alertname"], "Netexporter") {
			assert.Contains(t, want, a.Labels["alertname"], "%v", a)
			assert.True(t, follow(t, server, a), "%s leads to %s, where there is nothing", a.Labels["alertname"], a.Annotations["dashboard"])
		}
	}
}

// testDead has the alerts of one that is gone fire.
func testDead(t *testing.T, agent *agenttest.Agent, server *agenttest.Prometheus) {
	agent.Kill(t)
	firesFor(t, server, func() {}, alertsOfDead()...)
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

const (
	lokiConfig = "../../distribution/config/loki.yaml"

	// The exporters of lokiConfig.
	routeOTLP = "otlp_http/loki"
	routePush = "loki"
)

// The tests mostly wait, so they run at once, on however few CPUs.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// of returns the selector of what came by a route. The label exporter is the push exporter's.
func of(route string) string {
	if route == routePush {
		return `{node="` + nodeName() + `", exporter="OTLP"}`
	}
	return `{node="` + nodeName() + `", exporter=""}`
}

// nodeName is the node's name as the agent says it.
func nodeName() string {
	text, _ := os.ReadFile("/etc/hostname")
	name, _, _ := strings.Cut(string(text), "\n")
	if name = strings.TrimSpace(name); name == "" {
		name, _ = os.Hostname()
	}
	return name
}

// environment sets variables, each as name=value, for a command.
func environment(variables ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), variables...) }
}

// startAgent runs the agent with a shipped configuration, whose pipeline for events is logs/name, and returns once it has
// served a collection pass. All losses of d are reported and, lest others on this machine count, no other event.
func startAgent(t *testing.T, prepare func(*exec.Cmd), d *datagrams, config, name, change string) *agenttest.Agent {
	t.Helper()
	ports := agenttest.FreePorts(t, agenttest.Ports)
	args := []string{
		"--config", agenttest.ShippedConfig, "--config", "yaml:" + agenttest.PortsConfig(ports), "--config", config,
		"--config", fmt.Sprintf(`yaml:
receivers: {netexporter: {probes: {packetloss: {events_per_second: 100000}}}}
processors: {filter/others: {log_conditions: ['not IsMatch(log.body, "^type=PACKETLOSS .*%s$")']}}
service:
  pipelines:
    logs: {processors: [memory_limiter, k8spod, filter/others], exporters: [stdout]}
    logs/%s: {processors: [memory_limiter, filter/%[2]s, k8spod, filter/others]}`, d.owner, name),
		"--config", "yaml:" + change,
	}
	return agenttest.StartWith(t, prepare, ports[0], ports[1], args...)
}

// waiting is how much is in an exporter's queue.
func waiting(t *testing.T, agent *agenttest.Agent, exporter string) int {
	t.Helper()
	return agent.Own(t, "otelcol_exporter_queue_size", exporterIs(exporter))
}

// exporterIs is the label of what is counted of an exporter.
func exporterIs(exporter string) string { return `exporter="` + exporter + `"` }

// datagrams makes events that can be told apart: each datagram goes to a port of its own that nobody listens on.
type datagrams struct {
	to    netip.Addr
	owner string // the end of their lines
	send  func(to netip.AddrPort) error
	sent  int // in all

	// Of agents before this one: how many datagrams they had, and the ports of the events that they have reported.
	sentEarlier     int
	reportedEarlier []int
	reported        []int // with those of this one, in their order
}

// firstPort is that of the first datagram.
const firstPort = 1000

func newDatagrams(t *testing.T) *datagrams {
	t.Helper()
	p := nettest.New(t)
	socket := p.A.ListenUDP(t, nettest.IPv4)
	require.NoError(t, socket.SetDeadline(time.Time{})) // an outage takes longer than nettest allows
	return &datagrams{
		to:    p.B.Addresses[nettest.IPv4],
		owner: " netns=" + p.B.Name,
		send:  func(to netip.AddrPort) error { _, err := socket.WriteToUDPAddrPort(make([]byte, 20), to); return err },
	}
}

// make sends some. Between two there is time for one to be dropped, rather than for the device's backlog to be full.
func (d *datagrams) make(t *testing.T, count int, pause time.Duration) {
	t.Helper()
	for range count {
		require.NoError(t, d.send(netip.AddrPortFrom(d.to, uint16(firstPort+d.sent))))
		d.sent++
		time.Sleep(pause)
	}
}

// settle waits until the events of all datagrams so far are in the exporters' queues, or have been refused there. What the
// receiver has emitted is on standard output, once, whatever becomes of it elsewhere: that is what the others are compared with.
func (d *datagrams) settle(t *testing.T, agent *agenttest.Agent) {
	t.Helper()
	const mark = 1 // a port below firstPort
	seen := func() []int { return d.seen(strings.Split(agent.Stdout.String(), "\n")) }
	marks := func() (n int) {
		for _, port := range seen() {
			if port == mark {
				n++
			}
		}
		return n
	}
	// One batch follows the other: when a later event is reported, those before it are out of the kernel; when one more is, that
	// one has been through all pipelines.
	for range 2 {
		before := marks()
		agenttest.Wait(t, "one more event to be reported", func() bool {
			require.NoError(t, d.send(netip.AddrPortFrom(d.to, mark)))
			return marks() > before
		})
	}
	d.reported = append(slices.Clone(d.reportedEarlier), slices.DeleteFunc(seen(), func(port int) bool { return port < firstPort })...)
	// The ring is that of all namespaces: somebody else's storm may fill it.
	if agent.Own(t, "otelcol_netexporter_events_lost", `hop="ring_full"`) == 0 {
		require.Equal(t, d.sent-d.sentEarlier, len(d.reported)-len(d.reportedEarlier), "datagrams, and events reported")
	}
}

// kill ends the agent as the kernel does for want of memory. What it has reported is settled before.
func (d *datagrams) kill(t *testing.T, agent *agenttest.Agent) {
	t.Helper()
	d.settle(t, agent)
	agent.Kill(t)
	d.sentEarlier, d.reportedEarlier = d.sent, d.reported
}

var lost = regexp.MustCompile(`^type=PACKETLOSS .* dport=(\d+) `)

// seen returns the ports of the events of ours in lines, in their order.
func (d *datagrams) seen(lines []string) []int {
	var ports []int
	for _, line := range lines {
		if m := lost.FindStringSubmatch(line); m != nil && strings.HasSuffix(line, d.owner) {
			port, _ := strconv.Atoi(m[1])
			ports = append(ports, port)
		}
	}
	return ports
}

// all returns the ports of the events of ours that Loki has by a route, those of settle included.
func (d *datagrams) all(t *testing.T, loki *agenttest.Loki, route string) []int {
	t.Helper()
	return d.seen(loki.Query(t, of(route)+` |= "`+d.owner+`"`))
}

// stored returns them without those of settle.
func (d *datagrams) stored(t *testing.T, loki *agenttest.Loki, route string) []int {
	t.Helper()
	return slices.DeleteFunc(d.all(t, loki, route), func(port int) bool { return port < firstPort })
}

// waitStored waits until Loki has as many events of ours as the receiver has emitted, and tells whether it has each once and in order.
func (d *datagrams) waitStored(t *testing.T, agent *agenttest.Agent, loki *agenttest.Loki, route string) {
	t.Helper()
	d.settle(t, agent)
	require.NotEmpty(t, d.reported)
	var ports []int
	agenttest.Wait(t, "all events to be in Loki by "+route, func() bool {
		ports = d.stored(t, loki, route)
		return len(ports) >= len(d.reported)
	})
	assert.Equal(t, d.reported, ports, "ports of the events by %s", route)
}

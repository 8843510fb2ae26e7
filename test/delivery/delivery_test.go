// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

// lokiServer is a Loki that can be stopped and started again.
type lokiServer struct {
	t       *testing.T
	program string
	dir     string
	port    int
	grpc    int
	*agenttest.Process
}

// startLoki runs Loki with the shipped configuration on ports of its own.
func startLoki(t *testing.T) *lokiServer {
	t.Helper()
	program, err := filepath.Abs("../../bin/loki")
	require.NoError(t, err)
	if _, err := os.Stat(program); err != nil {
		t.Skip("NOT TESTED: delivery to Loki, for want of bin/loki. `make bin/loki` builds it, once, in some minutes.")
	}
	ports := agenttest.FreePorts(t, 2)
	l := &lokiServer{t: t, program: program, dir: t.TempDir(), port: ports[0], grpc: ports[1]}
	l.start()
	return l
}

func (l *lokiServer) start() {
	l.t.Helper()
	l.Process = agenttest.Run(l.t, nil, l.program, "-config.file=../../deploy/loki/loki.yaml", "-common.path-prefix="+l.dir,
		"-common.storage.filesystem.chunk-directory="+l.dir+"/chunks", "-common.storage.filesystem.rules-directory="+l.dir+"/rules",
		fmt.Sprint("-server.http-listen-port=", l.port), fmt.Sprint("-server.grpc-listen-port=", l.grpc))
	agenttest.Wait(l.t, "Loki to be ready", func() bool {
		if l.Ended() {
			l.t.Fatalf("Loki has ended: %v", l.Cmd.ProcessState)
		}
		_, err := agenttest.Get(l.url() + "/ready")
		return err == nil
	})
}

func (l *lokiServer) stop() {
	l.t.Helper()
	l.Signal(l.t, syscall.SIGTERM)
	l.ExitCode(l.t)
}

func (l *lokiServer) url() string { return "http://" + agenttest.Loopback(l.port) }

// entry is a line that Loki has.
type entry struct {
	stream map[string]string
	at     int64 // Unix time in nanoseconds
	line   string
}

// query returns what a LogQL query finds of the last hour, oldest first, 5,000 lines at most.
func (l *lokiServer) query(logQL string) []entry {
	l.t.Helper()
	var answer struct {
		Data struct {
			Result []struct {
				Stream map[string]string
				Values [][]string
			}
		}
	}
	parameters := url.Values{
		"query": {logQL}, "limit": {"5000"}, "direction": {"forward"},
		"start": {strconv.FormatInt(time.Now().Add(-time.Hour).UnixNano(), 10)},
		"end":   {strconv.FormatInt(time.Now().Add(time.Minute).UnixNano(), 10)},
	}
	var text string
	agenttest.Wait(l.t, "Loki to answer", func() bool { // one that has just started may not
		var err error
		text, err = agenttest.Get(l.url() + "/loki/api/v1/query_range?" + parameters.Encode())
		return err == nil
	})
	require.NoError(l.t, json.Unmarshal([]byte(text), &answer), text)
	var entries []entry
	for _, s := range answer.Data.Result {
		for _, v := range s.Values {
			at, err := strconv.ParseInt(v[0], 10, 64)
			require.NoError(l.t, err)
			entries = append(entries, entry{s.Stream, at, v[1]})
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	require.Less(l.t, len(entries), 5000, "more than a query returns")
	return entries
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

// collector is bin/netexporter with configurations merged over the shipped one.
type collector struct {
	*agenttest.Process
	self string
}

// environment sets variables, each as name=value, for a command.
func environment(variables ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), variables...) }
}

// startAgent runs the agent with a shipped configuration, whose pipeline for events is logs/name, and returns once it has
// served a collection pass. All losses of d are reported and, lest others on this machine count, no other event.
func startAgent(t *testing.T, prepare func(*exec.Cmd), d *datagrams, config, name, change string) *collector {
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
	c := &collector{self: "http://" + agenttest.Loopback(ports[1]) + "/metrics"}
	c.Process = agenttest.Run(t, prepare, agenttest.Program(t, "netexporter"), args...)
	agenttest.Wait(t, "the first collection pass", func() bool {
		if c.Ended() {
			t.Fatalf("the collector has ended: %v", c.Cmd.ProcessState)
		}
		text, err := agenttest.Get("http://" + agenttest.Loopback(ports[0]) + "/metrics")
		return err == nil && strings.Contains(text, `pod="hostNetwork"`)
	})
	return c
}

// kill ends the collector as the kernel does for want of memory.
func (c *collector) kill(t *testing.T) {
	t.Helper()
	c.Signal(t, syscall.SIGKILL)
	c.ExitCode(t)
}

// own sums a metric about the collector itself over its series that have all the labels, as they are written there.
func (c *collector) own(t *testing.T, name string, labels ...string) int {
	t.Helper()
	text, err := agenttest.Get(c.self)
	require.NoError(t, err)
	sum := 0.0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name+"{") || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(line, l) }) {
			continue
		}
		var value float64
		_, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value)
		require.NoError(t, err, line)
		sum += value
	}
	return int(sum)
}

// settle waits until the events of all datagrams so far are in the exporters' queues, or have been refused there. On
// standard output there is each once, whatever becomes of it elsewhere.
func (c *collector) settle(t *testing.T, d *datagrams) {
	t.Helper()
	reported := func(from, to int) (n int) {
		for _, port := range d.seen(strings.Split(c.Stdout.String(), "\n")) {
			if port >= from && port < to {
				n++
			}
		}
		return n
	}
	agenttest.Wait(t, "all events to be reported", func() bool { return reported(firstPort, 1<<16) == d.since })
	// One batch follows the other: when the next one is reported, the last has been through all pipelines.
	for range 2 {
		before := reported(0, firstPort)
		require.NoError(t, d.send(netip.AddrPortFrom(d.to, 1)))
		agenttest.Wait(t, "one more", func() bool { return reported(0, firstPort) > before })
	}
}

// waiting is how much is in an exporter's queue.
func (c *collector) waiting(t *testing.T, exporter string) int {
	t.Helper()
	return c.own(t, "otelcol_exporter_queue_size", `exporter="`+exporter+`"`)
}

// datagrams makes events that can be told apart: each datagram goes to a port of its own that nobody listens on.
type datagrams struct {
	to    netip.Addr
	owner string // the end of their lines
	send  func(to netip.AddrPort) error
	sent  int // in all
	since int // the collector was started
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
		d.since++
		time.Sleep(pause)
	}
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

// ports returns those of all datagrams, in their order.
func (d *datagrams) ports() []int {
	ports := make([]int, d.sent)
	for i := range ports {
		ports[i] = firstPort + i
	}
	return ports
}

// stored returns the ports of the events of ours that Loki has by a route.
func (d *datagrams) stored(loki *lokiServer, route string) []int {
	var lines []string
	for _, e := range loki.query(of(route) + ` |= "` + d.owner + `"`) {
		lines = append(lines, e.line)
	}
	return slices.DeleteFunc(d.seen(lines), func(port int) bool { return port < firstPort })
}

// waitStored waits until Loki has as many events of ours as there were datagrams, and tells whether it has each once and in order.
func (d *datagrams) waitStored(t *testing.T, loki *lokiServer, route string) {
	t.Helper()
	var ports []int
	agenttest.Wait(t, "all events to be in Loki by "+route, func() bool {
		ports = d.stored(loki, route)
		return len(ports) >= d.sent
	})
	assert.Equal(t, d.ports(), ports, "ports of the events by %s", route)
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// watch starts `inspector watch`, and returns once the agents have taken it in.
func watch(t testing.TB, agents []agent, args ...string) *agenttest.Process {
	t.Helper()
	args = append([]string{"watch", "-d"}, args...)
	for _, a := range agents {
		args = append(args, "-s", a.Stream)
	}
	p := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), args...)
	agenttest.Wait(t, "the watch to begin", func() bool {
		if p.Ended() {
			t.Fatalf("it has ended: %s", p.Stderr.String())
		}
		return strings.Count(p.Stderr.String(), ": watching\n") == len(agents)
	})
	return p
}

// matching returns the lines on standard output that a pattern matches.
func matching(p *agenttest.Process, pattern string) []string {
	return regexp.MustCompile(`(?m)^.*`+pattern+`.*$`).FindAllString(p.Stdout.String(), -1)
}

// The documented lines, of a real reset in a namespace.
func TestWatchReset(t *testing.T) {
	a := start(t)
	p := nettest.New(t)
	agenttest.Wait(t, "the namespace to be known", func() bool { return a.page(t).of(p.B) != nil })
	text, asJSON := watch(t, []agent{a}), watch(t, []agent{a}, "-v")
	other := watch(t, []agent{a}, "--pod", "nobody")
	for _, f := range nettest.Families() {
		reset := p.ConnectClosedPort(t, f)
		from, to := reset.Destination, reset.Source // the packet that it answers
		line := fmt.Sprintf("INFO  TCPRESET_NOSOCK Namespace=netns Pod=%s Node=%s Netns=%d %s -> %s\n",
			p.B.Name, hostName(t), p.B.Inode, from, to)
		agenttest.Wait(t, line, func() bool { return strings.Contains(text.Stdout.String(), line) })
		pattern := regexp.MustCompile(`(?m)^\{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z","level":"INFO","source":"` + regexp.QuoteMeta(a.Stream) +
			`","msg":"TCPRESET_NOSOCK","meta":"netns/` + p.B.Name + ` node=` + hostName(t) + ` netns=ns` + fmt.Sprint(p.B.Inode) +
			` ","event":"protocol=TCP saddr=` + fmt.Sprintf("%s sport=%d daddr=%s dport=%d", from.Addr(), from.Port(), to.Addr(), to.Port()) + ` "\}$`)
		agenttest.Wait(t, pattern.String(), func() bool { return pattern.MatchString(asJSON.Stdout.String()) })
	}
	assert.Empty(t, other.Stdout.String())
	for _, w := range []*agenttest.Process{text, asJSON, other} {
		w.Signal(t, syscall.SIGINT)
		assert.Zero(t, w.ExitCode(t))
	}
}

func TestInspectorList(t *testing.T) {
	a := start(t)
	p := nettest.New(t)
	pid := p.A.Hold(t)
	list := func(args ...string) string {
		t.Helper()
		c := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), append([]string{"list", "-e", a.Stream}, args...)...)
		require.Zero(t, c.ExitCode(t), c.Stderr.String())
		return c.Stdout.String()
	}
	own := regexp.MustCompile(fmt.Sprintf(`(?m)^%s +netns +%s +ns%d +10\.77\.0\.1 fd77::1 +exe\(%d\)$`, hostName(t), p.A.Name, p.A.Inode, pid))
	agenttest.Wait(t, "the namespace to be listed", func() bool { return own.MatchString(list("entity")) })
	assert.Regexp(t, fmt.Sprintf(`(?m)^%s +hostNetwork +hostNetwork +ns0 `, hostName(t)), list("entity"))
	assert.Regexp(t, `(?m)^\S+ +tcpreset +yes +- +\d+ +\d+ +\d+ +.*\bsent=\w+`, list("probe"))
	assert.Regexp(t, `(?m)^\S+ +PACKETLOSS +\d+ `, list("event"))
	assert.Regexp(t, `(?m)^\S+ +inspector_pod_udpnoports +sum +\{datagram\} +[1-9]`, list("metric"))
	top := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), "top", "--once", "-e", a.Stream)
	require.Zero(t, top.ExitCode(t), top.Stderr.String())
	assert.Contains(t, top.Stdout.String(), p.A.Name)
}

// client watches without a process.
type client struct {
	position, records, lost atomic.Uint64
	done                    sync.WaitGroup
}

// resources counts the ResourceLogs of a LogsData: each event has one. To decode all would keep fifty clients busy.
func resources(t *testing.T, logs []byte) (n uint64) {
	t.Helper()
	for len(logs) > 0 {
		number, _, size := protowire.ConsumeField(logs)
		if !assert.EqualValues(t, 1, number) || !assert.Positive(t, size) {
			return n
		}
		logs = logs[size:]
		n++
	}
	return n
}

// follow watches from the first event on.
func follow(t *testing.T, address string) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	stream, err := eventstreamv1.NewEventStreamClient(conn).Watch(ctx, &eventstreamv1.WatchRequest{Since: timestamppb.New(time.Unix(0, 0))})
	require.NoError(t, err)
	_, err = stream.Recv() // says that it is in
	require.NoError(t, err)
	c := &client{}
	c.done.Go(func() {
		for r, err := stream.Recv(); err == nil; r, err = stream.Recv() {
			c.records.Add(resources(t, r.Logs))
			c.lost.Add(r.Lost)
			c.position.Store(r.Position.Sequence)
		}
	})
	t.Cleanup(func() { cancel(); c.done.Wait(); _ = conn.Close() })
	return c
}

// One watcher of fifty that stops and an event storm: the others get all, the stopped one is told what it has lost, the agent
// stays as large as it was.
func TestStoppedWatcher(t *testing.T) {
	const others, buffer = 49, 2048
	a := start(t, agenttest.WriteFile(t, "storm.yaml", `
receivers: {netexporter: {default_probes: false, probes: {udp: , packetloss: {events_per_second: 500}}}} # udp: see start
exporters: {eventstream: {buffer_events: `+strconv.Itoa(buffer)+`}}
service: {pipelines: {logs: {exporters: [eventstream]}}}
`))
	var clients []*client
	for range others {
		clients = append(clients, follow(t, a.Stream))
	}
	stopped := watch(t, []agent{a}, "--since", "1h")
	stopped.Signal(t, syscall.SIGSTOP)

	p := nettest.New(t)
	destination := p.UDPToClosedPort(t, nettest.IPv4, 1, false).Destination
	socket := p.A.ListenUDP(t, nettest.IPv4)
	events := func() uint64 { return uint64(a.own(t, "otelcol_netexporter_eventstream_events")) }
	var total uint64
	// In gusts: that the others keep up must not depend on how busy the machine is.
	blowUntil := func(count uint64) {
		for total < count {
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				_, err := socket.WriteToUDPAddrPort(make([]byte, 20), destination)
				require.NoError(t, err)
			}
			agenttest.Wait(t, "all to have all", func() bool {
				total = events()
				return !slices.ContainsFunc(clients, func(c *client) bool { return c.position.Load() != total })
			})
		}
	}
	blowUntil(2 * buffer)
	before := a.memory(t)
	blowUntil(6 * buffer)
	after := a.memory(t)
	t.Logf("%d events; resident before %d MiB, after %d MiB", total, before>>20, after>>20)
	assert.InDelta(t, total, a.own(t, `otelcol_netexporter_events{probe="packetloss"}`), 0, "what the pipeline carried")
	for _, c := range clients {
		assert.Equal(t, total, c.records.Load())
		assert.Zero(t, c.lost.Load())
	}
	assert.Less(t, after, before+before/2, "it grows with what one watcher does not read")

	stopped.Signal(t, syscall.SIGCONT)
	var printed, lost uint64
	agenttest.Wait(t, "the stopped one to be told", func() bool {
		printed, lost = uint64(strings.Count(stopped.Stdout.String(), "\n")), 0
		for _, m := range regexp.MustCompile(`(?m): (\d+) events lost: `).FindAllStringSubmatch(stopped.Stderr.String(), -1) {
			n, err := strconv.ParseUint(m[1], 10, 64)
			require.NoError(t, err)
			lost += n
		}
		return printed+lost == events()
	})
	t.Logf("the stopped one has printed %d, and knows of %d that it has lost", printed, lost)
	assert.Positive(t, lost)
	assert.InDelta(t, lost, a.own(t, "otelcol_netexporter_eventstream_events_lost"), 0, "nobody else has lost any")
	assert.Zero(t, a.own(t, `otelcol_netexporter_events_lost{hop="pipeline",probe="packetloss"}`), "no watcher holds the pipeline up")
}

// memory returns the resident set of the agent.
func (a agent) memory(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.Cmd.Process.Pid))
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`).FindStringSubmatch(string(status))
	require.NotNil(t, m)
	kib, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	return kib << 10
}

// Three agents at once; one of them is killed and comes again.
func TestWatchSeveral(t *testing.T) {
	// Others may make resets on this machine, too: they must not use up the rate limit. The probe udp has a series of each
	// namespace, by which start knows a collection pass.
	only := "receivers: {netexporter: {default_probes: false, probes: {udp: , tcpreset: {events_per_second: 100000}}}}\n"
	var nodes []*node
	var agents []agent
	for i := range 3 {
		n := newNode(t, fmt.Sprintf("node-%d", i), only)
		nodes = append(nodes, n)
		agents = append(agents, n.start(t))
	}
	w := watch(t, agents)
	p := nettest.New(t)
	reset := func(nodes ...int) {
		t.Helper()
		packet := p.ConnectClosedPort(t, nettest.IPv6)
		for _, n := range nodes {
			agenttest.Wait(t, fmt.Sprintf("the reset to be seen by node-%d", n), func() bool {
				return len(matching(w, fmt.Sprintf(`TCPRESET_NOSOCK .* Node=node-%d .*\b%d\b`, n, packet.Source.Port()))) == 1
			})
		}
	}
	reset(0, 1, 2)

	killed := agents[1]
	killed.Kill(t)
	agenttest.Wait(t, "notice", func() bool {
		return strings.Contains(w.Stderr.String(), killed.Stream+": ") && strings.Contains(w.Stderr.String(), "; trying again")
	})
	reset(0, 2)

	again := nodes[1].start(t)
	agenttest.Wait(t, "notice of the gap", func() bool {
		return strings.Contains(w.Stderr.String(), killed.Stream+": connected again, to an agent that has started anew: events since ")
	})
	reset(0, 1, 2)
	w.Signal(t, syscall.SIGTERM)
	assert.Zero(t, w.ExitCode(t))
	again.Stop(t)
}

// node is a network namespace that an agent runs in. Its ports are reached at those of the same numbers here.
type node struct {
	*nettest.Namespace
	ports  []int
	config string
}

func newNode(t *testing.T, name, config string) *node {
	t.Helper()
	n := &node{
		Namespace: nettest.NewNamespace(t), ports: agenttest.FreePorts(t, agenttest.Ports),
		config: agenttest.WriteFile(t, name+".yaml", config+"processors: {k8spod: {node: "+name+"}}"),
	}
	for _, port := range n.ports {
		n.forward(t, agenttest.Loopback(port))
	}
	return n
}

func (n *node) start(t *testing.T) agent {
	t.Helper()
	enter := func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"nsenter", "--net=/run/netns/" + n.Name}, cmd.Args...)
		cmd.Path, cmd.Err = exec.LookPath("nsenter")
	}
	a := startWith(t, enter, n.ports[0], n.ports[1],
		"--config", agenttest.ShippedConfig, "--config", "yaml:"+agenttest.PortsConfig(n.ports), "--config", n.config)
	a.Stream = agenttest.Loopback(n.ports[3])
	return a
}

// forward hands connections to an address on to the same address in the namespace, until the test ends.
func (n *node) forward(t *testing.T, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait() // the namespace goes next; connections end with the agent
	})
	running.Go(func() {
		for {
			outside, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			running.Go(func() {
				defer outside.Close()
				inside, err := n.DialContext(context.Background(), "tcp", address)
				if err != nil {
					return // nobody there
				}
				defer inside.Close()
				running.Go(func() {
					_, _ = io.Copy(inside, outside)
					_ = inside.Close()
				})
				_, _ = io.Copy(outside, inside)
			})
		}
	})
}

// Whoever reads the output and has had enough closes it, as head does.
func TestWatchClosedPipe(t *testing.T) {
	a := start(t)
	p := nettest.New(t)
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	w := agenttest.Run(t, func(cmd *exec.Cmd) { cmd.Stdout = writer }, agenttest.Program(t, "inspector"), "watch", "-d", "-e", a.Stream)
	require.NoError(t, writer.Close())
	agenttest.Wait(t, "the watch to begin", func() bool { return strings.Contains(w.Stderr.String(), ": watching\n") })
	p.ConnectClosedPort(t, nettest.IPv4)
	_, err = bufio.NewReader(reader).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	agenttest.Wait(t, "the watch to end, without another event", w.Ended)
	status := w.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	assert.True(t, status.Signaled() && status.Signal() == syscall.SIGPIPE, "as other programs do: %v", w.Cmd.ProcessState)
	assert.NotContains(t, w.Stderr.String(), "goroutine")
}

// terminal is a pseudo-terminal.
type terminal struct {
	master *os.File
	slave  *os.File
	agenttest.Output
}

func openTerminal(t testing.TB) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs a pseudo-terminal: %v", err)
	}
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	tty := &terminal{master: master, slave: slave}
	require.NoError(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 160}))
	go func() { _, _ = io.Copy(&tty.Output, master) }()
	t.Cleanup(func() { _, _ = slave.Close(), master.Close() })
	return tty
}

func TestTopAndColorsOnTerminal(t *testing.T) {
	a := start(t)
	tty := openTerminal(t)
	before, err := unix.IoctlGetTermios(int(tty.slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	onTerminal := func(cmd *exec.Cmd) { cmd.Stdin, cmd.Stdout = tty.slave, tty.slave }
	top := agenttest.Run(t, onTerminal, agenttest.Program(t, "inspector"), "top", "-e", a.Stream)
	agenttest.Wait(t, "a table", func() bool { return strings.Contains(tty.String(), "hostNetwork") })
	_, err = tty.master.WriteString("n/nobody-has-this-name\r")
	require.NoError(t, err)
	agenttest.Wait(t, "the filter", func() bool { return strings.Contains(tty.String(), "filter: nobody-has-this-name") })
	_, err = tty.master.WriteString("x")
	require.NoError(t, err)
	assert.Zero(t, top.ExitCode(t))
	after, err := unix.IoctlGetTermios(int(tty.slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	assert.Equal(t, before, after, "the terminal is as it was")

	w := agenttest.Run(t, func(cmd *exec.Cmd) {
		onTerminal(cmd)
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NO_COLOR") })
	},
		agenttest.Program(t, "inspector"), "watch", "-d", "-e", a.Stream)
	agenttest.Wait(t, "the watch to begin", func() bool { return strings.Contains(w.Stderr.String(), ": watching\n") })
	p := nettest.New(t)
	p.ConnectClosedPort(t, nettest.IPv4)
	agenttest.Wait(t, "a line in color", func() bool { return strings.Contains(tty.String(), "\x1b[36mINFO\x1b[0m  \x1b[1mTCP") })
	w.Signal(t, syscall.SIGINT)
	assert.Zero(t, w.ExitCode(t))
}

// BenchmarkWatch measures from the moment in which the kernel sends a reset to the line of inspector, read from its output.
func BenchmarkWatch(b *testing.B) {
	a := start(b, agenttest.WriteFile(b, "rate.yaml", "receivers: {netexporter: {probes: {tcpreset: {events_per_second: 100000}}}}"))
	p := nettest.New(b)
	reader, writer, err := os.Pipe()
	require.NoError(b, err)
	w := agenttest.Run(b, func(cmd *exec.Cmd) { cmd.Stdout = writer }, agenttest.Program(b, "inspector"), "watch", "-d", "-v", "-t", "TCPRESET_NOSOCK", "--pod", p.B.Name, "-e", a.Stream)
	require.NoError(b, writer.Close())
	agenttest.Wait(b, "the watch to begin", func() bool { return strings.Contains(w.Stderr.String(), ": watching\n") })
	lines := bufio.NewReader(reader)
	var delays []time.Duration
	for families := nettest.Families(); b.Loop(); {
		p.ConnectClosedPort(b, families[len(delays)%len(families)])
		line, err := lines.ReadBytes('\n')
		now := time.Now()
		require.NoError(b, err)
		var event struct{ Time time.Time }
		require.NoError(b, json.Unmarshal(line, &event))
		delays = append(delays, now.Sub(event.Time))
	}
	slices.SortFunc(delays, func(x, y time.Duration) int { return cmp.Compare(x, y) })
	b.ReportMetric(float64(delays[len(delays)/2])/1e6, "ms-median")
	b.ReportMetric(float64(delays[len(delays)*99/100])/1e6, "ms-p99")
	b.ReportMetric(0, "ns/op")
}

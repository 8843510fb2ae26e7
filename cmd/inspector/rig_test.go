// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netexporter/netexporter/exporter/eventstreamexporter"
	"github.com/netexporter/netexporter/internal/entity"
)

const timeout = time.Minute // of every wait; far beyond what any of them takes

// agent is the real server of an agent, fed by the test.
type agent struct {
	address string
	logs    exporter.Logs
	metrics exporter.Metrics
}

// freeAddress returns an address of loopback that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func startAgent(t testing.TB, change func(*eventstreamexporter.Config)) *agent {
	t.Helper()
	return startAgentAt(t, freeAddress(t), change)
}

func startAgentAt(t testing.TB, address string, change func(*eventstreamexporter.Config)) *agent {
	t.Helper()
	return startAgentIn(t, nil, address, change)
}

// host has the extensions that an agent may use.
type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

func startAgentIn(t testing.TB, in host, address string, change func(*eventstreamexporter.Config)) *agent {
	t.Helper()
	factory := eventstreamexporter.NewFactory()
	cfg := factory.CreateDefaultConfig().(*eventstreamexporter.Config)
	cfg.ServerConfig.NetAddr.Endpoint = address
	if change != nil {
		change(cfg)
	}
	set := exportertest.NewNopSettings(factory.Type())
	logs, err := factory.CreateLogs(t.Context(), set, cfg)
	require.NoError(t, err)
	metrics, err := factory.CreateMetrics(t.Context(), set, cfg)
	require.NoError(t, err)
	a := &agent{address, logs, metrics}
	require.NoError(t, logs.Start(t.Context(), in))
	require.NoError(t, metrics.Start(t.Context(), in))
	t.Cleanup(a.stop)
	return a
}

// stop ends the agent. It is safe more than once.
func (a *agent) stop() {
	_ = a.logs.Shutdown(context.Background())
	_ = a.metrics.Shutdown(context.Background())
}

// label puts the labels of the processor on a resource.
func label(res pcommon.Map, namespace, pod string) {
	res.PutStr("namespace", namespace)
	res.PutStr("pod", pod)
	res.PutStr("node", "worker-1")
	res.PutStr("netns", "ns4026531993")
	res.PutInt("network.netns.inode", 4026531993)
}

// reset is an event of a pod at a time.
func reset(pod string, at time.Time) plog.Logs {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	label(rl.Resource().Attributes(), "shop", pod)
	rec := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	rec.SetEventName("TCP_RCV_RST_ESTAB")
	rec.SetSeverityText("INFO")
	rec.SetTimestamp(pcommon.NewTimestampFromTime(at))
	a := rec.Attributes()
	a.PutStr("event.name", "TCP_RCV_RST_ESTAB")
	a.PutStr("network.transport", "tcp")
	a.PutStr("source.address", "10.1.16.255")
	a.PutInt("source.port", 43186)
	a.PutStr("destination.address", "100.100.27.15")
	a.PutInt("destination.port", 3128)
	return logs
}

func (a *agent) publish(t testing.TB, logs plog.Logs) {
	t.Helper()
	require.NoError(t, a.logs.ConsumeLogs(t.Context(), logs))
}

// pass makes a collection pass of pods that have dropped so many packets.
func (a *agent) pass(t testing.TB, at time.Time, drops map[string]int64) {
	t.Helper()
	md := pmetric.NewMetrics()
	for pod, n := range drops {
		rm := md.ResourceMetrics().AppendEmpty()
		label(rm.Resource().Attributes(), "shop", pod)
		metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
		for name, value := range map[string]int64{metricDrops: n, metricTxQueue: 10, metricRxQueue: 20} {
			m := metrics.AppendEmpty()
			m.SetName(name)
			m.SetUnit("By")
			m.SetDescription("what it is")
			dp := m.SetEmptySum().DataPoints().AppendEmpty()
			dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
			dp.SetIntValue(value)
		}
	}
	require.NoError(t, a.metrics.ConsumeMetrics(t.Context(), md))
}

// state is that of a network namespace and of a probe.
func state() plog.Logs {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	label(rl.Resource().Attributes(), "shop", "web")
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	id, description := entity.Append(records, entity.TypeNamespace, 60_000)
	id.PutInt(entity.KeyNetnsInode, 4026531993)
	id.PutInt(entity.KeyNetnsCookie, 7)
	description.PutInt(entity.KeyProcessCount, 5)
	p := description.PutEmptySlice(entity.KeyProcesses).AppendEmpty().SetEmptyMap()
	p.PutInt(entity.KeyPID, 42)
	p.PutStr(entity.KeyExecutable, "ngi\x1b[31mnx")
	description.PutEmptySlice(entity.KeyAddresses).AppendEmpty().SetStr("10.0.0.1")

	id, description = entity.Append(records, entity.TypeProbe, 60_000)
	id.PutStr(entity.KeyProbe, "tcpreset")
	_ = description.FromRaw(map[string]any{
		"up": true, "verified": true, "events": 5, "events.suppressed": 6, "events.lost": map[string]any{"ring_full": 3, "decode": 4},
		"hooks": []any{map[string]any{"hook": "sent", "variant": "raw_tp"}},
	})
	return logs
}

// output collects what a command writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// lines returns the complete lines so far.
func (o *output) lines() []string {
	var lines []string
	for line := range strings.Lines(o.String()) {
		if line, whole := strings.CutSuffix(line, "\n"); whole {
			lines = append(lines, line)
		}
	}
	return lines
}

// command is one that runs.
type command struct {
	out, err output
	cancel   context.CancelFunc
	done     chan error
}

// run starts a command as from the shell, in this process.
func run(t testing.TB, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &command{cancel: cancel, done: make(chan error, 1)}
	root := newCommand()
	root.SetOut(&c.out)
	root.SetErr(&c.err)
	root.SetIn(strings.NewReader(""))
	root.SetArgs(args)
	go func() { c.done <- root.ExecuteContext(ctx) }()
	t.Cleanup(cancel)
	return c
}

// wait waits for the end of the command.
func (c *command) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-c.done:
		return err
	case <-time.After(timeout):
		t.Fatalf("the command does not end; output:\n%s%s", c.out.String(), c.err.String())
		return nil
	}
}

// end ends the command as Ctrl-C does.
func (c *command) end(t testing.TB) {
	t.Helper()
	c.cancel()
	require.NoError(t, c.wait(t))
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, timeout, time.Millisecond, what)
}

// watching starts a watch, and returns once the agents have taken it in.
func watching(t testing.TB, agents int, args ...string) *command {
	t.Helper()
	c := run(t, append([]string{"watch", "-d"}, args...)...)
	eventually(t, "the watch to begin", func() bool { return strings.Count(c.err.String(), ": watching\n") == agents })
	return c
}

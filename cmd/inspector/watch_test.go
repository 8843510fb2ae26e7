// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/exporter/eventstreamexporter"
)

// documentedRecord is an event as the documents show it.
func documentedRecord(name string, res, attrs map[string]any) record {
	r := record{source: "10.1.17.113:19102", at: time.Date(2023, 2, 3, 9, 1, 3, 402118044, time.UTC), resource: pcommon.NewMap(), log: plog.NewLogRecord()}
	r.log.SetSeverityText("INFO")
	_ = r.resource.FromRaw(res)
	_ = r.log.Attributes().FromRaw(attrs)
	r.log.Attributes().PutStr("event.name", name)
	return r
}

// The documented lines, to the letter.
func TestDocumentedForms(t *testing.T) {
	estab := documentedRecord("TCP_RCV_RST_ESTAB",
		map[string]any{"namespace": "kube-system", "pod": "kube-proxy-worker-tbv5s", "node": "iZbp1jesgumdx66l8ym8j8Z", "netns": "ns0", "network.netns.inode": 4026531993},
		map[string]any{"network.transport": "tcp", "source.address": "10.1.16.255", "source.port": 43186, "destination.address": "100.100.27.15", "destination.port": 3128})
	process := documentedRecord("TCPRESET_PROCESS",
		map[string]any{"namespace": "hostNetwork", "pod": "hostNetwork", "node": "izbp1dnsn1bwv9oyu2gaupz", "netns": "ns0", "network.netns.inode": 4026531993},
		map[string]any{"network.transport": "tcp", "source.address": "10.1.17.113", "source.port": 6443, "destination.address": "10.1.17.113", "destination.port": 44226, "tcp.state": "TCP_OTHER"})
	v6 := documentedRecord("TCPRESET_NOSOCK", map[string]any{"namespace": "a", "pod": "b", "host.name": "n"},
		map[string]any{"source.address": "fd00::1", "source.port": 1, "destination.address": "fd00::2", "destination.port": 2})
	softirq := documentedRecord("NETSOFTIRQ_SCHED_SLOW", map[string]any{"node": "n"},
		map[string]any{"cpu.logical_number": 1, "process.pid": 7, "thread.name": "x\x1b[2J", "softirq.vector": "NET_RX", "event.duration": 1})
	for _, tt := range []struct {
		format string
		record record
		want   string
	}{
		{formatText, estab, "INFO  TCP_RCV_RST_ESTAB Namespace=kube-system Pod=kube-proxy-worker-tbv5s Node=iZbp1jesgumdx66l8ym8j8Z Netns=4026531993 10.1.16.255:43186 -> 100.100.27.15:3128"},
		{formatJSON, process, `{"time":"2023-02-03T09:01:03.402118044Z","level":"INFO","source":"10.1.17.113:19102","msg":"TCPRESET_PROCESS","meta":"hostNetwork/hostNetwork node=izbp1dnsn1bwv9oyu2gaupz netns=ns0 ","event":"protocol=TCP saddr=10.1.17.113 sport=6443 daddr=10.1.17.113 dport=44226  state:TCP_OTHER "}`},
		{formatText, v6, "INFO  TCPRESET_NOSOCK Namespace=a Pod=b Node=n Netns= [fd00::1]:1 -> [fd00::2]:2"},
		{formatText, softirq, "INFO  NETSOFTIRQ_SCHED_SLOW Namespace= Pod= Node=n Netns= cpu=1 pid=7 comm=x%1B[2J vector=NET_RX latency=0.001ms"},
	} {
		assert.Equal(t, tt.want+"\n", string(newRenderer(tt.format, palette{})(nil, tt.record)))
	}
	assert.Regexp(t, `^2023-02-03T\S+\.402118\S+ INFO  TCPRESET_PROCESS Namespace=hostNetwork .* state:TCP_OTHER source=10\.1\.17\.113:19102\n$`,
		string(newRenderer(formatWide, palette{})(nil, process)))
	assert.Equal(t, "\x1b[36mINFO\x1b[0m  \x1b[1mTCPRESET_NOSOCK\x1b[0m Namespace=a Pod=b Node=n Netns= [fd00::1]:1 -> [fd00::2]:2\n",
		string(newRenderer(formatText, palette{true})(nil, v6)))
}

func TestWatchCommand(t *testing.T) {
	a := startAgent(t, nil)
	text := watching(t, 1, "-e", a.address)
	asJSON := watching(t, 1, "-s", a.address, "-v")
	filtered := watching(t, 1, "-e", a.address, "--pod", "db", "--port", "3128", "--address", "10.0.0.0/8", "--namespace", "shop", "--netns", "ns4026531993", "-t", "tcp_rcv_rst_estab")
	at := time.Unix(1700000000, 5)
	for _, pod := range []string{"web", "db"} {
		a.publish(t, reset(pod, at))
	}
	const line = "INFO  TCP_RCV_RST_ESTAB Namespace=shop Pod=%s Node=worker-1 Netns=4026531993 10.1.16.255:43186 -> 100.100.27.15:3128"
	eventually(t, "two lines", func() bool { return len(text.out.lines()) == 2 && len(asJSON.out.lines()) == 2 })
	assert.Equal(t, []string{fmt.Sprintf(line, "web"), fmt.Sprintf(line, "db")}, text.out.lines())
	var parsed map[string]string
	require.NoError(t, json.Unmarshal([]byte(asJSON.out.lines()[0]), &parsed))
	assert.Equal(t, "2023-11-14T22:13:20.000000005Z", parsed["time"])
	eventually(t, "a line", func() bool { return len(filtered.out.lines()) == 1 })
	assert.Equal(t, fmt.Sprintf(line, "db"), filtered.out.lines()[0])
	for _, c := range []*command{text, asJSON, filtered} {
		c.end(t)
	}

	since := run(t, "watch", "-e", a.address, "--since", "2023-11-14T22:13:20Z", "--count", "2")
	require.NoError(t, since.wait(t))
	assert.Len(t, since.out.lines(), 2)
}

// Those of several nodes come in the order of their time, whoever is faster.
func TestMerge(t *testing.T) {
	first, second := startAgent(t, nil), startAgent(t, nil)
	c := watching(t, 2, "-s", first.address, "-s", second.address, "-s", first.address)
	now := time.Now()
	second.publish(t, reset("2", now.Add(2)))
	second.publish(t, reset("4", now.Add(4)))
	first.publish(t, reset("1", now.Add(1)))
	first.publish(t, reset("3", now.Add(3)))
	eventually(t, "four lines", func() bool { return len(c.out.lines()) == 4 })
	for i, line := range c.out.lines() {
		assert.Contains(t, line, fmt.Sprintf("Pod=%d ", i+1))
	}
	c.end(t)
}

func TestMerger(t *testing.T) {
	var m merger
	start := time.Unix(0, 0)
	at := func(ms int) record { return record{at: start.Add(time.Duration(ms) * time.Millisecond)} }
	_, waiting := m.next()
	assert.False(t, waiting)
	m.add([]record{at(20)}, start)
	m.add([]record{at(10), at(30)}, start.Add(hold/2))
	next, waiting := m.next()
	assert.True(t, waiting)
	assert.Equal(t, start.Add(hold), next)
	assert.Empty(t, m.due(start.Add(hold-1)))
	assert.Equal(t, []record{at(10), at(20)}, m.due(start.Add(hold)), "and who is older than who is due")
	assert.Equal(t, []record{at(30)}, m.due(start.Add(2*hold)))
}

// An agent that ends and comes again: the watch says so, and goes on.
func TestReconnect(t *testing.T) {
	a := startAgent(t, nil)
	other := startAgent(t, nil)
	c := watching(t, 2, "-s", a.address, "-s", other.address)
	a.publish(t, reset("before", time.Now()))
	eventually(t, "a line", func() bool { return len(c.out.lines()) == 1 })
	a.stop()
	eventually(t, "notice of the end", func() bool {
		return strings.Contains(c.err.String(), a.address+": the agent is shutting down; trying again")
	})
	other.publish(t, reset("meanwhile", time.Now()))
	eventually(t, "a line of the other", func() bool { return len(c.out.lines()) == 2 })

	a = startAgentAt(t, a.address, nil)
	a.publish(t, reset("early", time.Now()))
	eventually(t, "notice of the gap", func() bool {
		return strings.Contains(c.err.String(), a.address+": connected again, to an agent that has started anew: events since ")
	})
	a.publish(t, reset("after", time.Now()))
	eventually(t, "all lines", func() bool { return len(c.out.lines()) == 4 })
	assert.Contains(t, c.out.lines()[2], "Pod=early ", "what the new agent has seen before we were there")
	assert.Contains(t, c.out.lines()[3], "Pod=after ")
	c.end(t)
}

// One of several that does not answer is said to, tried again, and no reason to stop.
func TestOneOfSeveralIsDown(t *testing.T) {
	a, down := startAgent(t, nil), freeAddress(t)
	c := run(t, "watch", "-d", "-s", a.address, "-s", down)
	eventually(t, "a notice", func() bool {
		return strings.Contains(c.err.String(), "connection refused") && strings.Contains(c.err.String(), a.address+": watching")
	})
	b := startAgentAt(t, down, nil)
	eventually(t, "the other to be there", func() bool { return strings.Contains(c.err.String(), down+": watching") })
	b.publish(t, reset("late", time.Now()))
	eventually(t, "a line", func() bool { return len(c.out.lines()) == 1 })
	c.end(t)
}

func TestLostIsSaid(t *testing.T) {
	a := startAgent(t, func(c *eventstreamexporter.Config) { c.BufferEvents = 10 })
	for i := range 25 {
		a.publish(t, reset(fmt.Sprint(i), time.Unix(int64(i), 0)))
	}
	// Whoever was cut off at the fifth has lost those that are not remembered.
	n := (&connection{addresses: []string{a.address}, timeout: timeout})
	nodes, err := n.nodes(t.Context())
	require.NoError(t, err)
	defer nodes[0].connection.Close()
	stream, err := nodes[0].Watch(t.Context(), &eventstreamv1.WatchRequest{})
	require.NoError(t, err)
	first, err := stream.Recv()
	require.NoError(t, err)
	position := first.Position
	position.Sequence = 5

	deliveries := make(chan delivery, 10)
	w := &watcher{node: nodes[0], request: &eventstreamv1.WatchRequest{}, timeout: timeout, to: deliveries, position: position, joined: true, cutOff: time.Now()}
	go w.run(t.Context())
	assert.Contains(t, (<-deliveries).notice, "connected again, going on where it was")
	assert.Contains(t, (<-deliveries).notice, ": 10 events lost")
	assert.Len(t, (<-deliveries).records, 10)
}

// A name that no event has may be a mistake, of which one would never hear otherwise.
func TestUnknownEvent(t *testing.T) {
	a := startAgent(t, nil)
	c := watching(t, 1, "-e", a.address, "-t", "tcpreset_nosock,TCP_SEND_RST,TCPRESET")
	assert.Contains(t, c.err.String(), "--type TCPRESET: this version knows no such event")
	assert.Equal(t, 1, strings.Count(c.err.String(), "no such event"))
	c.end(t)
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.16.255": "10.1.16.255:19102", "10.0.0.1:1": "10.0.0.1:1", "worker-1": "worker-1:19102", "worker-1:80": "worker-1:80",
		"fd00::1": "[fd00::1]:19102", "[fd00::1]": "[fd00::1]:19102", "[fd00::1]:9": "[fd00::1]:9", ":9": "127.0.0.1:9", " localhost ": "localhost:19102",
	} {
		got, err := parseAddress(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got)
	}
	for _, in := range []string{"", "a:0", "a:65536", "a:http", "http://a", "a:b:c", "10.0.0.1:"} {
		_, err := parseAddress(in)
		assert.Equal(t, exitUsage, exitCode(err), in)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Unix(1000, 0)
	got, err := parseSince("10m", now)
	require.NoError(t, err)
	assert.Equal(t, now.Add(-10*time.Minute).UTC(), got.AsTime())
	got, err = parseSince("1970-01-01T00:00:05.5Z", now)
	require.NoError(t, err)
	assert.Equal(t, time.Unix(5, 5e8).UTC(), got.AsTime())
	got, err = parseSince("", now)
	require.NoError(t, err)
	assert.Nil(t, got)
	for _, in := range []string{"yesterday", "-5m", "10"} {
		_, err = parseSince(in, now)
		assert.Equal(t, exitUsage, exitCode(err), in)
	}
}

func TestColors(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	require.NoError(t, os.Unsetenv("NO_COLOR"))
	for when, want := range map[string]palette{"always": {true}, "never": {}, "auto": {}} {
		got, err := colorsFor(when, io.Discard)
		require.NoError(t, err)
		assert.Equal(t, want, got, when)
	}
	_, err := colorsFor("perhaps", io.Discard)
	assert.Equal(t, exitUsage, exitCode(err))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// list runs a list to its end, and returns its lines without the spaces between columns.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	c := run(t, append([]string{"list"}, args...)...)
	require.NoError(t, c.wait(t))
	var lines []string
	for _, line := range c.out.lines() {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func TestListEntity(t *testing.T) {
	a := startAgent(t, nil)
	assert.Equal(t, []string{"NODE NAMESPACE POD NETNS ADDRESSES PROCESSES"}, list(t, "entity", "-e", a.address))
	a.publish(t, state())
	assert.Equal(t, []string{
		"NODE NAMESPACE POD NETNS ADDRESSES PROCESSES",
		"worker-1 shop web ns4026531993 10.0.0.1 ngi?[31mnx(42) and 4 more", // whatever a process is called, the terminal stays as it is
	}, list(t, "entities", "-e", a.address))
	assert.Len(t, list(t, "entity", "-e", a.address, "--pod", "db"), 1)

	want := map[string]any{
		"node": "worker-1", "namespace": "shop", "pod": "web", "netns": "ns4026531993", "inode": 4026531993, "cookie": 7,
		"addresses": []any{"10.0.0.1"}, "process_count": 5, "processes": []any{map[string]any{"pid": 42, "name": "ngi\x1b[31mnx"}},
	}
	var got []map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(strings.Join(output0(t, "entity", "-o", "yaml", "-e", a.address), "\n")), &got))
	assert.Equal(t, []map[string]any{want}, got)
	raw := strings.Join(output0(t, "entity", "-o", "json", "-e", a.address), "\n")
	wantJSON, err := json.Marshal([]any{want})
	require.NoError(t, err)
	assert.JSONEq(t, string(wantJSON), raw)
}

// output0 returns the lines of a list as they are.
func output0(t *testing.T, args ...string) []string {
	t.Helper()
	c := run(t, append([]string{"list"}, args...)...)
	require.NoError(t, c.wait(t))
	return c.out.lines()
}

func TestListProbe(t *testing.T) {
	a := startAgent(t, nil)
	a.publish(t, state())
	assert.Equal(t, []string{
		"NODE PROBE UP VERIFIED EVENTS SUPPRESSED LOST HOOKS",
		"worker-1 tcpreset yes yes 5 6 7 sent=raw_tp",
	}, list(t, "probe", "-e", a.address))
	var got []probeItem
	require.NoError(t, json.Unmarshal([]byte(strings.Join(output0(t, "probe", "-o", "json", "-e", a.address), "\n")), &got))
	require.Len(t, got, 1)
	assert.EqualValues(t, 3, got[0].Lost["ring_full"])
	assert.Equal(t, []hookItem{{Hook: "sent", Variant: "raw_tp"}}, got[0].Hooks)
}

func TestListEvent(t *testing.T) {
	a := startAgent(t, nil)
	a.publish(t, state())
	a.publish(t, reset("web", time.Unix(1700000000, 0)))
	lines := list(t, "event", "-e", a.address)
	assert.Len(t, lines, len(eventNames())+1)
	assert.Contains(t, lines, "worker-1 PACKETLOSS 0 -")
	assert.Contains(t, lines, "worker-1 TCP_RCV_RST_ESTAB 1 "+time.Unix(1700000000, 0).Format(time.DateTime))
}

func TestListMetric(t *testing.T) {
	a := startAgent(t, nil)
	c := run(t, "list", "metric", "-e", a.address)
	eventually(t, "the table of a pass", func() bool { // of one that begins after the command has
		a.pass(t, time.Unix(10, 0), map[string]int64{"web": 1, "db": 2})
		return len(c.done) == 1
	})
	require.NoError(t, c.wait(t))
	assert.Regexp(t, `(?m)^worker-1 +`+metricDrops+` +sum +By +2 +what it is$`, c.out.String())
	assert.Len(t, c.out.lines(), 4)
}

// What some nodes say is printed, and that others do not answer is a failure.
func TestListOfSeveral(t *testing.T) {
	a, b, down := startAgent(t, nil), startAgent(t, nil), freeAddress(t)
	a.publish(t, state())
	b.publish(t, state())
	assert.Len(t, list(t, "entity", "-s", a.address, "-s", b.address), 3)
	c := run(t, "list", "entity", "-s", a.address, "-s", down)
	err := c.wait(t)
	require.ErrorContains(t, err, "connection refused")
	assert.Equal(t, exitFailure, exitCode(err))
	assert.Len(t, c.out.lines(), 2)
}

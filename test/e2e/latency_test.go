// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"math"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// What latencies look like on the page: a histogram of the node, and next to it what was there before.
func TestLatencyExposition(t *testing.T) {
	a := start(t, agenttest.WriteFile(t, "latency.yaml", "receivers: {netexporter: {probes: {net_softirq: {threshold: 1ns, events_per_second: 1000}}}}"))
	p := nettest.New(t)
	for _, f := range nettest.Families() {
		p.UDPToClosedPort(t, f, 10, true)
	}
	const name = "inspector_pod_netsoftirq"
	sample := regexp.MustCompile(`^(\w+?)(_bucket|_sum|_count)\{node="` + hostName(t) + `",vector="(NET_RX|NET_TX)"(?:,le="([^"]+)")?\} (\S+) [0-9]{13}$`)

	var text string
	agenttest.Wait(t, "soft interrupts to be on the page", func() bool {
		var err error
		text, err = agenttest.Get(a.Metrics)
		require.NoError(t, err)
		return regexp.MustCompile(`(?m)^` + name + `_count\{.*vector="NET_RX".*\} [1-9]`).MatchString(text)
	})
	var rest strings.Builder
	last := map[string]float64{} // of the buckets
	levels := map[string]int{}
	counts, sums := map[string]float64{}, map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "# HELP inspector_pod_netsoftirq") {
			continue
		}
		if strings.HasPrefix(line, "# TYPE inspector_pod_netsoftirq") {
			assert.Regexp(t, ` histogram\n$`, line)
			continue
		}
		parts := sample.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if parts == nil {
			rest.WriteString(line)
			continue
		}
		id := parts[1] + "/" + parts[3]
		value, err := strconv.ParseFloat(parts[5], 64)
		require.NoError(t, err)
		switch parts[2] {
		case "_sum":
			sums[id] = value
		case "_count":
			counts[id] = value
			assert.InDelta(t, last[id], value, 0, "the bucket +Inf of %s", id)
		default:
			assert.GreaterOrEqual(t, value, last[id], "cumulative: %s", line)
			last[id] = value
			le, err := strconv.ParseFloat(parts[4], 64)
			require.NoError(t, err)
			if !math.IsInf(le, 1) {
				assert.InDelta(t, math.Ldexp(1e-6, levels[id]), le, 1e-12, line)
			}
			levels[id]++
		}
	}
	for _, suffix := range []string{"", "sched", "shed"} {
		for _, vector := range []string{"NET_RX", "NET_TX"} {
			assert.Equal(t, 27, levels[name+suffix+"/"+vector], "buckets of %s%s of %s", name, suffix, vector)
		}
		assert.Positive(t, sums[name+suffix+"/NET_RX"])
	}
	assert.InDelta(t, counts[name+"sched/NET_RX"], counts[name+"shed/NET_RX"], 0, "two spellings of one")
	// All else has the form that it has without them.
	node := parsePage(t, rest.String()).values[labels{node: hostName(t)}]
	for _, counter := range []string{"schedslow100ms", "executeslow100ms", "excuteslow100ms"} {
		assert.Contains(t, node, "inspector_pod_net_softirq_"+counter+`{vector="NET_RX"}`)
	}

	t.Run("promtool", func(t *testing.T) {
		cmd := exec.Command(agenttest.SystemProgram(t, "promtool"), "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		out, _ := cmd.CombinedOutput() // it complains of the names of counters, see TestPromtoolComplaints
		assert.NotContains(t, string(out), "error while linting")
		for line := range strings.Lines(string(out)) {
			assert.NotContains(t, line, name+" ", "of a histogram")
			assert.NotContains(t, line, name+"sched ", "of a histogram")
		}
	})
	t.Run("events", func(t *testing.T) {
		var lines []string
		agenttest.Wait(t, "an event", func() bool {
			lines = regexp.MustCompile(`(?m)^type=NETSOFTIRQ_EXECUTE_SLOW .*$`).FindAllString(a.Stdout.String(), -1)
			return len(lines) > 1
		})
		lines = lines[:len(lines)-1] // the last may not be whole
		for _, line := range lines {
			assert.Regexp(t, `^type=NETSOFTIRQ_EXECUTE_SLOW cpu=\d+ pid=\d+ comm=\S+ vector=NET_[RT]X latency=\d+\.\d{3}ms( suppressed=\d+)?$`, line,
				"the node's own, though the processor has labelled it")
		}
	})
}

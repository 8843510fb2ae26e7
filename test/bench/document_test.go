// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// output is that of go test -bench with all that the document needs.
func output() string {
	var text strings.Builder
	text.WriteString("goos: linux\ncpu: a processor\n")
	for _, size := range (report{}).Sizes() {
		fmt.Fprintf(&text, "BenchmarkPass/%s-2 \t 50\t 300.5 B/datapoint\t 6.5 allocs/datapoint\t 20.25 cpu-ms/pass\t 670 datapoints\t 8500 heap-B/namespace\t 21 mean-cpu-ms/pass\t 19 min-cpu-ms/pass\t 1.000 other-netns\n", size)
		fmt.Fprintf(&text, "BenchmarkNaiveProcfs/%s-2 \t 3\t 5 agent-cpu-ms/pass\t 1e3 cpu-ms/pass\t 200 times-agent\t 1.000 other-netns\n", size)
	}
	text.WriteString("BenchmarkSocketWalk-2 \t 50\t 0.3 cpu-ms/run\t 14 cpu-ms/walk\t 0.4 longest-cpu-ms/run\t 0.7 outlier-cpu-ms/run\t 64 runs/walk\nPASS\n")
	return text.String()
}

func TestDocument(t *testing.T) {
	r := report{Benchmarks: benchmarks{}, Collector: []collector{
		{ResidentScraped: 50 << 20, ScrapeCPU: 3 * time.Millisecond},
		{Namespaces: 1000, Served: 1001, ResidentScraped: 450 << 20},
	}}
	require.NoError(t, r.Benchmarks.parse(output()))
	document, err := r.document()
	require.NoError(t, err)
	text := string(document)
	assert.Contains(t, text, "\n| 100 | 45 | 1000 | 5.00 | 200 |\n")
	assert.Contains(t, text, "\n| 1000 | 0 | 20.2 | 19.0 | 21.0 | 670 | 6.50 | 300 | 8.50 |\n")
	assert.Contains(t, text, "that is 419 kB for each namespace")
	assert.NotContains(t, text, "Not valid")

	r.Benchmarks["SocketWalk"]["other-netns"] = 300
	r.Collector[0].Served = 300
	document, err = r.document()
	require.NoError(t, err)
	assert.Contains(t, string(document), "measure again:\n\n- SocketWalk\n- the whole collector with 0 network namespaces\n\n## One")

	delete(r.Benchmarks, "Pass/namespaces=10/sockets=0")
	_, err = r.document()
	assert.ErrorContains(t, err, "Pass/namespaces=10/sockets=0 has no result")
}

func TestOverheadDocument(t *testing.T) {
	document, err := overhead{
		Pairs:    12,
		Subjects: []difference{{Name: "all", Without: 12_345, Mean: 5.25, Low: -0.5, High: 11}},
		Programs: []programCost{{Probe: "socketlatency", Name: "read__tp_btf", Hits: 2, Net: 6.6}},
		Empty:    62,
	}.document()
	require.NoError(t, err)
	text := string(document)
	assert.Contains(t, text, "the mean of 12 pairs")
	assert.Contains(t, text, "\n| all | +5.2 | −0.5 to +11.0 | 12.3 |\n")
	assert.Contains(t, text, "\n| socketlatency | `read__tp_btf` | 2.0 | 7 |\n")
	assert.Contains(t, text, "(62 ns, of which")
}

func TestInterval95(t *testing.T) {
	// Tables say 2.201 for 11 degrees of freedom; the deviation of these is 1.0445.
	mean, half := interval95([]float64{1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3})
	assert.InDelta(t, 2, mean, 1e-9)
	assert.InDelta(t, 2.201*1.0445/math.Sqrt(12), half, 0.01)
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxOthers is how many network namespaces more there may be than were made: the host's, and some.
const maxOthers = 10

const receiver = "./receiver/netexporterreceiver"

// benchmarks are the results of Go benchmarks, by name without the prefix Benchmark and the number of CPUs, then by unit.
type benchmarks map[string]map[string]float64

// goBenchmarks runs the benchmarks of the receiver. A naive pass over many namespaces takes half a minute, so there are
// few of them.
func goBenchmarks() (benchmarks, error) {
	all := benchmarks{}
	for _, b := range []struct{ pattern, times string }{
		{"^BenchmarkPass$", "50x"},
		{"^BenchmarkSocketWalk$", "50x"},
		{"^BenchmarkNaiveProcfs$/^namespaces=(10|100)$", "3x"},
		{"^BenchmarkNaiveProcfs$/^namespaces=1000$", "1x"},
	} {
		fmt.Fprintf(os.Stderr, "==> go test -bench %s\n", b.pattern)
		cmd := exec.Command("go", "test", "-run", "^$", "-bench", b.pattern, "-benchtime", b.times, receiver)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		var out bytes.Buffer
		cmd.Stdout = io.MultiWriter(&out, os.Stderr)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("go test -bench %s: %w", b.pattern, err)
		}
		if err := all.parse(out.String()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// parse adds the results in the output of go test -bench: lines of a name, the number of iterations, and pairs of a
// value and its unit.
func (b benchmarks) parse(text string) error {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		b[name] = map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("parse the result %q: %w", strings.TrimSpace(line), err)
			}
			b[name][fields[i+1]] = value
		}
	}
	return nil
}

// disturbed returns the names of the benchmarks during which others on the machine had many network namespaces: those
// are part of the pass, and not of the naive way.
func (b benchmarks) disturbed() []string {
	var names []string
	for name, result := range b {
		if result["other-netns"] > maxOthers {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// value returns one result, an error if there is none.
func (b benchmarks) value(name, unit string) (float64, error) {
	value, ok := b[name][unit]
	if !ok {
		return 0, fmt.Errorf("the benchmark %s has no result in %s", name, unit)
	}
	return value, nil
}

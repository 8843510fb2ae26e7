// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command bench measures what the agent costs, next to the naive way of reading /proc, and writes docs/benchmarks.md.
// It is `make bench`; it needs root, bin/netexporter as `make build` makes it, and some minutes. Only the time that
// processes have a CPU counts, so the machine may have other things to do.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
)

func main() {
	output := flag.String("o", "", "the document to write (default docs/benchmarks.md, with -overhead docs/overhead.md)")
	overhead := flag.Bool("overhead", false, "measure what the probes cost packets")
	pairs := flag.Int("pairs", 20, "with -overhead: measurements with and without each set of probes")
	end := flag.String("roundtrip", "", "be one end of a connection; for the program's own use")
	flag.Parse()
	// The kernel kills what this thread has started when it ends; the first thread ends with the process.
	runtime.LockOSThread()
	measure := func() error { return run(cmp.Or(*output, "docs/benchmarks.md")) }
	switch {
	case *end != "":
		measure = func() error { return runEnd(*end) }
	case *overhead:
		measure = func() error { return measureOverhead(cmp.Or(*output, "docs/overhead.md"), *pairs) }
	}
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(output string) error {
	if os.Geteuid() != 0 {
		return errors.New("it needs root: loads BPF programs, makes network namespaces")
	}
	if _, err := os.Stat("go.mod"); err != nil {
		return fmt.Errorf("run it in the root of the repository: %w", err)
	}
	var r report
	var err error
	if r.Machine, err = readMachine(); err != nil {
		return err
	}
	if r.Benchmarks, err = goBenchmarks(); err != nil {
		return err
	}
	for _, namespaces := range []int{0, 100, 1000} {
		fmt.Fprintf(os.Stderr, "==> the whole collector with %d network namespaces\n", namespaces)
		c, err := measureCollector(namespaces)
		if err != nil {
			return fmt.Errorf("measure the collector with %d network namespaces: %w", namespaces, err)
		}
		r.Collector = append(r.Collector, c)
	}
	document, err := r.document()
	if err != nil {
		return err
	}
	return os.WriteFile(output, document, 0o644)
}

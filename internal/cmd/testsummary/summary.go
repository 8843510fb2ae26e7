// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// event is a line of `go test -json`; see `go doc test2json` and, for builds, `go help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string // instead of Package in the events of a build
	Test       string // empty in the events of a package
	Output     string
	Elapsed    float64 // seconds
}

// line is a line of output of a package: of one of its tests, or of none.
type line struct {
	test, text string
}

// packageRun is what is known of a package under test.
type packageRun struct {
	output []line
	result map[string]string // by test: pass, fail or skip; none while it runs
}

// summary adds up the packages of one or more runs of `go test -json`.
type summary struct {
	out      io.Writer
	running  map[string]*packageRun
	builds   map[string]string   // output of a build, by import path
	results  map[string]int      // number of tests by result
	skipped  map[string][]string // tests by reason
	packages int                 // with tests, and none failed
	failed   []string            // packages
}

// summarize reads events from in until its end and writes the summary to out. ok tells that nothing failed.
// A line that is not an event is passed on: go itself prints some.
func summarize(in io.Reader, out io.Writer) (ok bool, err error) {
	s := summary{
		out:     out,
		running: map[string]*packageRun{},
		builds:  map[string]string{},
		results: map[string]int{},
		skipped: map[string][]string{},
	}
	lines := bufio.NewReader(in)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			s.add(text)
		}
		if errors.Is(err, io.EOF) {
			return s.finish()
		}
		if err != nil {
			return false, fmt.Errorf("read test events: %w", err)
		}
	}
}

func (s *summary) add(text string) {
	var e event
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Action == "" {
		fmt.Fprint(s.out, text)
		return
	}
	switch {
	case e.Action == "build-output":
		s.builds[e.ImportPath] += e.Output
	case e.Action == "build-fail":
		// The failure of each package that needed it follows.
		fmt.Fprintf(s.out, "FAIL %s (build)\n%s", e.ImportPath, s.builds[e.ImportPath])
	case e.Package == "":
	case e.Action == "output":
		p := s.run(e.Package)
		p.output = append(p.output, line{e.Test, e.Output})
	case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e)
		}
	}
}

func (s *summary) run(name string) *packageRun {
	p := s.running[name]
	if p == nil {
		p = &packageRun{result: map[string]string{}}
		s.running[name] = p
	}
	return p
}

func (s *summary) endTest(e event) {
	p := s.run(e.Package)
	p.result[e.Test] = e.Action
	s.results[e.Action]++
	if e.Action == "skip" {
		reason := p.skipReason(e.Test)
		s.skipped[reason] = append(s.skipped[reason], e.Package+"."+e.Test)
	}
}

func (s *summary) endPackage(e event) {
	p := s.run(e.Package)
	delete(s.running, e.Package)
	switch {
	case e.Action == "fail":
		s.failed = append(s.failed, e.Package)
		fmt.Fprintf(s.out, "FAIL %s %.1fs\n%s", e.Package, e.Elapsed, p.failures())
	case len(p.result) > 0:
		s.packages++
		fmt.Fprintf(s.out, "ok   %s %.1fs\n", e.Package, e.Elapsed)
	}
}

// failures returns the output of the tests that failed or never ended, and of the package itself.
func (p *packageRun) failures() string {
	var b strings.Builder
	for _, l := range p.output {
		if r := p.result[l.test]; l.test == "" || r == "fail" || r == "" {
			b.WriteString(l.text)
		}
	}
	return b.String()
}

// logLine matches a message of t.Skip: the testing package prefixes it with its place in the source.
var logLine = regexp.MustCompile(`^\s+\S+\.go:\d+: (.+)\n?$`)

// skipReason returns the first line of the last message of a skipped test.
func (p *packageRun) skipReason(test string) string {
	for _, l := range slices.Backward(p.output) {
		if m := logLine.FindStringSubmatch(l.text); m != nil && l.test == test {
			return m[1]
		}
	}
	return "(no reason given)"
}

func (s *summary) finish() (bool, error) {
	for _, name := range slices.Sorted(maps.Keys(s.running)) {
		s.failed = append(s.failed, name)
		fmt.Fprintf(s.out, "FAIL %s did not end\n%s", name, s.running[name].failures())
	}

	if len(s.skipped) > 0 {
		reasons := slices.SortedFunc(maps.Keys(s.skipped), func(a, b string) int {
			return cmp.Or(cmp.Compare(len(s.skipped[b]), len(s.skipped[a])), cmp.Compare(a, b))
		})
		fmt.Fprintln(s.out)
		table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "SKIPPED\tREASON\tTEST")
		for _, reason := range reasons {
			tests := s.skipped[reason]
			more := ""
			if len(tests) > 1 {
				more = fmt.Sprintf(" and %d more", len(tests)-1)
			}
			fmt.Fprintf(table, "%d\t%s\t%s%s\n", len(tests), reason, tests[0], more)
		}
		if err := table.Flush(); err != nil {
			return false, fmt.Errorf("write table of skipped tests: %w", err)
		}
	}

	fmt.Fprintf(s.out, "\n%d tests passed, %d failed, %d skipped; %d packages passed, %d failed\n",
		s.results["pass"], s.results["fail"], s.results["skip"], s.packages, len(s.failed))
	for _, name := range s.failed {
		fmt.Fprintf(s.out, "FAIL %s\n", name)
	}
	return len(s.failed) == 0, nil
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"
	"time"
)

//go:embed benchmarks.md.tmpl
var layout string

// report is all that was measured.
type report struct {
	Machine    machine
	Benchmarks benchmarks
	Collector  []collector
}

// Sizes are those that the benchmarks of the receiver range over.
func (report) Sizes() []string {
	var sizes []string
	for _, namespaces := range []int{10, 100, 1000} {
		for _, sockets := range []int{0, 45} {
			sizes = append(sizes, fmt.Sprintf("namespaces=%d/sockets=%d", namespaces, sockets))
		}
	}
	return sizes
}

// document returns the text of docs/benchmarks.md.
func (r report) document() ([]byte, error) {
	t, err := template.New("benchmarks.md").Option("missingkey=error").Funcs(template.FuncMap{
		// The namespaces and the sockets of a size, as two cells.
		"cells": func(size string) (string, error) {
			var namespaces, sockets int
			_, err := fmt.Sscanf(size, "namespaces=%d/sockets=%d", &namespaces, &sockets)
			return fmt.Sprintf("%d | %d", namespaces, sockets), err
		},
		"result":   r.Benchmarks.value,
		"number":   number,
		"ms":       func(d time.Duration) string { return number(float64(d) / float64(time.Millisecond)) },
		"mebi":     func(bytes int) string { return number(float64(bytes) / (1 << 20)) },
		"kilo":     func(bytes float64) string { return number(bytes / 1000) },
		"gibi":     func(bytes uint64) string { return number(float64(bytes) / (1 << 30)) },
		"perNetns": r.residentPerNamespace,
	}).Parse(layout)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, r); err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	return out.Bytes(), nil
}

// Disturbed returns what was measured while others on the machine had many network namespaces.
func (r report) Disturbed() []string {
	names := r.Benchmarks.disturbed()
	for _, c := range r.Collector {
		if c.Served > c.Namespaces+maxOthers {
			names = append(names, fmt.Sprintf("the whole collector with %d network namespaces", c.Namespaces))
		}
	}
	return names
}

// residentPerNamespace returns by how many bytes the whole program grows with each namespace, after scrapes. Without
// namespaces it is the garbage of its start that counts.
func (r report) residentPerNamespace() float64 {
	first, last := r.Collector[len(r.Collector)-2], r.Collector[len(r.Collector)-1]
	return float64(last.ResidentScraped-first.ResidentScraped) / float64(last.Namespaces-first.Namespaces)
}

// number writes a value with three digits that mean something.
func number(value float64) string {
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	case value >= 1:
		return fmt.Sprintf("%.2f", value)
	}
	return fmt.Sprintf("%.3f", value)
}

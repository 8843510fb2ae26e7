// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package stdoutexporter writes the body of every log record to standard
// output, one record a line: what an operator reads in the terminal or in the
// container's log is the documented event line and nothing else.
//
// Two stock exporters come close and miss. The file exporter pointed at
// /dev/stdout opens a second file description of its own: where standard output
// is redirected to a file, that truncates the file or overwrites what others
// write to it. The debug exporter shares the collector's log and has a format of
// its own around the body.
//
// Records that tell the state of an entity (docs/events.md) are left out: they
// have no line.
//
// A batch is one write, so lines of several pipelines never mix. A write waits
// for the reader of standard output: the wait is felt by the sender of the
// batch, there is no queue that would hide it. The exporter has no
// configuration keys.
package stdoutexporter // import "github.com/netexporter/netexporter/exporter/stdoutexporter"

//go:generate mdatagen metadata.yaml

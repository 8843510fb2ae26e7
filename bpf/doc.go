// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel side of the agent: one <name>.bpf.c a probe, compiled into a
// committed object, and the Go mirrors of its types.
//
// A program is named <hook>__<variant>[_<part>]. The programs of a hook that share a section
// prefix (raw_tp, fentry, ...) are one variant of it; the loader runs the first variant of which
// every program loads and attaches. One named <hook>__last_... comes after all others.
package bpf

//go:generate ./generate.sh

// EventHdr is the first member of every event, the same in all objects.
type EventHdr = NetnsEventHdr

// Histogram is that of include/latency.h, the same in all objects.
type Histogram = NetSoftirqHistogram

// Latency is that of include/latency.h, the same in all objects.
type Latency = NetSoftirqLatency

// SlowKey is that of include/path.h, the same in all objects.
type SlowKey = SocketlatencySlowKey

// Histograms are those of include/path.h, the same in all objects.
type Histograms = SocketlatencyHistograms

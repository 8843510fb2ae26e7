// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/receiver"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// heartbeat proves with each pass that what runs still works, so that nothing to report can be told
// from nothing seen: it sends a datagram of each family to a closed port between two private
// namespaces, and the next pass must have counted what it sent before. The namespaces are nobody's
// and are left out of all that the receiver emits.
type heartbeat struct {
	trial *trial // keeps the namespaces and sockets
	pair  *nettest.Pair
	send  []func() error

	sent uint64 // datagrams so far
	due  uint64 // those that the pass to come must have counted
	// By probe, what its count is short of due by what it missed before.
	short   map[string]uint64
	builder *probe.MetricsBuilder // of what is nobody's

	mu    sync.Mutex
	beats map[beat]uint64
}

// beat is one probe's answer.
type beat struct{ probe, outcome string }

func newHeartbeat(set receiver.Settings) (*heartbeat, error) {
	h := &heartbeat{
		trial:   &trial{ctx: context.Background()},
		short:   map[string]uint64{},
		builder: probe.NewMetricsBuilder(metadata.NewDefaultMetricsBuilderConfig(), set, 0, false),
		beats:   map[beat]uint64{},
	}
	h.trial.step(func() {
		h.pair = nettest.NewPrivate(h.trial)
		for _, f := range nettest.Families() {
			h.send = append(h.send, h.pair.DatagramsToClosedPort(h.trial, f))
		}
	})
	if h.trial.failed || h.trial.skipped {
		h.close()
		return nil, fmt.Errorf("heartbeat: %s", h.trial.reason)
	}
	return h, nil
}

func (h *heartbeat) close() { h.trial.end() }

// owns tells whether a namespace is the heartbeat's; nil owns none.
func (h *heartbeat) owns(id netns.ID) bool {
	return h != nil && (uint64(id.Inode) == h.pair.A.Inode || uint64(id.Inode) == h.pair.B.Inode)
}

// beat sends.
func (h *heartbeat) beat() error {
	h.due = h.sent
	for _, send := range h.send {
		if err := send(); err != nil {
			return fmt.Errorf("heartbeat: %w", err)
		}
		h.sent++
	}
	return nil
}

// heard takes note of how many datagrams a probe has counted.
func (h *heartbeat) heard(probe string, counted uint64) {
	outcome := "seen"
	if counted+h.short[probe] < h.due {
		outcome = "missed"
		h.short[probe] = h.due - counted
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beats[beat{probe, outcome}]++
}

// listen takes note of what a pass has counted.
func (h *heartbeat) listen(r *running, rows []netns.Row, snapshots []probe.Snapshot, now pcommon.Timestamp) {
	i := slices.IndexFunc(rows, func(row netns.Row) bool { return uint64(row.ID.Inode) == h.pair.B.Inode })
	if i < 0 {
		h.heard("udp", 0)
		return
	}
	for j, c := range r.counters {
		if c.MIB == "UDP_MIB_NOPORTS" && r.serves[j] {
			h.heard("udp", rows[i].Values[j])
		}
	}
	for _, s := range snapshots {
		s.Record(h.builder, now, rows[i].ID, r.names)
	}
	if dropped, ok := sumsOf(h.builder.Emit(), 0)["inspector_pod_totalloss"]; ok {
		h.heard("packetloss", uint64(dropped))
	}
}

// answers returns how often each probe has answered, and how.
func (h *heartbeat) answers() map[beat]uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.beats)
}

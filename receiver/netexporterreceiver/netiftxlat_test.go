// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/netexporter/netexporter/internal/nettest"
)

const (
	qdiscslow100ms = "inspector_pod_netiftxlat_qdiscslow100ms"
	xmitslow100ms  = "inspector_pod_netiftxlat_xmitslow100ms"
)

// A token bucket holds packets up: two datagrams and the segment behind them.
func TestSlowQueueingDiscipline(t *testing.T) {
	inEachMode(t, "netiftxlat", []string{"dequeue", "enqueue"}, func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		client, server := p.ConnectTCP(t, f)
		p.A.Shape(t)
		before, sumBefore := r.histogram(t, "inspector_node_netiftxlat", "qdisc")
		begin := time.Now()
		p.A.Congest(t, p.B, f)
		send(t, client, 100)
		nettest.Drain(t, server, 100)
		atMost := time.Since(begin)
		s := r.pass(t)
		assert.GreaterOrEqual(t, s[p.A.Inode][qdiscslow100ms], int64(3), "what else the kernel sends waits, too")
		assert.Zero(t, s[p.A.Inode][xmitslow100ms]+s[p.B.Inode][xmitslow100ms]+s[p.B.Inode][qdiscslow100ms])
		after, sumAfter := r.histogram(t, "inspector_node_netiftxlat", "qdisc")
		assert.GreaterOrEqual(t, after-before, uint64(3))
		assert.GreaterOrEqual(t, sumAfter-sumBefore, 300*time.Millisecond)
		var events []event
		nettest.Wait(t, "three events", func() bool {
			events = slices.DeleteFunc(r.events(p.A, p.B), ofTheKernelItself)
			return len(events) >= 3
		})
		assert.Len(t, events, 3)
		for _, e := range events[:2] {
			assert.Equal(t, "udp", e.attr("network.transport"))
		}
		slowEvent{
			in: p.A, name: "NETIFTXLAT_QDISC", family: f,
			source: addr(client.LocalAddr()), destination: addr(client.RemoteAddr()),
			// The bucket counts from a time that the test does not see.
			atLeast: 100 * time.Millisecond, atMost: atMost,
		}.check(t, events[2])
	})
}

// A device that is busy gives a packet back, which is no time in the queue.
func TestBusyDevice(t *testing.T) {
	inEachMode(t, "netiftxlat", []string{"dequeue", "enqueue"}, func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		before, sumBefore := r.histogram(t, "inspector_node_netiftxlat", "xmit")
		packet, busy := p.BusyDevice(t, f, late)
		var s map[uint64]series
		var atMost time.Duration
		nettest.Wait(t, "a device that is busy for 100 ms", func() bool {
			begin := time.Now()
			busy()
			atMost = time.Since(begin)
			s = r.pass(t)
			return s[p.A.Inode][xmitslow100ms] > 0
		})
		assert.EqualValues(t, 1, s[p.A.Inode][xmitslow100ms], "one was given back; the others wait in the queue")
		assert.Zero(t, s[p.B.Inode][xmitslow100ms]+s[p.B.Inode][qdiscslow100ms])
		after, sumAfter := r.histogram(t, "inspector_node_netiftxlat", "xmit")
		assert.GreaterOrEqual(t, after-before, uint64(1))
		assert.GreaterOrEqual(t, sumAfter-sumBefore, 100*time.Millisecond)
		var events []event
		nettest.Wait(t, "the event", func() bool {
			events = slices.DeleteFunc(r.events(p.A, p.B), func(e event) bool { return e.EventName() != "NETIFTXLAT_XMIT" })
			return len(events) > 0
		})
		assert.Len(t, events, 1)
		slowEvent{
			in: p.A, name: "NETIFTXLAT_XMIT", family: f, transport: "udp",
			source: packet.Source, destination: packet.Destination,
			atLeast: 100 * time.Millisecond, atMost: atMost,
		}.check(t, events[0])
	})
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// TCP_TW_RCV is a segment for a socket in TIME_WAIT, and nothing else: not the FIN that brings an
// orphan there, nor a reset.
func TestTimeWaitEvents(t *testing.T) {
	testTimeWaitEvents(t, onePerTest(t, startDefault))
}

func testTimeWaitEvents(t *testing.T, start func(testing.TB) *rig) {
	for _, stimulus := range []struct {
		name  string
		do    func(*nettest.Pair, nettest.T, nettest.Family) nettest.Packet
		flags string // empty if there is no event
		// atEntry is true if the tracepoint misses it: behind the processing a FIN does not show which
		// of the two it was, and a SYN that opens the connection anew does not show at all.
		atEntry bool
	}{
		{"acknowledgment", (*nettest.Pair).AckInTimeWait, "ACK", false},
		{"data", (*nettest.Pair).DataInTimeWait, "PSH,ACK", false},
		{"reset", (*nettest.Pair).ResetInTimeWait, "", false},
		{"FIN once more", (*nettest.Pair).FinInTimeWait, "FIN,ACK", true},
		{"SYN", (*nettest.Pair).SynInTimeWait, "SYN", true},
		{"FIN in FIN_WAIT2", (*nettest.Pair).FinToOrphanedFinWait2, "", false},
		{"data in FIN_WAIT2", (*nettest.Pair).DataToOrphanedFinWait2, "", false},
	} {
		for _, f := range nettest.Families() {
			t.Run(stimulus.name+"/"+f.String(), func(t *testing.T) {
				r := start(t)
				p := nettest.New(t)
				p.A.Hold(t)
				p.B.Hold(t)
				seen := stimulus.flags != "" && (!stimulus.atEntry || r.variantOf(t, "tcptwrcv", "processed") != "raw_tp")
				k := stimulus.do(p, t, f)
				// What comes behind it shows that no more of it is to come.
				mark := p.AckInTimeWait(t, f)
				var got []event
				nettest.Wait(t, "the last event", func() bool {
					got = slices.DeleteFunc(r.events(p.A, p.B), func(e event) bool { return e.EventName() != "TCP_TW_RCV" })
					return slices.ContainsFunc(got, func(e event) bool { return e.attr("source.port") == fmt.Sprint(mark.Destination.Port()) })
				})
				counted := map[uint64]int64{mark.To.Inode: 1}
				if seen {
					require.Len(t, got, 2)
					checkTimeWaitEvent(t, got[0], k, f, stimulus.flags)
					counted[k.To.Inode]++
				} else {
					require.Len(t, got, 1)
				}
				checkTimeWaitEvent(t, got[len(got)-1], mark, f, "ACK")
				all := r.pass(t)
				for _, n := range []*nettest.Namespace{p.A, p.B} {
					segments, ok := all[n.Inode]["inspector_pod_tcptwrcv"]
					assert.True(t, ok, "no metric of %s", n.Name)
					assert.Equal(t, counted[n.Inode], segments, n.Name)
				}
			})
		}
	}
}

// checkTimeWaitEvent checks every field of the event of a segment: its source is the socket that got it.
func checkTimeWaitEvent(t *testing.T, e event, k nettest.Packet, f nettest.Family, flags string) {
	t.Helper()
	assert.Equal(t, k.To.Inode, inodeAttr(e))
	assert.Equal(t, map[string]any{
		"event.name":          "TCP_TW_RCV",
		"event.suppressed":    int64(0),
		"network.transport":   "tcp",
		"network.type":        f.String(),
		"source.address":      k.Destination.Addr().String(),
		"source.port":         int64(k.Destination.Port()),
		"destination.address": k.Source.Addr().String(),
		"destination.port":    int64(k.Source.Port()),
		"tcp.flags":           flags,
		"tcp.state":           "TCP_TIME_WAIT",
	}, e.Attributes().AsRaw())
	checkRecord(t, e)
}

// Events are held back, counts are not.
func TestTimeWaitSegmentsAreCountedInFull(t *testing.T) {
	const n = 50
	r := start(t, func(c *Config) {
		c.Probes = map[string]probe.Config{"tcptwrcv": {Events: true, EventsPerSecond: 1}}
	})
	for _, f := range nettest.Families() {
		p := nettest.New(t)
		p.A.Hold(t)
		for range n {
			p.AckInTimeWait(t, f)
		}
		assert.EqualValues(t, n, r.pass(t)[p.A.Inode]["inspector_pod_tcptwrcv"])
	}
	assert.Positive(t, r.eventStats(t, "tcptwrcv").Suppressed)
}

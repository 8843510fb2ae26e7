// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/netexporter/netexporter/internal/nettest"
)

// A packet that is lost is an event and one that comes to its ordinary end is none, on kernels that give
// a reason and on those that do not.
func TestPacketLossOrOrdinaryEnd(t *testing.T) {
	start := onePerTest(t, startDefault)
	for _, stimulus := range []struct {
		name  string
		do    func(*nettest.Pair, nettest.T, nettest.Family) nettest.Packet
		drops int64                     // at least, by B or by nobody
		where map[nettest.Family]string // the function that loses it, empty if none does
	}{
		{
			"segment dropped by nftables", (*nettest.Pair).NFTDropSYN, 1,
			// Its module may have been loaded after the symbols were.
			map[nettest.Family]string{nettest.IPv4: ".", nettest.IPv6: "."},
		},
		{
			"no UDP socket",
			func(p *nettest.Pair, t nettest.T, f nettest.Family) nettest.Packet {
				return p.UDPToClosedPort(t, f, 1, true)
			}, 1,
			// From 7.2 on the compiler makes one function of it and its only caller.
			map[nettest.Family]string{nettest.IPv4: "__udp4_lib_rcv|udp_rcv", nettest.IPv6: "__udp6_lib_rcv|udpv6_rcv"},
		},
		{
			"datagrams unread",
			func(p *nettest.Pair, t nettest.T, f nettest.Family) nettest.Packet { return p.UDPUnread(t, f, 3) }, 3, nil,
		},
		{"fragments", (*nettest.Pair).UDPFragments, 0, nil},
		{"no TCP socket", (*nettest.Pair).ConnectClosedPort, 1, nil},
		{"segment in TIME_WAIT", (*nettest.Pair).AckInTimeWait, 0, nil},
		{"reset in TIME_WAIT", (*nettest.Pair).ResetInTimeWait, 0, nil},
		{"close with unread data", (*nettest.Pair).CloseWithUnreadData, 0, nil},
	} {
		for _, f := range nettest.Families() {
			t.Run(stimulus.name+"/"+f.String(), func(t *testing.T) {
				r := start(t)
				p := nettest.New(t)
				p.A.Hold(t)
				p.B.Hold(t)
				drops := func() int64 {
					all := r.pass(t)
					// What a socket had in its queue has no namespace any more.
					return all[p.B.Inode]["inspector_pod_packetloss_total"] + all[0]["inspector_pod_packetloss_total"]
				}
				before := drops()
				k := stimulus.do(p, t, f)
				nettest.Wait(t, "the kernel to drop what it does", func() bool { return drops() >= before+stimulus.drops })
				// What comes behind it shows that no more of it is to come.
				mark := p.UDPToClosedPort(t, f, 1, true)
				var got []event
				nettest.Wait(t, "the last event", func() bool {
					got = slices.DeleteFunc(r.allEvents(), func(e event) bool {
						ours := isOf(e.resource, p.A) || isOf(e.resource, p.B) ||
							inodeAttr(e) == 0 && e.attr("destination.port") == fmt.Sprint(k.Destination.Port())
						return !ours || e.EventName() != "PACKETLOSS" || ofTheKernelItself(e)
					})
					return slices.ContainsFunc(got, func(e event) bool {
						return e.attr("destination.port") == fmt.Sprint(mark.Destination.Port())
					})
				})
				want := []nettest.Packet{mark}
				if where := stimulus.where[f]; where != "" {
					want = []nettest.Packet{k, mark}
					assert.Regexp(t, "^("+where+")", got[0].attr("event.location"))
				}
				slices.SortStableFunc(got, func(a, b event) int { return cmp.Compare(a.Timestamp(), b.Timestamp()) })
				for i, e := range got {
					if i >= len(want) {
						assert.Fail(t, "an event too many", e.Body().Str())
						continue
					}
					assert.Equal(t, want[i].To.Inode, inodeAttr(e))
					assert.Equal(t, want[i].Source.String()+" "+want[i].Destination.String(),
						endpointOf(e, "source")+" "+endpointOf(e, "destination"), e.Body().Str())
				}
				// The kernel may have lost packets of its own meanwhile.
				for _, n := range []*nettest.Namespace{p.A, p.B} {
					nettest.Wait(t, "as many losses counted as reported", func() bool {
						reported := slices.DeleteFunc(r.events(n), func(e event) bool { return e.EventName() != "PACKETLOSS" })
						return r.pass(t)[n.Inode]["inspector_pod_packetloss_abnormal"] == int64(len(reported))
					})
				}
			})
		}
	}
}

func endpointOf(e event, side string) string {
	return net.JoinHostPort(e.attr(side+".address"), e.attr(side+".port"))
}

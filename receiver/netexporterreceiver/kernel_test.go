// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probes"
)

// metricNames returns the names under which a counter is served.
func metricNames(t testing.TB, c probe.Counter) []string {
	mb := metadata.NewMetricsBuilder(metadata.NewDefaultMetricsBuilderConfig(), receivertest.NewNopSettings(metadata.Type))
	for _, record := range c.Record {
		record(mb, pcommon.NewTimestampFromTime(time.Now()), 0)
	}
	var names []string
	for name := range byNamespace(mb.Emit())[0] {
		names = append(names, name)
	}
	require.Len(t, names, len(c.Record))
	return names
}

// everyStimulus makes a bit of each trouble that moves a counter.
func everyStimulus(t testing.TB, p *nettest.Pair) {
	for _, f := range nettest.Families() {
		p.UDPToClosedPort(t, f, 3, false)
		p.UDPRcvbufOverflow(t, f, 2)
		p.UDPDelivered(t, f, 4)
		p.UDPBadChecksum(t, f)
		p.UDPSendBufferFull(t, f)
		p.UDPMulticastIgnored(t, f)
		p.ConnectTCP(t, f) // stays
		p.ConnectClosedPort(t, f)
		p.CloseWithUnreadData(t, f)
		p.LingerZeroClose(t, f)
		p.DataToOrphanedFinWait2(t, f)
		p.CloseInFinWait2(t, f)
		p.HalfOpenReset(t, f)
		p.ResetInTimeWait(t, f)
		p.DataInTimeWait(t, f)
		p.ListenOverflow(t, f)
		p.RetransmitUntilTimeout(t, f)
		p.RetransmitSYN(t, f)
		p.RetransmitFails(t, f)
		p.FastRetransmit(t, f)
		p.ReceiveQueueOverflow(t, f)
		p.SkippedACKs(t, f)
	}
}

// alwaysZero are the counters that everyStimulus does not move, with the reason.
func alwaysZero() map[string]string {
	return map[string]string{
		"TcpExt.TCPAbortOnMemory": "it takes as many orphans as the whole host may have, or all its memory for TCP",
	}
}

func TestEveryCounterEqualsProc(t *testing.T) {
	r := start(t, nil)
	p := r.pair(t)
	alone := nettest.NewNamespace(t)
	r.see(t, alone)
	everyStimulus(t, p)
	moved := map[string]bool{} // names in /proc
	for _, n := range []*nettest.Namespace{p.A, p.B, alone} {
		var before, after map[string]uint64
		var got series
		nettest.Wait(t, "the namespace to be at rest", func() bool {
			before = n.Counters(t)
			got = r.pass(t)[n.Inode]
			after = n.Counters(t)
			return assert.ObjectsAreEqual(before, after)
		})
		require.NotNil(t, got, "namespace %s", n.Name)
		for _, d := range probes.All() {
			for _, c := range d.Counters {
				if c.MIB == "" {
					continue // those of sockets, tasks, links and conntrack have tests of their own
				}
				var want uint64
				for _, name := range c.Proc {
					value, ok := before[name]
					assert.True(t, ok, "/proc has no %s", name)
					want += value
					moved[name] = moved[name] || value > 0
				}
				for _, name := range metricNames(t, c) {
					value, ok := got[name]
					assert.True(t, ok, "%s is not served", name)
					assert.Equal(t, int64(want), value, "%s of namespace %s", name, n.Name)
				}
			}
		}
	}
	// The comparison would hold for zeros too.
	for name, yes := range moved {
		_, excused := alwaysZero()[name]
		assert.Equal(t, !excused, yes, "%s has moved", name)
	}
}

// The substitute for the collection pass must tell the same.
func TestProcGivesTheSameCounters(t *testing.T) {
	requireRoot(t)
	var counters []netns.Counter
	for _, d := range probes.All() {
		for _, c := range d.Counters {
			// The task counters of the fallback are read along with the tasks.
			if c.MIB != "" {
				counters = append(counters, c.Counter)
			}
		}
	}
	r := start(t, nil)
	p := r.pair(t)
	everyStimulus(t, p)
	proc := netns.NewProc("/proc", counters)
	p.B.Hold(t) // it sees only namespaces with a process
	find := func(rows []netns.Row) []uint64 {
		for _, row := range rows {
			if uint64(row.ID.Inode) == p.B.Inode {
				return slices.Clone(row.Values)
			}
		}
		return nil
	}
	nettest.Wait(t, "both to agree", func() bool {
		walked := mibOnly(r.agent.running)
		read, err := proc.Rows(nil)
		require.NoError(t, err)
		a, b := find(walked), find(read)
		require.NotNil(t, a)
		require.NotNil(t, b)
		return slices.Equal(a, b)
	})
}

// mibOnly runs a pass and returns the rows with the MIB counters alone.
func mibOnly(r *running) []netns.Row {
	rows, err := r.inventory.Pass(nil)
	if err != nil {
		return nil
	}
	for i := range rows {
		var values []uint64
		for j, c := range r.counters {
			if c.MIB != "" {
				values = append(values, rows[i].Values[j])
			}
		}
		rows[i].Values = values
	}
	return rows
}

func TestOnlyTheRightNamespaceCounts(t *testing.T) {
	r := start(t, nil)
	p, other := r.pair(t), r.pair(t)
	before := r.pass(t)
	for _, f := range nettest.Families() {
		p.UDPToClosedPort(t, f, 1, true)
		p.ConnectClosedPort(t, f)
	}
	after := r.pass(t)
	risen := func(n *nettest.Namespace, name string) int64 {
		name = "inspector_pod_" + name
		return after[n.Inode][name] - before[n.Inode][name]
	}
	for _, name := range []string{"udpnoports", "tcpoutrsts", "abnormalalloss", "packetloss_abnormal"} {
		assert.EqualValues(t, 2, risen(p.B, name), name)
		for _, n := range []*nettest.Namespace{p.A, other.A, other.B} {
			assert.Zero(t, risen(n, name), "%s of %s, which has %v", name, n.Name, after[n.Inode])
		}
	}
	if hasDropReasons() {
		assert.EqualValues(t, 4, risen(p.B, "packetloss_by_reason{NO_SOCKET}"), "two datagrams and two SYNs")
	}
	assert.GreaterOrEqual(t, risen(p.B, "totalloss"), int64(4))
	reason := "NO_SOCKET"
	if !hasResetReasons() {
		reason = ""
	}
	assert.EqualValues(t, 2, risen(p.B, "tcpreset{TCPRESET_NOSOCK,"+reason+"}"))
	assert.EqualValues(t, 2, risen(p.A, "tcpreset{TCP_RCV_RST_SYN,}"))
}

// wanted is an event that a stimulus must cause.
type wanted struct {
	in                  *nettest.Namespace
	name, reason, state string
	source, destination netip.AddrPort
}

func (w wanted) String() string {
	return fmt.Sprintf("%s in %s: %s -> %s reason %s state %s", w.name, w.in.Name, w.source, w.destination, w.reason, w.state)
}

// is tells whether an event is the wanted one, in every field. Resets have a reason if resetReasons is true.
func (w wanted) is(e event, f nettest.Family, resetReasons bool) bool {
	transport := "tcp"
	if w.name == "PACKETLOSS" {
		transport = "udp"
	}
	return inodeAttr(e) == w.in.Inode &&
		e.EventName() == w.name && e.attr("event.name") == w.name &&
		e.attr("network.transport") == transport && e.attr("network.type") == f.String() &&
		e.attr("source.address") == w.source.Addr().String() && e.attr("source.port") == fmt.Sprint(w.source.Port()) &&
		e.attr("destination.address") == w.destination.Addr().String() && e.attr("destination.port") == fmt.Sprint(w.destination.Port()) &&
		w.hasReason(e.attr("event.reason"), resetReasons) &&
		(w.name == "PACKETLOSS" || w.state == "*" || e.attr("tcp.state") == w.state)
}

func (w wanted) hasReason(got string, resetReasons bool) bool {
	switch {
	case w.reason == "*" || got == w.reason:
		return true
	case w.name == "PACKETLOSS":
		return got == "" && !hasDropReasons()
	}
	return !resetReasons && (got == "" || got == "NOT_SPECIFIED")
}

func inodeAttr(e event) uint64 {
	v, _ := e.resource.Get("network.netns.inode")
	return uint64(v.Int())
}

func TestEveryEvent(t *testing.T) { testEveryEvent(t, onePerTest(t, startDefault)) }

func testEveryEvent(t *testing.T, start func(testing.TB) *rig) {
	loss := func(k nettest.Packet, reason string) []wanted {
		return []wanted{{in: k.To, name: "PACKETLOSS", reason: reason, source: k.Source, destination: k.Destination}}
	}
	noSocket := func(k nettest.Packet) []wanted {
		return []wanted{
			// The segment that provoked the reset, and the peer's own socket.
			{k.From, "TCPRESET_NOSOCK", "NO_SOCKET", "", k.Destination, k.Source},
			{k.To, "TCP_RCV_RST_SYN", "", "TCP_SYN_SENT", k.Destination, k.Source},
		}
	}
	for _, stimulus := range []struct {
		name string
		do   func(*nettest.Pair, nettest.T, nettest.Family) nettest.Packet
		want func(nettest.Packet) []wanted
	}{
		{
			"no UDP socket",
			func(p *nettest.Pair, t nettest.T, f nettest.Family) nettest.Packet {
				return p.UDPToClosedPort(t, f, 1, true)
			},
			func(k nettest.Packet) []wanted { return loss(k, "NO_SOCKET") },
		},
		{
			"UDP receive buffer full",
			func(p *nettest.Pair, t nettest.T, f nettest.Family) nettest.Packet {
				return p.UDPRcvbufOverflow(t, f, 1)
			},
			func(k nettest.Packet) []wanted { return loss(k, "SOCKET_RCVBUFF") },
		},
		{
			"dropped by nftables",
			func(p *nettest.Pair, t nettest.T, f nettest.Family) nettest.Packet { return p.NFTDrop(t, f, 1) },
			func(k nettest.Packet) []wanted { return loss(k, "NETFILTER_DROP") },
		},
		{
			"no TCP socket",
			(*nettest.Pair).ConnectClosedPort,
			noSocket,
		},
		{
			"close with unread data",
			(*nettest.Pair).CloseWithUnreadData,
			func(k nettest.Packet) []wanted {
				return []wanted{
					{k.From, "TCPRESET_ACTIVE", "TCP_ABORT_ON_CLOSE", "*", k.Source, k.Destination},
					{k.To, "TCP_RCV_RST_ESTAB", "", "TCP_ESTABLISHED", k.Destination, k.Source},
				}
			},
		},
		{
			"close with linger zero",
			(*nettest.Pair).LingerZeroClose,
			func(k nettest.Packet) []wanted {
				return []wanted{
					{k.From, "TCPRESET_ACTIVE", "*", "*", k.Source, k.Destination},
					{k.To, "TCP_RCV_RST_ESTAB", "", "TCP_ESTABLISHED", k.Destination, k.Source},
				}
			},
		},
		{
			"data after close",
			(*nettest.Pair).DataToOrphanedFinWait2,
			func(k nettest.Packet) []wanted {
				return []wanted{
					{k.From, "TCPRESET_PROCESS", "*", "TCP_TIME_WAIT", k.Destination, k.Source},
					{k.To, "TCP_RCV_RST_ESTAB", "", "TCP_CLOSE_WAIT", k.Destination, k.Source},
				}
			},
		},
		{
			"reset of a half-open connection",
			(*nettest.Pair).HalfOpenReset,
			func(k nettest.Packet) []wanted {
				return []wanted{
					{k.From, "TCPRESET_NOSOCK", "NO_SOCKET", "", k.Destination, k.Source},
					{k.To, "TCP_RCV_RST_SYN", "", "TCP_SYN_RECV", k.Destination, k.Source},
				}
			},
		},
		{
			"reset in TIME_WAIT",
			(*nettest.Pair).ResetInTimeWait,
			func(k nettest.Packet) []wanted {
				return []wanted{{k.To, "TCP_RCV_RST_TW", "", "TCP_TIME_WAIT", k.Destination, k.Source}}
			},
		},
	} {
		for _, f := range nettest.Families() {
			t.Run(stimulus.name+"/"+f.String(), func(t *testing.T) {
				r := start(t)
				resetReasons := r.variantOf(t, "tcpreset", "sent") == "raw_tp" // only the tracepoint tells
				p := nettest.New(t)
				r.logs.Reset() // earlier namespaces may have had the same inodes
				want := stimulus.want(stimulus.do(p, t, f))
				// What comes behind it shows that no more of it is to come.
				want = append(want, loss(p.UDPToClosedPort(t, f, 1, true), "NO_SOCKET")...)
				want = append(want, noSocket(p.ConnectClosedPort(t, f))...)
				var got []event
				nettest.Wait(t, fmt.Sprintf("%d events", len(want)), func() bool {
					got = slices.DeleteFunc(r.events(p.A, p.B), ofTheKernelItself)
					return len(got) >= len(want)
				})
				for _, w := range want {
					i := slices.IndexFunc(got, func(e event) bool { return w.is(e, f, resetReasons) })
					if !assert.GreaterOrEqual(t, i, 0, "no %s", w) {
						continue
					}
					checkRecord(t, got[i])
					got = slices.Delete(got, i, i+1)
				}
				for _, e := range got {
					assert.Fail(t, "an event too many", "%s: %v", e.Body().Str(), e.Attributes().AsRaw())
				}
			})
		}
	}
}

// ofTheKernelItself tells what gets lost besides the stimulus: ARP requests and multicast listener
// reports while a link comes up, and the raw packets with which internal/nettest tries it.
func ofTheKernelItself(e event) bool {
	return slices.Contains([]string{"", "icmpv6", "253"}, e.attr("network.transport"))
}

// checkRecord checks what all events have.
func checkRecord(t *testing.T, e event) {
	name := e.EventName()
	age := time.Since(e.Timestamp().AsTime())
	assert.True(t, age >= 0 && age < time.Minute, "the kernel's time of %s is %s ago", name, age)
	assert.Equal(t, "INFO", e.SeverityText())
	line := e.Body().Str()
	assert.True(t, strings.HasPrefix(line, fmt.Sprintf("type=%s protocol=%s saddr=%s sport=%s daddr=%s dport=%s", name,
		strings.ToUpper(e.attr("network.transport")), e.attr("source.address"), e.attr("source.port"),
		e.attr("destination.address"), e.attr("destination.port"))), line)
	if name != "PACKETLOSS" {
		return
	}
	location, stack := e.attr("event.location"), strings.Fields(e.attr("event.stacktrace"))
	assert.Regexp(t, `^[a-z_][\w.]+\+0x[0-9A-F]+$`, location)
	assert.Contains(t, stack, location, "the stack goes through the function that dropped the packet")
	assert.Greater(t, len(stack), 5)
	for _, frame := range stack {
		assert.Regexp(t, `^[A-Za-z_][\w.]+\+0x[0-9A-F]+$`, frame)
	}
	assert.Contains(t, line, "  stacktrace:"+strings.Join(stack, " "))
}

// In a storm events are sampled, what is left out is counted, and the metrics miss nothing.
func TestStormIsCountedInFull(t *testing.T) {
	datagrams := 200_000
	if testing.Short() {
		datagrams = 20_000
	}
	for _, f := range nettest.Families() {
		t.Run(f.String(), func(t *testing.T) {
			r := start(t, func(c *Config) {
				c.Probes = map[string]probe.Config{"packetloss": {Events: true, EventsPerSecond: 10}}
			})
			p := r.pair(t)
			noPorts := map[nettest.Family]string{nettest.IPv4: "Udp.NoPorts", nettest.IPv6: "Udp6NoPorts"}[f]
			p.UDPToClosedPort(t, f, datagrams/2, false)
			want := p.B.Counter(t, noPorts)
			require.GreaterOrEqual(t, want, uint64(datagrams/2))
			b := r.pass(t)[p.B.Inode]
			assert.EqualValues(t, want, b["inspector_pod_abnormalalloss"])
			if hasDropReasons() {
				assert.EqualValues(t, want, b["inspector_pod_packetloss_by_reason{NO_SOCKET}"])
			}

			var stats probe.Stats
			nettest.Wait(t, "all events to arrive", func() bool {
				stats = r.eventStats(t, "packetloss")
				return stats.Delivered+stats.Suppressed >= want
			})
			assert.Positive(t, stats.Suppressed)
			assert.NotEmpty(t, r.events(p.B))
			assert.Less(t, len(r.events(p.B)), datagrams/20)
			assert.Zero(t, stats.RingFull+stats.MapFull+stats.Undecodable+stats.Refused)
			told := r.self(t, "otelcol_netexporter.events.suppressed", "probe")["/packetloss"]
			assert.GreaterOrEqual(t, told, int64(stats.Suppressed))
		})
	}
}

// eventStats returns the statistics of a probe's events.
func (r *rig) eventStats(t testing.TB, name string) probe.Stats {
	stats, err := r.agent.running.runner.Stats()
	require.NoError(t, err)
	for _, s := range stats {
		if s.Probe == name {
			return s
		}
	}
	t.Fatalf("no statistics of %s", name)
	return probe.Stats{}
}

// A namespace that is gone is not served, and its inode number lends nothing to the next.
func TestNamespaceIsGone(t *testing.T) {
	r := start(t, nil)
	var inode uint64
	t.Run("there", func(t *testing.T) {
		p := r.pair(t)
		inode = p.B.Inode
		p.UDPToClosedPort(t, nettest.IPv4, 5, true)
		assert.EqualValues(t, 5, r.pass(t)[inode]["inspector_pod_abnormalalloss"])
	})
	nettest.Wait(t, "the kernel to free the namespace", func() bool { return r.pass(t)[inode] == nil })
	// The kernel hands out the lowest free number: the next namespaces get it.
	for range 50 {
		n := nettest.NewNamespace(t)
		if n.Cookie == 0 {
			t.Skip("this kernel tells namespaces apart by their inodes alone (before 5.14)")
		}
		if n.Inode == inode {
			s := r.pass(t)[inode]
			require.NotNil(t, s)
			assert.Zero(t, s["inspector_pod_abnormalalloss"], "inherited from a namespace that is gone")
			return
		}
	}
	t.Skip("the kernel did not reuse the inode number within 50 namespaces")
}

// More namespaces than there is room for at first are all served.
func TestManyNamespaces(t *testing.T) {
	r := start(t, func(c *Config) {
		c.Probes = map[string]probe.Config{"packetloss": {}, "tcpreset": {}}
	})
	r.needsWalk(t) // /proc has no table that could be too small
	namespaces := make([]*nettest.Namespace, 300)
	for i := range namespaces {
		namespaces[i] = nettest.NewNamespace(t)
	}
	got := r.pass(t)
	for _, n := range namespaces {
		require.Contains(t, got, n.Inode)
	}
}

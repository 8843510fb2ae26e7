// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// A datagram and a connection to closed ports show up once, where they happened and nowhere else.
func TestClosedPorts(t *testing.T) {
	a := start(t)
	pairs := map[nettest.Family]*nettest.Pair{}
	var all []*nettest.Namespace
	for _, f := range nettest.Families() {
		pairs[f] = nettest.New(t)
		all = append(all, pairs[f].A, pairs[f].B)
	}
	var before page
	agenttest.Wait(t, "all namespaces to be on the page", func() bool {
		before = a.page(t)
		return !slices.ContainsFunc(all, func(n *nettest.Namespace) bool {
			_, counted := before.of(n)["inspector_pod_packetloss_total"]
			return !counted
		})
	})

	datagrams, resets := map[nettest.Family]nettest.Packet{}, map[nettest.Family]nettest.Packet{}
	for f, p := range pairs {
		datagrams[f] = p.UDPToClosedPort(t, f, 1, true)
		resets[f] = p.ConnectClosedPort(t, f)
	}

	done := time.Now()
	agenttest.Wait(t, "the metrics to rise", func() bool {
		for _, p := range pairs {
			if a.page(t).of(p.B)["inspector_pod_tcpoutrsts"] == 0 {
				return false
			}
		}
		return true
	})
	t.Logf("the metrics have risen %v after the traffic", time.Since(done).Round(time.Millisecond))

	after := a.nextPage(t)
	for _, n := range all {
		want := 0.0
		if n == pairs[nettest.IPv4].B || n == pairs[nettest.IPv6].B {
			want = 1
		}
		old, values := before.of(n), after.of(n)
		require.NotNil(t, values, n.Name)
		for _, name := range []string{"udpnoports", "tcpoutrsts", "abnormalalloss", "packetloss_abnormal"} {
			name = "inspector_pod_" + name
			assert.InDelta(t, want, values[name]-old[name], 0, "%s of %s", name, n.Name)
		}
		proc := n.Counters(t)
		assert.InDelta(t, proc["Udp.NoPorts"]+proc["Udp6NoPorts"], values["inspector_pod_udpnoports"], 0, n.Name)
		assert.InDelta(t, proc["Tcp.OutRsts"], values["inspector_pod_tcpoutrsts"], 0, n.Name)
		assert.InDelta(t, proc["Tcp.ActiveOpens"], values["inspector_pod_tcpactiveopens"], 0, n.Name)
	}

	a.flush(t)
	for f, p := range pairs {
		t.Run(f.String(), func(t *testing.T) {
			d, r := datagrams[f], resets[f]
			// The reset's line shows the segment that provoked it, and so does that of its receiver.
			assertLines(t, a.events("netns="+p.B.Name),
				line("PACKETLOSS", "UDP", d.Source, d.Destination)+`(?: reason=NO_SOCKET)? location=__udp[46]_lib_rcv\+0x[0-9A-F]+  `+
					`stacktrace:(?:[\w.]+\+0x[0-9A-F]+ ){5,}`,
				line("TCPRESET_NOSOCK", "TCP", r.Destination, r.Source)+" ")
			assertLines(t, a.events("netns="+p.A.Name),
				line("TCP_RCV_RST_SYN", "TCP", r.Destination, r.Source)+" ")
		})
	}
}

// line returns the pattern of an event's line up to its addresses. Events of others may have been held back before it.
func line(event, protocol string, source, destination netip.AddrPort) string {
	return regexp.QuoteMeta(fmt.Sprintf("type=%s protocol=%s saddr=%s sport=%d daddr=%s dport=%d",
		event, protocol, source.Addr(), source.Port(), destination.Addr(), destination.Port())) + `(?: suppressed=[1-9][0-9]*)?`
}

// assertLines tells whether there is a line for each pattern and no other. What names the namespace follows the pattern.
func assertLines(t *testing.T, lines []string, patterns ...string) {
	t.Helper()
	assert.Len(t, lines, len(patterns))
	for _, pattern := range patterns {
		whole := regexp.MustCompile(`^` + pattern + `netns=\w+$`)
		matches := 0
		for _, line := range lines {
			if whole.MatchString(line) {
				matches++
			}
		}
		assert.Equal(t, 1, matches, "lines that match %s, of:\n%s", whole, strings.Join(lines, "\n"))
	}
}

// A storm costs events, which are counted, and never a count; and it does not cost the node another storm.
func TestStorm(t *testing.T) {
	const storm = 20 * time.Second
	a := start(t)
	p := nettest.New(t)
	counters := map[nettest.Family]string{nettest.IPv4: "Udp.RcvbufErrors", nettest.IPv6: "Udp6RcvbufErrors"}
	dropped := func() (n uint64) {
		for _, counter := range counters {
			n += p.B.Counter(t, counter)
		}
		return n
	}
	var senders sync.WaitGroup
	end := time.Now().Add(storm)
	for _, f := range nettest.Families() {
		receiver := p.B.ListenUDP(t, f) // which nobody reads
		require.NoError(t, receiver.SetReadBuffer(1))
		sender := p.A.DialUDP(t, netip.MustParseAddrPort(receiver.LocalAddr().String()))
		segment(t, sender, 20)
		senders.Go(func() {
			for payload := make([]byte, 20*50); time.Now().Before(end); {
				for range 100 {
					_, err := sender.Write(payload)
					if !assert.NoError(t, err) {
						return
					}
				}
			}
		})
	}
	began, cpu := time.Now(), a.CPUTime(t)
	agenttest.Wait(t, "the first million to be lost", func() bool { return dropped() > 1e6 })
	memory := a.Memory(t)
	senders.Wait()
	share := (a.CPUTime(t) - cpu).Seconds() / time.Since(began).Seconds()
	grown := float64(a.Memory(t)) - float64(memory)
	rate := float64(dropped()) / time.Since(began).Seconds()

	var lost uint64
	var values map[string]float64
	agenttest.Wait(t, "the namespace to be at rest", func() bool {
		lost = dropped()
		values = a.nextPage(t).of(p.B)
		return dropped() == lost
	})
	// UDP over IPv4 and IPv6 together, as /proc/net/snmp and snmp6 have them apart.
	assert.InDelta(t, lost, values["inspector_pod_udprcvbuferrors"], 0)
	if byReason, hasReasons := values[`inspector_pod_packetloss_by_reason{reason="SOCKET_RCVBUFF"}`]; hasReasons {
		assert.InDelta(t, lost, byReason, 0)
	}

	a.flush(t)
	lines := a.events("netns=" + p.B.Name)
	suppressed := a.own(t, `otelcol_netexporter_events_suppressed{probe="packetloss"}`)
	t.Logf("%.0f drops/s, %d in all, %d events, %.0f suppressed; the collector took %.3f of a CPU and grew by %.1f MiB", rate, lost,
		len(lines), suppressed, share, grown/(1<<20))
	assert.NotEmpty(t, lines)
	assert.Less(t, len(lines), 100*runtime.NumCPU()*(int(storm.Seconds())+2), "100 a second and CPU")
	assert.Contains(t, strings.Join(lines, "\n"), " suppressed=")
	assert.Positive(t, suppressed)
	events := a.own(t, `otelcol_netexporter_events{probe="packetloss"}`)
	assert.GreaterOrEqual(t, events+suppressed, float64(lost), "each loss is an event or counted as none")
	for _, hop := range []string{"decode", "map_full", "pipeline", "ring_full"} {
		assert.Zero(t, a.own(t, fmt.Sprintf(`otelcol_netexporter_events_lost{hop=%q,probe="packetloss"}`, hop)), hop)
	}
	assert.Less(t, share, 0.5, "of a CPU")
	assert.Less(t, grown, float64(32<<20))
}

// segment makes what is written to a socket at once many datagrams of so many bytes: UDP_SEGMENT of udp(7). They part
// where they arrive, so that a storm costs its sender little.
func segment(t testing.TB, conn *net.UDPConn, bytes int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var setErr error
	require.NoError(t, raw.Control(func(fd uintptr) { setErr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, bytes) }))
	require.NoError(t, setErr)
}

// A namespace that is gone leaves the page, and one that comes enters it.
func TestNamespaceComesAndGoes(t *testing.T) {
	a := start(t)
	var n *nettest.Namespace
	t.Run("comes", func(t *testing.T) {
		n = nettest.NewNamespace(t)
		agenttest.Wait(t, "the namespace to be on the page", func() bool { return a.page(t).of(n) != nil })
	})
	gone, last, passes := time.Now(), a.page(t).pass, 0
	agenttest.Wait(t, "the namespace to leave the page", func() bool {
		p := a.page(t)
		if p.pass.After(last) {
			last = p.pass
			passes++
		}
		return p.of(n) == nil
	})
	t.Logf("it left the page after %d passes, %v", passes, time.Since(gone).Round(time.Millisecond))
}

// own returns a series of the agent's own metrics, as it is written there.
func (a agent) own(t testing.TB, series string) float64 {
	t.Helper()
	value, found := a.find(t, series)
	require.True(t, found, "%s is not at %s", series, a.Self)
	return value
}

// find returns a series of the agent's own metrics, if it is there.
func (a agent) find(t testing.TB, series string) (value float64, found bool) {
	t.Helper()
	text, err := agenttest.Get(a.Self)
	require.NoError(t, err)
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			_, err := fmt.Sscan(rest, &value)
			require.NoError(t, err, line)
			return value, true
		}
	}
	return 0, false
}

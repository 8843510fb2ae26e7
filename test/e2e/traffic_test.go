// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

// A storm costs events, which are counted, and never a count.
func TestStorm(t *testing.T) {
	const storm = 10 * time.Second
	a := start(t)
	p := nettest.New(t)
	destination := p.UDPToClosedPort(t, nettest.IPv4, 1, false).Destination
	socket := p.A.ListenUDP(t, nettest.IPv4)
	sent := 1
	for end := time.Now().Add(storm); time.Now().Before(end); sent++ {
		_, err := socket.WriteToUDPAddrPort(make([]byte, 20), destination)
		require.NoError(t, err)
	}

	var noPorts uint64
	var values map[string]float64
	agenttest.Wait(t, "the namespace to be at rest", func() bool {
		noPorts = p.B.Counter(t, "Udp.NoPorts")
		values = a.nextPage(t).of(p.B)
		return p.B.Counter(t, "Udp.NoPorts") == noPorts
	})
	assert.InDelta(t, noPorts, values["inspector_pod_udpnoports"], 0)
	// A datagram that the storm kept from getting as far as UDP (the device's backlog was full) is a loss, too.
	early := uint64(sent) - noPorts
	assert.InDelta(t, noPorts, values["inspector_pod_abnormalalloss"]-float64(early), 0)
	if noSocket, hasReasons := values[`inspector_pod_packetloss_by_reason{reason="NO_SOCKET"}`]; hasReasons {
		assert.InDelta(t, noPorts, noSocket, 0)
	}

	a.flush(t)
	lines := a.events("netns=" + p.B.Name)
	suppressed := a.own(t, `otelcol_netexporter_events_suppressed{probe="packetloss"}`)
	t.Logf("%d datagrams, %d of them dropped for want of a socket, %d events, %.0f suppressed", sent, noPorts, len(lines), suppressed)
	assert.NotEmpty(t, lines)
	assert.Less(t, len(lines), sent)
	assert.Contains(t, strings.Join(lines, "\n"), " suppressed=")
	assert.Positive(t, suppressed)
	events := a.own(t, `otelcol_netexporter_events{probe="packetloss"}`)
	assert.GreaterOrEqual(t, events+suppressed, float64(sent), "each loss is an event or counted as none")
	for _, hop := range []string{"decode", "map_full", "pipeline", "ring_full"} {
		assert.Zero(t, a.own(t, fmt.Sprintf(`otelcol_netexporter_events_lost{hop=%q,probe="packetloss"}`, hop)), hop)
	}
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

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/nettest"
)

// ssListeners sums up what ss tells of the listening TCP sockets of a namespace.
func ssListeners(t testing.TB, n *nettest.Namespace) series {
	ss, err := exec.LookPath("ss")
	if err != nil {
		t.Skip("needs the ss program of iproute2")
	}
	s := series{"sockets": 0, "acceptqueue": 0, "acceptqueuelimit": 0, "acceptqueuefull": 0}
	n.Do(t, func() {
		out, err := exec.Command(ss, "-H", "-ltn").Output()
		require.NoError(t, err)
		for line := range strings.Lines(string(out)) {
			fields := strings.Fields(line) // LISTEN, Recv-Q, Send-Q, ...
			queue, err := strconv.ParseInt(fields[1], 10, 64)
			require.NoError(t, err, line)
			limit, err := strconv.ParseInt(fields[2], 10, 64)
			require.NoError(t, err, line)
			s["sockets"]++
			s["acceptqueue"] += queue
			s["acceptqueuelimit"] += limit
			if queue > limit {
				s["acceptqueuefull"]++
			}
		}
	})
	return s
}

// listeners returns what a pass tells of the listening TCP sockets of a namespace.
func (r *rig) listeners(t testing.TB, n *nettest.Namespace) series {
	all, s := r.pass(t)[n.Inode], series{}
	for _, name := range []string{"sockets", "acceptqueue", "acceptqueuelimit", "acceptqueuefull"} {
		value, ok := all["inspector_pod_tcplisten"+name]
		require.True(t, ok, "%s is not served", name)
		s[name] = value
	}
	return s
}

// A server that does not accept: its queue grows connection by connection until it is full, and then connections are
// dropped.
func TestListenQueues(t *testing.T) {
	r := start(t, nil)
	p := r.pair(t)
	fill := func(to netip.AddrPort, connections int) {
		for range connections {
			p.A.DialTCP(t, to)
		}
	}
	for _, f := range nettest.Families() {
		address := netip.AddrPortFrom(p.B.Addresses[f], 0)
		some, _ := p.B.ListenBacklog(t, address, 3)
		fill(some, 2)
		group, _ := p.B.ListenBacklog(t, address, 6)
		_, _ = p.B.ListenBacklog(t, group, 6) // may get all of them
		fill(group, 6)
		full, _ := p.B.ListenBacklog(t, address, 1)
		fill(full, 2)
	}
	both, stop := p.B.ListenBacklog(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 0), 2)
	for _, f := range nettest.Families() {
		fill(netip.AddrPortFrom(p.B.Addresses[f], both.Port()), 1)
	}
	want := series{"sockets": 9, "acceptqueue": 22, "acceptqueuelimit": 34, "acceptqueuefull": 2}
	// The last packet of a handshake is not waited for by who connects.
	nettest.Wait(t, "ss to tell what was made", func() bool { return assert.ObjectsAreEqual(want, ssListeners(t, p.B)) })
	assert.Equal(t, want, r.listeners(t, p.B))
	assert.Equal(t, ssListeners(t, p.A), r.listeners(t, p.A))
	assert.Zero(t, r.listeners(t, p.A)["sockets"], "connections are no listeners")

	before := r.pass(t)[p.B.Inode]
	for _, f := range nettest.Families() {
		p.ListenOverflow(t, f)
	}
	after := r.pass(t)[p.B.Inode]
	for _, name := range []string{"overflows", "drops"} {
		name = "inspector_pod_tcpextlisten" + name
		assert.GreaterOrEqual(t, after[name], before[name]+2, name)
	}

	stop()
	want = series{"sockets": 8, "acceptqueue": 20, "acceptqueuelimit": 32, "acceptqueuefull": 2}
	assert.Equal(t, want, r.listeners(t, p.B), "a socket that is closed is gone")
}

// The table of listening sockets is walked in several runs: none is missed or counted twice.
func TestManyListeners(t *testing.T) {
	const listeners = 5000 // more than one run takes
	r := start(t, nil)
	n := nettest.NewNamespace(t)
	r.see(t, n)
	lo := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	one, _ := n.ListenBacklog(t, lo, 1)
	for range listeners/2 - 1 {
		n.ListenBacklog(t, one, 1) // all of a group are in one bucket
	}
	for range listeners / 2 {
		n.ListenBacklog(t, lo, 1)
	}
	want := series{"sockets": listeners, "acceptqueue": 0, "acceptqueuelimit": listeners, "acceptqueuefull": 0}
	assert.Equal(t, want, r.listeners(t, n))
}

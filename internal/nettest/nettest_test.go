// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNamespaceIdentity(t *testing.T) {
	p := New(t)
	single := NewNamespace(t)
	seen := map[uint64]string{inode(t, "/proc/self/ns/net"): "the test's own"}
	for _, n := range []*Namespace{p.A, p.B, single} {
		assert.NotContains(t, seen, n.Inode)
		seen[n.Inode] = n.Name
		assert.Equal(t, inode(t, filepath.Join(netnsDir, n.Name)), n.Inode)
		n.Do(t, func() { assert.Equal(t, n.Inode, inode(t, "/proc/thread-self/ns/net")) })
	}
	if p.A.Cookie == 0 {
		t.Log("no SO_NETNS_COOKIE on this kernel")
		assert.Zero(t, p.B.Cookie)
	} else {
		assert.NotEqual(t, p.A.Cookie, p.B.Cookie)
	}
	assert.Equal(t, netip.MustParseAddr("10.77.0.2"), p.B.Addresses[IPv4])
	assert.Equal(t, netip.MustParseAddr("fd77::1"), p.A.Addresses[IPv6])
}

func TestNamespacesAreRemoved(t *testing.T) {
	var names []string
	t.Run("use", func(t *testing.T) {
		p := New(t)
		names = []string{p.A.Name, p.B.Name, NewNamespace(t).Name}
	})
	if len(names) == 0 {
		t.Skip("no namespaces here")
	}
	for _, name := range names {
		assert.NoFileExists(t, filepath.Join(netnsDir, name))
	}
}

func TestDoLeavesTheThreadsAlone(t *testing.T) {
	n := NewNamespace(t)
	own := inode(t, "/proc/self/ns/net")
	for range 50 {
		n.Do(t, func() {
			assert.NotEqual(t, unix.Getpid(), unix.Gettid(), "the first thread must stay where it is")
			assert.Equal(t, own, inode(t, "/proc/self/ns/net"))
		})
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	require.NoError(t, err)
	require.NotEmpty(t, tasks)
	for _, task := range tasks {
		if info, err := os.Stat(task); err == nil { // a thread may end meanwhile
			assert.True(t, os.SameFile(info, stat(t, "/proc/self/ns/net")), task)
		}
	}
}

// TestDoConcurrently has more goroutines enter than there are threads, the first among them at times.
func TestDoConcurrently(t *testing.T) {
	p := New(t)
	var group sync.WaitGroup
	var wrong atomic.Int32
	for i := range 8 * runtime.GOMAXPROCS(0) {
		n := []*Namespace{p.A, p.B}[i%2]
		group.Go(func() {
			var s unix.Stat_t
			if err := n.do(func() { _ = unix.Stat("/proc/thread-self/ns/net", &s) }); err != nil || s.Ino != n.Inode {
				wrong.Add(1)
			}
		})
	}
	group.Wait()
	assert.Zero(t, wrong.Load())
}

// failing is a test that records its end and ends its goroutine, as FailNow must.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) FailNow() { f.failed = true; runtime.Goexit() }

func TestDoEndsTheTestThatItsFunctionEnds(t *testing.T) {
	n := NewNamespace(t)
	inner := &failing{TB: t}
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Do(inner, inner.FailNow)
		returned = true
	}()
	<-done
	assert.True(t, inner.failed)
	assert.False(t, returned)
}

func TestHold(t *testing.T) {
	n := NewNamespace(t)
	var pid int
	t.Run("held", func(t *testing.T) {
		pid = n.Hold(t)
		assert.Equal(t, n.Inode, inode(t, fmt.Sprintf("/proc/%d/ns/net", pid)))
	})
	assert.NoFileExists(t, fmt.Sprintf("/proc/%d/ns/net", pid))
}

func TestSockets(t *testing.T) {
	p := New(t)
	for _, family := range Families() {
		t.Run(family.String(), func(t *testing.T) {
			client, server := p.ConnectTCP(t, family)
			assert.Equal(t, p.A.Addresses[family], localAddr(client).Addr())
			assert.Equal(t, localAddr(client), remoteAddr(server))
			assert.Equal(t, TCPEstablished, p.B.TCPState(t, localAddr(server), remoteAddr(server)))
			write(t, client, []byte("ping"))
			require.NoError(t, client.CloseWrite())
			got, err := io.ReadAll(server)
			require.NoError(t, err)
			assert.Equal(t, "ping", string(got))

			receiver := p.B.ListenUDP(t, family)
			sender := p.A.DialUDP(t, localAddr(receiver))
			write(t, sender, []byte("pong"))
			buffer := make([]byte, 16)
			n, from, err := receiver.ReadFromUDPAddrPort(buffer)
			require.NoError(t, err)
			assert.Equal(t, "pong", string(buffer[:n]))
			assert.Equal(t, localAddr(sender), from)
		})
	}
}

func TestWarmUpMovesNoTransportCounter(t *testing.T) {
	p := New(t)
	for _, n := range []*Namespace{p.A, p.B} {
		counters := n.Counters(t)
		for _, key := range []string{"Tcp.InSegs", "Tcp.OutSegs", "Udp.InDatagrams", "Udp.OutDatagrams", "Udp.NoPorts", "Udp6InDatagrams", "Udp6NoPorts"} {
			assert.Contains(t, counters, key)
			assert.Zero(t, counters[key], key)
		}
	}
}

// moves says by how much counters rose. Keys that begin with "Udp" stand for the family's own.
type moves map[string]uint64

// watched returns the counters that tell the stimuli apart.
func watched(family Family) []string {
	return []string{
		udpCounter(family, "NoPorts"), udpCounter(family, "RcvbufErrors"),
		"Tcp.OutRsts", "Tcp.EstabResets", "Tcp.AttemptFails",
		"TcpExt.EmbryonicRsts", "TcpExt.TCPAbortOnClose", "TcpExt.TCPAbortOnData",
	}
}

func TestStimuli(t *testing.T) {
	const n = 5
	p := New(t)
	type stimulus = func(t T, family Family) Packet
	closedPort := func(connected bool) stimulus {
		return func(t T, family Family) Packet { return p.UDPToClosedPort(t, family, n, connected) }
	}
	overflow := func(count int) stimulus {
		return func(t T, family Family) Packet { return p.UDPRcvbufOverflow(t, family, count) }
	}
	drop := func(t T, family Family) Packet { return p.NFTDrop(t, family, n) }
	reset, broken := moves{"Tcp.OutRsts": 1}, moves{"Tcp.EstabResets": 1}
	tests := []struct {
		name     string
		stimulus stimulus
		from     *Namespace
		a, b     moves // all that the watched counters of A and B do
	}{
		{"UDPToClosedPort", closedPort(false), p.A, nil, moves{"Udp.NoPorts": n}},
		{"UDPToClosedPort connected", closedPort(true), p.A, nil, moves{"Udp.NoPorts": n}},
		{"UDPRcvbufOverflow", overflow(n), p.A, nil, moves{"Udp.RcvbufErrors": n}},
		{"UDPRcvbufOverflow once", overflow(1), p.A, nil, moves{"Udp.RcvbufErrors": 1}},
		{"NFTDrop", drop, p.A, nil, nil},
		{"NFTDropSYN", p.NFTDropSYN, p.A, nil, nil},
		{"UDPUnread", func(t T, family Family) Packet { return p.UDPUnread(t, family, n) }, p.A, nil, nil},
		{"UDPFragments", p.UDPFragments, p.A, nil, nil},
		{"ConnectClosedPort", p.ConnectClosedPort, p.B, moves{"Tcp.AttemptFails": 1}, reset},
		{"CloseWithUnreadData", p.CloseWithUnreadData, p.B, broken, moves{"Tcp.OutRsts": 1, "Tcp.EstabResets": 1, "TcpExt.TCPAbortOnClose": 1}},
		{"LingerZeroClose", p.LingerZeroClose, p.B, broken, moves{"Tcp.OutRsts": 1, "Tcp.EstabResets": 1, "TcpExt.TCPAbortOnData": 1}},
		{"DataToOrphanedFinWait2", p.DataToOrphanedFinWait2, p.B, broken, reset},
		{"FinToOrphanedFinWait2", p.FinToOrphanedFinWait2, p.A, nil, nil},
		{"HalfOpenReset", p.HalfOpenReset, p.A, reset, moves{"Tcp.AttemptFails": 1, "TcpExt.EmbryonicRsts": 1}},
		{"ResetInTimeWait", p.ResetInTimeWait, p.B, nil, nil},
		{"AckInTimeWait", p.AckInTimeWait, p.B, nil, nil},
		{"DataInTimeWait", p.DataInTimeWait, p.B, nil, reset},
		{"FinInTimeWait", p.FinInTimeWait, p.B, nil, reset},
		{"SynInTimeWait", p.SynInTimeWait, p.A, reset, moves{"Tcp.AttemptFails": 1, "TcpExt.EmbryonicRsts": 1}},
	}
	for _, test := range tests {
		for _, family := range Families() {
			t.Run(test.name+"/"+family.String(), func(t *testing.T) {
				beforeA, beforeB := p.A.Counters(t), p.B.Counters(t)
				got := test.stimulus(t, family)
				assert.Equal(t, family, got.Family)
				assert.Same(t, test.from, got.From)
				assert.NotSame(t, test.from, got.To)
				assert.Equal(t, got.From.Addresses[family], got.Source.Addr())
				assert.Equal(t, got.To.Addresses[family], got.Destination.Addr())
				assert.NotZero(t, got.Source.Port())
				assert.NotZero(t, got.Destination.Port())
				assert.Equal(t, test.a.of(family), moved(family, beforeA, p.A.Counters(t)), "of A")
				assert.Equal(t, test.b.of(family), moved(family, beforeB, p.B.Counters(t)), "of B")
			})
		}
	}
}

// of spells the keys as the family does.
func (m moves) of(family Family) moves {
	out := moves{}
	for key, value := range m {
		if name, ok := strings.CutPrefix(key, "Udp."); ok {
			key = udpCounter(family, name)
		}
		out[key] = value
	}
	return out
}

func moved(family Family, before, after map[string]uint64) moves {
	out := moves{}
	for _, key := range watched(family) {
		if d := after[key] - before[key]; d != 0 {
			out[key] = d
		}
	}
	return out
}

// TestTimeWaitOutlivesAck tells the segments that end a TIME_WAIT socket from the one that does not.
func TestTimeWaitOutlivesAck(t *testing.T) {
	p := New(t)
	for _, family := range Families() {
		t.Run(family.String(), func(t *testing.T) {
			ack := p.AckInTimeWait(t, family)
			assert.Equal(t, TCPTimeWait, p.A.TCPState(t, ack.Destination, ack.Source))
			reset := p.ResetInTimeWait(t, family)
			assert.Equal(t, TCPNone, p.A.TCPState(t, reset.Destination, reset.Source))
		})
	}
}

func TestChecksum(t *testing.T) {
	// The example of RFC 1071, section 3, whose sum is ddf2, and its odd-length beginning.
	assert.Equal(t, ^uint16(0xddf2), checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}))
	assert.Equal(t, ^uint16(0xf201), checksum([]byte{0x00, 0x01, 0xf2}))
}

func TestParsePairedLines(t *testing.T) {
	counters := map[string]uint64{}
	require.NoError(t, parsePairedLines([]byte("Tcp: MaxConn OutRsts\nTcp: -1 7\nUdp: NoPorts\nUdp: 3\n"), counters))
	assert.Equal(t, map[string]uint64{"Tcp.MaxConn": math.MaxUint64, "Tcp.OutRsts": 7, "Udp.NoPorts": 3}, counters)
	for _, bad := range []string{"Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Tcp: A\nTcp: x\n"} {
		assert.Error(t, parsePairedLines([]byte(bad), map[string]uint64{}), bad)
	}
}

func stat(t testing.TB, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var s unix.Stat_t
	require.NoError(t, unix.Stat(path, &s))
	return s.Ino
}

// A private pair carries traffic as a named one does, leaves nothing where others look, and goes with the test.
func TestPrivate(t *testing.T) {
	var inode uint64
	t.Run("lives", func(t *testing.T) {
		p := NewPrivate(t)
		inode = p.B.Inode
		if p.A.Inode == p.B.Inode {
			t.Fatalf("both have inode %d", inode)
		}
		for _, family := range Families() {
			p.UDPToClosedPort(t, family, 2, true)
			p.ConnectClosedPort(t, family)
		}
		named, err := filepath.Glob(filepath.Join(netnsDir, fmt.Sprintf("nxt%dn*", os.Getpid())))
		require.NoError(t, err)
		assert.Empty(t, named)
	})
	Wait(t, "the namespace to be left by every thread", func() bool {
		threads, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		link := fmt.Sprintf("net:[%d]", inode)
		return !slices.ContainsFunc(threads, func(path string) bool {
			target, err := os.Readlink(path)
			return err == nil && target == link
		})
	})
}

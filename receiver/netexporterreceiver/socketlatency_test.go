// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

const (
	read100ms  = "inspector_pod_socketlatencyread100ms"
	write100ms = "inspector_pod_socketlatencywrite100ms"
)

// inEachMode runs a test with the clock of ticks and with full histograms, over IPv4 and IPv6.
func inEachMode(t *testing.T, name string, hooks []string, test func(t *testing.T, r *rig, f nettest.Family)) {
	for mode, full := range map[string]bool{"ticks": false, "full": true} {
		for _, f := range nettest.Families() {
			t.Run(mode+"/"+f.String(), func(t *testing.T) {
				test(t, startPath(t, name, func(c *probe.Config) { c.FullHistograms = full }, hooks...), f)
			})
		}
	}
}

// socketHooks are what the tests of socketlatency need.
func socketHooks() []string { return []string{"arrival", "read", "sent", "write"} }

// A reader that comes late counts once; one that finds nothing, or comes at once, does not.
func TestLateReader(t *testing.T) {
	inEachMode(t, "socketlatency", socketHooks(), func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		client, server := p.ConnectTCP(t, f)
		before, sumBefore := r.histogram(t, "inspector_node_socketlatency", "read")
		begin := time.Now()
		send(t, client, 100)
		nettest.WaitUnread(t, server, 100)
		arrived := time.Now()
		time.Sleep(late)
		atLeast := time.Since(arrived)
		nettest.Drain(t, server, 100)
		atMost := time.Since(begin)
		after, sumAfter := r.histogram(t, "inspector_node_socketlatency", "read")
		// It is the node's: others on the machine may have been late, too.
		if assert.GreaterOrEqual(t, after-before, uint64(1)); after-before == 1 {
			within(t, sumAfter-sumBefore, atLeast, atMost)
		}

		// Nothing there to be read.
		require.NoError(t, server.SetReadDeadline(time.Now().Add(late)))
		_, err := server.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, server.SetReadDeadline(time.Time{}))
		for range 3 {
			send(t, client, 10)
			nettest.Drain(t, server, 10)
		}
		s := r.pass(t)
		assert.EqualValues(t, 1, s[p.B.Inode][read100ms])
		assert.Zero(t, s[p.A.Inode][read100ms])
		assert.Zero(t, s[p.A.Inode][write100ms]+s[p.B.Inode][write100ms])
		slowEvent{
			in: p.B, name: "SOCKETLAT_READSLOW", family: f, state: "TCP_ESTABLISHED", own: true,
			source: addr(server.LocalAddr()), destination: addr(server.RemoteAddr()), atLeast: atLeast, atMost: atMost,
		}.check(t, r.onlyEvent(t, p.A, p.B))
	})
}

// It is the oldest unread byte that waits, however many come after it.
func TestReaderOfAStreamComesLate(t *testing.T) {
	inEachMode(t, "socketlatency", socketHooks(), func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		client, server := p.ConnectTCP(t, f)
		begin := time.Now()
		send(t, client, 10)
		nettest.WaitUnread(t, server, 10)
		arrived := time.Now()
		total := 10
		for time.Since(arrived) < late {
			time.Sleep(late / 10)
			send(t, client, 10)
			total += 10
		}
		nettest.WaitUnread(t, server, total)
		atLeast := time.Since(arrived)
		// In pieces: the rest has been waited for no longer once the first is read.
		nettest.Drain(t, server, 15)
		atMost := time.Since(begin)
		nettest.Drain(t, server, total-15)
		assert.EqualValues(t, 1, r.pass(t)[p.B.Inode][read100ms])
		slowEvent{
			in: p.B, name: "SOCKETLAT_READSLOW", family: f, state: "TCP_ESTABLISHED", own: true,
			source: addr(server.LocalAddr()), destination: addr(server.RemoteAddr()), atLeast: atLeast, atMost: atMost,
		}.check(t, r.onlyEvent(t, p.A, p.B))
	})
}

// What is written to a peer whose window is closed waits for it to open, the first byte for longest.
func TestWriteToAClosedWindow(t *testing.T) {
	inEachMode(t, "socketlatency", socketHooks(), func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		client, server := p.ConnectTCP(t, f)
		unread := nettest.CloseWindow(t, client)
		before := r.pass(t)[p.A.Inode][write100ms]
		nettest.Wait(t, "the events of writes that were held up on a busy machine", func() bool { return int64(len(r.events(p.A))) == before })
		begin := time.Now()
		send(t, client, 100)
		written := time.Now()
		time.Sleep(late)
		send(t, client, 100)
		atLeast := time.Since(written)
		assert.Equal(t, before, r.pass(t)[p.A.Inode][write100ms], "it still waits")
		nettest.Drain(t, server, unread+200)
		atMost := time.Since(begin)
		s := r.pass(t)
		assert.Equal(t, before+1, s[p.A.Inode][write100ms])
		assert.Zero(t, s[p.B.Inode][write100ms])
		nettest.Wait(t, "the event", func() bool { return int64(len(r.events(p.A))) > before })
		events := r.events(p.A)
		require.Len(t, events, int(before)+1)
		slowEvent{
			in: p.A, name: "SOCKETLAT_WRITESLOW", family: f, state: "TCP_ESTABLISHED", own: true,
			source: addr(client.LocalAddr()), destination: addr(client.RemoteAddr()), atLeast: atLeast, atMost: atMost,
		}.check(t, events[before])
		n, sum := r.histogram(t, "inspector_node_socketlatency", "write")
		assert.Positive(t, n)
		assert.GreaterOrEqual(t, sum, atLeast-tick(t))
	})
}

// What is sent at once is not slow, even if the acknowledgment of what was sent before takes long.
func TestWriteOverALongPath(t *testing.T) {
	inEachMode(t, "socketlatency", socketHooks(), func(t *testing.T, r *rig, f nettest.Family) {
		p := inhabited(t)
		client, server := p.ConnectTCP(t, f)
		p.B.Shape(t)
		p.B.Congest(t, p.A, f) // the acknowledgment is behind
		send(t, client, 10)
		time.Sleep(late)
		require.Positive(t, nettest.Queued(t, client, unix.SIOCOUTQ), "the acknowledgment was not held up")
		send(t, client, 10)
		nettest.Wait(t, "the acknowledgment", func() bool { return nettest.Queued(t, client, unix.SIOCOUTQ) == 0 })
		nettest.Drain(t, server, 20)
		assert.Zero(t, r.pass(t)[p.A.Inode][write100ms])
	})
}

// With all probes of the packet path some tracepoints have a program of each, which call one another.
func TestProbesOfThePathTogether(t *testing.T) {
	for _, f := range nettest.Families() {
		t.Run(f.String(), func(t *testing.T) {
			r := start(t, func(c *Config) {
				c.DefaultProbes, c.Probes = false, map[string]probe.Config{}
				for _, name := range []string{"socketlatency", "kernellatency", "netiftxlat"} {
					c.Probes[name] = probe.DefaultConfig()
				}
			})
			for hook := range r.self(t, "otelcol_netexporter.probe.hook", "probe", "hook", "variant") {
				if strings.HasPrefix(hook, "/socketlatency/") && strings.HasSuffix(hook, "/"+kernel.NoVariant) {
					skipBefore(t, hook)
				}
			}
			p := inhabited(t)
			client, server := p.ConnectTCP(t, f)
			p.A.Shape(t)
			p.A.Congest(t, p.B, f)
			send(t, client, 100)
			nettest.WaitUnread(t, server, 100)
			time.Sleep(late)
			// Of this one the program at tcp_probe must know that it is not the oldest.
			send(t, client, 100)
			nettest.WaitUnread(t, server, 200)
			nettest.Drain(t, server, 200)
			s := r.pass(t)
			assert.EqualValues(t, 1, s[p.B.Inode][read100ms])
			assert.EqualValues(t, 1, s[p.A.Inode][txslow100ms])
			assert.GreaterOrEqual(t, s[p.A.Inode][qdiscslow100ms], int64(3), "what else the kernel sends waits, too")
		})
	}
}

// What a tick cannot tell is refused, not ignored.
func TestThresholdBelowTheTick(t *testing.T) {
	threshold := tick(t)
	_, err := startAs(t, onlyProbe("socketlatency", func(c *probe.Config) { c.Threshold = &threshold }), nil)
	require.ErrorContains(t, err, "full_histograms: true")
	startPath(t, "socketlatency", func(c *probe.Config) { c.Threshold, c.FullHistograms = &threshold, true }, socketHooks()...)
}

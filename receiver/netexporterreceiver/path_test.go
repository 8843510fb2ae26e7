// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// late is how long the tests of latency let something wait: it is what they are about.
const late = 150 * time.Millisecond

// startPath starts a receiver with the named probe alone. Where the kernel has no variant of one of hooks, the test
// is skipped.
func startPath(t *testing.T, name string, change func(*probe.Config), hooks ...string) *rig {
	t.Helper()
	r, err := startAs(t, onlyProbe(name, change), nil)
	if err != nil && strings.Contains(err.Error(), "probe "+name) {
		t.Log(err)
		skipBefore(t, hooks[0])
	}
	require.NoError(t, err)
	variants := r.self(t, "otelcol_netexporter.probe.hook", "probe", "hook", "variant")
	for _, hook := range hooks {
		if _, none := variants["/"+name+"/"+hook+"/"+kernel.NoVariant]; none {
			skipBefore(t, hook)
		}
	}
	return r
}

// tick returns how exact a latency is that was measured by ticks.
func tick(t testing.TB) time.Duration {
	d, err := kernel.Tick()
	require.NoError(t, err)
	return d
}

// histogram returns the number and the sum of the values of a histogram of the node.
func (r *rig) histogram(t testing.TB, name, value string) (n uint64, sum time.Duration) {
	t.Helper()
	metrics, err := r.agent.collect(t.Context())
	require.NoError(t, err)
	for _, rm := range metrics.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Name() != name || m.Type() != pmetric.MetricTypeHistogram {
					continue
				}
				assert.Zero(t, inodeOf(rm.Resource()), "a histogram is of the node")
				assert.Equal(t, "s", m.Unit())
				for _, dp := range m.Histogram().DataPoints().All() {
					if v, _ := dp.Attributes().Get("type"); v.Str() == value {
						return dp.Count(), time.Duration(dp.Sum() * float64(time.Second))
					}
				}
			}
		}
	}
	t.Fatalf("no histogram %s{%s}", name, value)
	return 0, 0
}

// slowEvent is what an event of latency must say.
type slowEvent struct {
	in                  *nettest.Namespace
	name                string
	family              nettest.Family
	source, destination netip.AddrPort
	transport           string // empty: tcp
	state               string // empty: it has none
	own                 bool   // it names this process
	section             string // empty: it has none
	atLeast, atMost     time.Duration
}

// check checks an event in every field.
func (w slowEvent) check(t testing.TB, e event) {
	t.Helper()
	t.Log(e.Body().Str())
	assert.Equal(t, w.in.Inode, inodeAttr(e))
	if w.in.Cookie != 0 {
		cookie, _ := e.resource.Get("network.netns.cookie")
		assert.EqualValues(t, w.in.Cookie, cookie.Int())
	}
	assert.Equal(t, w.name, e.EventName())
	pid, comm := "0", ""
	if w.own {
		raw, err := os.ReadFile("/proc/self/comm")
		require.NoError(t, err)
		pid, comm = strconv.Itoa(os.Getpid()), strings.TrimSpace(string(raw))
	}
	want := map[string]string{
		"event.name": w.name, "event.suppressed": "0",
		"network.transport": cmp.Or(w.transport, "tcp"), "network.type": w.family.String(),
		"source.address": w.source.Addr().String(), "source.port": fmt.Sprint(w.source.Port()),
		"destination.address": w.destination.Addr().String(), "destination.port": fmt.Sprint(w.destination.Port()),
	}
	if w.state != "" {
		want["tcp.state"] = w.state
	}
	if w.own {
		want["process.pid"], want["thread.name"] = pid, comm
	}
	if w.section != "" {
		want["event.section"] = w.section
	}
	for key, value := range want {
		assert.Equal(t, value, e.attr(key), key)
	}
	cpu, err := strconv.Atoi(e.attr("cpu.logical_number"))
	require.NoError(t, err)
	assert.Less(t, cpu, runtime.NumCPU())
	ns, err := strconv.ParseInt(e.attr("event.duration"), 10, 64)
	require.NoError(t, err)
	within(t, time.Duration(ns), w.atLeast, w.atMost)
	age := time.Since(e.Timestamp().AsTime())
	assert.True(t, age >= 0 && age < time.Minute, "the kernel's time of %s is %s ago", w.name, age)
	assert.Regexp(t, fmt.Sprintf(`^type=%s protocol=%s saddr=%s sport=%d daddr=%s dport=%d cpu=\d+ pid=\d+ .*latency=\d+\.\d{3}ms`,
		w.name, strings.ToUpper(cmp.Or(w.transport, "tcp")), w.source.Addr(), w.source.Port(), w.destination.Addr(), w.destination.Port()), e.Body().Str())
}

// within checks a latency that was measured by ticks.
func within(t testing.TB, got, atLeast, atMost time.Duration) {
	t.Helper()
	exact := tick(t)
	assert.GreaterOrEqual(t, got, atLeast-exact)
	assert.LessOrEqual(t, got, atMost+exact)
}

// onlyEvent waits for an event of the namespaces, and checks that there is no other.
func (r *rig) onlyEvent(t testing.TB, of ...*nettest.Namespace) event {
	t.Helper()
	nettest.Wait(t, "an event", func() bool { return len(r.events(of...)) > 0 })
	events := r.events(of...)
	for _, e := range events[1:] {
		assert.Fail(t, "an event too many", e.Body().Str())
	}
	return events[0]
}

func onFD(t testing.TB, conn syscall.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var inner error
	require.NoError(t, raw.Control(func(fd uintptr) { inner = f(int(fd)) }))
	require.NoError(t, inner)
}

func send(t testing.TB, conn *net.TCPConn, n int) {
	t.Helper()
	_, err := conn.Write(make([]byte, n))
	require.NoError(t, err)
}

func addr(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// inhabited returns namespaces with a process each: kernels that cannot run the collection pass see no others.
func inhabited(t testing.TB) *nettest.Pair {
	t.Helper()
	p := nettest.New(t)
	p.A.Hold(t)
	p.B.Hold(t)
	return p
}

// skipBefore skips a test for want of a hook, on kernels that cannot have it.
func skipBefore(t testing.TB, hook string) {
	t.Helper()
	release, err := kernel.Release()
	require.NoError(t, err)
	var major, minor int
	_, err = fmt.Sscanf(release, "%d.%d", &major, &minor)
	require.NoError(t, err)
	// bpf_sk_storage_get() in programs at tracepoints came with 5.11.
	if major > 5 || major == 5 && minor >= 11 {
		t.Fatalf("hook %s does not run on %s", hook, release)
	}
	t.Skip("needs bpf_sk_storage_get() in programs at tracepoints, which is there from Linux 5.11 on")
}

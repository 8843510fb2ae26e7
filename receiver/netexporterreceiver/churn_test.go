// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/test/bench/population"
)

var churn = flag.Duration("churn", time.Minute, "how long TestChurn makes and removes network namespaces; 5s at most with -short")

// Namespaces come and go in crowds while the kernel is read without a pause. Nothing that is read may be impossible,
// and nothing may stay behind.
func TestChurn(t *testing.T) {
	namespaces, sockets, duration := 150, 40, *churn
	if testing.Short() {
		namespaces, duration = 30, min(duration, 5*time.Second)
	}
	a := startAlone(t)
	collect(t, a)
	complaints, goroutines, files := kernelComplaints(t), runtime.NumGoroutine(), openFiles(t)

	// A population is born at rest, is seen by one pass, and dies during the next ones.
	born, dying, done := make(chan *population.Population), make(chan *population.Population), make(chan error, 1)
	ended := make(chan struct{})
	ctx := t.Context()
	t.Cleanup(func() { <-ended })
	go func() {
		defer close(ended)
		for end := time.Now().Add(duration); time.Now().Before(end) && ctx.Err() == nil; {
			p, err := population.New(namespaces, sockets)
			if err != nil {
				done <- err
				return
			}
			for _, c := range []chan *population.Population{born, dying} {
				select {
				case c <- p:
				case <-ctx.Done():
				}
			}
			_ = p.Close()
		}
		done <- nil
	}()

	c := checker{all: map[netnsID]*history{}, sockets: sockets}
	var made []*population.Population
	for running := true; running; {
		var live *population.Population
		select {
		case live = <-born:
			made = append(made, live)
		case err := <-done:
			require.NoError(t, err)
			running = false
		default:
		}
		c.check(t, collect(t, a), live)
		if live != nil {
			<-dying
		}
	}
	t.Logf("%d passes, %d populations of %d network namespaces; %d were met", c.passes, len(made), namespaces, len(c.all))
	assert.NotEmpty(t, made)
	for _, p := range made {
		c.checkPeaks(t, p)
	}

	// Nothing stays behind.
	for _, p := range made {
		waitUntilGone(t, a, p)
	}
	nettest.Wait(t, fmt.Sprintf("no more than %d goroutines", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines })
	nettest.Wait(t, fmt.Sprintf("no more than %d open files", files), func() bool { return openFiles(t) <= files })
	for _, line := range kernelComplaints(t) {
		assert.Contains(t, complaints, line, "the kernel complains")
	}
}

// history is what passes have said of one namespace.
type history struct {
	last  int              // the last pass that met it
	sums  map[string]int64 // by series, at that pass
	peaks map[string]int64 // of the series of limits
}

// checker compares each pass with those before.
type checker struct {
	all     map[netnsID]*history
	passes  int
	sockets int // of each namespace of a population
}

// limits returns what the series of a namespace of a population can have at most.
func (c *checker) limits() map[string]int64 {
	connections := int64(population.Connections(c.sockets))
	return map[string]int64{
		"inspector_pod_tcpactiveopens":               connections,
		"inspector_pod_tcpcurrestab":                 2 * connections,
		"inspector_pod_tcpoutrsts":                   2 * connections,
		"inspector_pod_tcppassiveopens":              connections,
		"inspector_pod_tcpsummarytcpestablishedconn": 2 * connections,
		"inspector_pod_tcpsummarytcprxqueue":         population.Unread * connections,
		"inspector_pod_tcpsummarytcptimewaitconn":    0,
		"inspector_pod_tcpsummarytcptxqueue":         population.Unread * connections,
		"inspector_pod_udpnoports":                   0,
	}
}

// check checks a pass, before which all of the live population had been made and during which none of it was removed.
func (c *checker) check(t *testing.T, metrics pmetric.Metrics, live *population.Population) {
	c.passes++
	limits := c.limits()
	for _, rm := range metrics.ResourceMetrics().All() {
		id := idOf(rm.Resource())
		if id == (netnsID{}) {
			continue // a fact of the node
		}
		h := c.all[id]
		if h == nil {
			h = &history{last: c.passes, sums: map[string]int64{}, peaks: map[string]int64{}}
			c.all[id] = h
		}
		require.True(t, id.cookie == 0 || h.last >= c.passes-1, "namespace %v was gone in pass %d", id, c.passes-1)
		h.last = c.passes
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				monotonic := m.Type() == pmetric.MetricTypeSum && m.Sum().IsMonotonic()
				for _, dp := range pointsOf(m).All() {
					name, value := m.Name()+labels(dp.Attributes()), dp.IntValue()
					require.GreaterOrEqual(t, value, int64(0), "%s of %v", name, id)
					if monotonic && id.cookie != 0 {
						require.GreaterOrEqual(t, value, h.sums[name], "%s of %v goes back", name, id)
						h.sums[name] = value
					}
					if _, limited := limits[name]; limited {
						h.peaks[name] = max(h.peaks[name], value)
					}
				}
			}
		}
	}
	for id, h := range c.all {
		if h.last == c.passes-1 && id.cookie != 0 {
			h.sums = nil // gone
		}
	}
	if live == nil {
		return
	}
	connections := int64(population.Connections(c.sockets))
	found := byID(metrics, live)
	for _, n := range live.Namespaces {
		s, ok := found[n]
		require.True(t, ok, "namespace %v is missing", n)
		for name, want := range map[string]int64{
			"tcpsummarytcpestablishedconn": 2 * connections,
			"tcpsummarytcprxqueue":         population.Unread * connections,
			"tcpactiveopens":               connections,
			"tcppassiveopens":              connections,
			"fdopensocket":                 int64(c.sockets),
		} {
			require.Equal(t, want, s["inspector_pod_"+name], "%s of %v", name, n)
		}
	}
}

// checkPeaks checks that the namespaces of a population never had more than there was.
func (c *checker) checkPeaks(t *testing.T, p *population.Population) {
	limits := c.limits()
	for _, n := range p.Namespaces {
		h := c.all[netnsID{n.Inode, n.Cookie}]
		if !assert.NotNil(t, h, "namespace %v was never met", n) {
			continue
		}
		for name, value := range h.peaks {
			assert.LessOrEqual(t, value, limits[name], "%s of %v", name, n)
		}
	}
}

func openFiles(t testing.TB) int {
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(files)
}

// kernelComplaints returns the lines of the kernel's log that tell of a fault; none if it may not be read.
func kernelComplaints(t testing.TB) []string {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL
	raw := make([]byte, 4<<20)
	n, err := unix.Klogctl(readAll, raw)
	if err != nil {
		t.Log("the kernel's log is not checked: ", err)
		return nil
	}
	fault := regexp.MustCompile(`WARNING|BUG|Oops|general protection|stall|lockup|blocked for more than|unregister_netdevice`)
	return slices.DeleteFunc(strings.Split(string(raw[:n]), "\n"), func(line string) bool { return !fault.MatchString(line) })
}

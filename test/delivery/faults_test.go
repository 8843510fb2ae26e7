// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/agenttest"
)

// proxy stands before a server and does it harm.
type proxy struct {
	*httptest.Server
	answer  atomic.Pointer[func(http.ResponseWriter, *http.Request)] // instead of the server's, if there is one
	forward http.Handler
	pushes  atomic.Int64 // that the server has got
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	target, err := url.Parse(to)
	require.NoError(t, err)
	p := &proxy{forward: httputil.NewSingleHostReverseProxy(target)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := p.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		p.forward.ServeHTTP(w, r)
		p.pushes.Add(1)
	}))
	t.Cleanup(p.Close)
	return p
}

// instead makes the proxy answer by itself from now on, or no longer.
func (p *proxy) instead(answer func(http.ResponseWriter, *http.Request)) {
	if answer == nil {
		p.answer.Store(nil)
		return
	}
	p.answer.Store(&answer)
}

// A Loki that has no time (503, 429) and one that does not answer in time are asked again; one that took events and died
// before it said so gets them twice, and shows them once.
func TestLokiFaults(t *testing.T) {
	t.Parallel()
	agenttest.RequireRoot(t)
	loki := agenttest.StartLoki(t)
	p := newProxy(t, loki.URL)
	d := newDatagrams(t)
	variables := environment("LOKI_URL="+p.URL, "NETEXPORTER_QUEUE="+t.TempDir())
	// The agent is to be impatient, so that the test is not slow.
	const impatient = bothRoutes + `
exporters:
  otlp_http/loki: {timeout: 2s, retry_on_failure: {initial_interval: 100ms, max_interval: 1s}}
  loki: {timeout: 2s, retry_on_failure: {initial_interval: 100ms, max_interval: 1s}}
`
	agent := startAgent(t, variables, d, lokiConfig, "loki", impatient)
	arrived := func() {
		t.Helper()
		for _, route := range []string{routeOTLP, routePush} {
			d.waitStored(t, agent, loki, route)
		}
	}
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout} {
		asked := make(chan struct{}, 1000)
		p.instead(func(w http.ResponseWriter, _ *http.Request) {
			asked <- struct{}{}
			w.WriteHeader(status)
		})
		d.make(t, 20, time.Millisecond)
		for range 4 {
			<-asked
		}
		p.instead(nil)
		arrived()
	}

	// Loki takes what is sent, and the answer does not come: the agent gives up waiting, and sends the same again.
	release := make(chan struct{})
	unblock := sync.OnceFunc(func() { close(release) })
	t.Cleanup(unblock)
	var taken atomic.Int64
	swallow := func(_ http.ResponseWriter, r *http.Request) {
		p.forward.ServeHTTP(httptest.NewRecorder(), r)
		taken.Add(1)
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	p.instead(swallow)
	d.make(t, 20, time.Millisecond)
	agenttest.Wait(t, "the same to be sent again", func() bool { return taken.Load() >= 4 })
	p.instead(nil)
	arrived()

	// The same, and the agent is killed while it waits.
	taken.Store(0)
	p.instead(swallow)
	d.make(t, 20, time.Millisecond)
	agenttest.Wait(t, "Loki to have taken what it does not acknowledge", func() bool { return taken.Load() >= 2 })
	d.kill(t, agent)
	p.instead(nil)
	agent = startAgent(t, variables, d, lokiConfig, "loki", impatient)
	arrived()
	assert.Zero(t, agent.Own(t, "otelcol_exporter_send_failed_log_records"))
}

// What Loki refuses for good is counted, does not hold up what follows, and the log says why.
func TestLokiRefuses(t *testing.T) {
	t.Parallel()
	agenttest.RequireRoot(t)
	loki := agenttest.StartLoki(t)
	p := newProxy(t, loki.URL)
	d := newDatagrams(t)
	agent := startAgent(t, environment("LOKI_URL="+p.URL, "NETEXPORTER_QUEUE="+t.TempDir()), d, lokiConfig, "loki", bothRoutes)
	p.instead(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "too old for us", http.StatusBadRequest) })
	d.make(t, 10, time.Millisecond)
	d.settle(t, agent)
	for _, route := range []string{routeOTLP, routePush} {
		agenttest.Wait(t, "the loss to be counted", func() bool {
			return agent.Own(t, "otelcol_exporter_send_failed_log_records", exporterIs(route)) >= 10
		})
	}
	assert.GreaterOrEqual(t, agent.Own(t, "otelcol_netexporter_loki_dropped", `reason="status_400"`), 10)
	assert.Contains(t, agent.Stderr.String(), "400 Bad Request: too old for us")
	agenttest.Wait(t, "nothing to wait", func() bool { return waiting(t, agent, routePush)+waiting(t, agent, routeOTLP) == 0 })
	p.instead(nil)
	next := firstPort + d.sent
	d.make(t, 1, 0)
	agenttest.Wait(t, "the next event to be in Loki", func() bool {
		return len(loki.Query(t, of(routePush)+fmt.Sprintf(` |= "dport=%d "`, next))) == 1
	})
}

// The queue is full, or the disk is: what was taken is delivered, and what was refused is counted.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	agenttest.RequireRoot(t)
	loki := agenttest.StartLoki(t)
	for name, tt := range map[string]struct {
		disk  string // size of the file system
		queue int    // bytes
		// The queue takes for sent what it cannot mark as being sent, for want of room (persistentQueue.getNextItem): on a full
		// disk, nearly all is delivered, and not always all.
		mayLose bool
	}{
		"queue": {disk: "64m", queue: 200_000},
		"disk":  {disk: "1m", queue: 1 << 28, mayLose: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+tt.disk))
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			p := newProxy(t, loki.URL)
			p.instead(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
			d := newDatagrams(t)
			agent := startAgent(
				t, environment("LOKI_URL="+p.URL, "NETEXPORTER_QUEUE="+dir), d, lokiConfig, "loki", fmt.Sprintf(
					"exporters: {otlp_http/loki: {retry_on_failure: {max_interval: 1s}, sending_queue: {queue_size: %d, batch: {min_size: 50000, max_size: 50000}}}}", tt.queue,
				),
			)
			refused := func() int {
				return agent.Own(t, "otelcol_exporter_enqueue_failed_log_records", exporterIs(routeOTLP))
			}
			agenttest.Wait(t, "the queue to be full", func() bool {
				d.make(t, 20, time.Millisecond)
				d.settle(t, agent)
				return refused() > 20
			})
			assert.GreaterOrEqual(t, agent.Own(t, "otelcol_netexporter_events_lost", `hop="pipeline"`), refused())
			t.Logf("%d events, %d refused", len(d.reported), refused())

			p.instead(nil)
			agenttest.Wait(t, "what was taken to be delivered", func() bool { return waiting(t, agent, routeOTLP) == 0 })
			// Room again: so all goes on.
			lost, before := refused(), len(d.reported)
			d.make(t, 20, time.Millisecond)
			d.settle(t, agent)
			last := d.reported[before:]
			require.NotEmpty(t, last)
			agenttest.Wait(t, "the last events", func() bool {
				return waiting(t, agent, routeOTLP) == 0 && slices.Contains(d.stored(t, loki, routeOTLP), last[len(last)-1])
			})
			ports := d.stored(t, loki, routeOTLP)
			assert.Equal(t, lost, refused(), "refused after there was room again")
			assert.Subset(t, ports, last, "events after there was room again")
			assert.IsIncreasing(t, ports, "each once, in order")

			// The marks of settle count as well.
			emitted := len(d.seen(strings.Split(agent.Stdout.String(), "\n")))
			delivered := len(d.all(t, loki, routeOTLP))
			t.Logf("%d events emitted, %d refused, %d in Loki", emitted, lost, delivered)
			if tt.mayLose {
				assert.LessOrEqual(t, delivered, emitted-lost)
				return
			}
			assert.Equal(t, emitted-lost, delivered, "what was not refused is delivered")
		})
	}
}

// Every metric that docs/delivery.md names is on the page of an agent that refuses, is refused, and waits.
func TestDocument(t *testing.T) {
	t.Parallel()
	agenttest.RequireRoot(t)
	document, err := os.ReadFile("../../docs/delivery.md")
	require.NoError(t, err)
	refuses := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(refuses.Close)
	d := newDatagrams(t)
	agent := startAgent(t, environment("LOKI_URL="+refuses.URL, "NETEXPORTER_QUEUE="+t.TempDir()), d, lokiConfig, "loki", bothRoutes+`
exporters: {otlp_http/loki: {sending_queue: {queue_size: 1, batch: {min_size: 1, max_size: 1}}}}
`)
	agenttest.Wait(t, "a refusal of each kind", func() bool {
		d.make(t, 5, time.Millisecond)
		return agent.Own(t, "otelcol_exporter_enqueue_failed_log_records", exporterIs(routeOTLP)) > 0 &&
			agent.Own(t, "otelcol_exporter_send_failed_log_records", exporterIs(routePush)) > 0
	})
	page, err := agenttest.Get(agent.Self)
	require.NoError(t, err)
	names := regexp.MustCompile(`\botelcol_\w+`).FindAllString(string(document), -1)
	require.Greater(t, len(names), 8)
	for _, name := range append(names, "otelcol_exporter_sent_log_records") {
		assert.Contains(t, page, "\n"+name+"{")
	}
}

// What the document says to configure is accepted, on top of what it belongs to.
func TestDocumentedConfigurations(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/delivery.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(document), -1)
	require.Len(t, blocks, 4)
	for i, block := range blocks {
		files := []string{agenttest.ShippedConfig, lokiConfig}
		switch {
		case strings.Contains(block[1], "otlp_grpc/gateway"):
			files = []string{agenttest.ShippedConfig, agentConfig}
		case strings.Contains(block[1], "receivers:"):
			files = []string{gatewayConfig}
		}
		args := []string{"validate"}
		for _, file := range append(files, agenttest.WriteFile(t, "documented.yaml", block[1])) {
			args = append(args, "--config", file)
		}
		p := agenttest.Run(t, environment("NETEXPORTER_QUEUE="+t.TempDir(), "LOKI_BASIC=x"), agenttest.Program(t, "netexporter"), args...)
		assert.Zero(t, p.ExitCode(t), "%d: %s", i, block[1])
	}
}

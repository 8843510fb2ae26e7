// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"

	"github.com/netexporter/netexporter/internal/agenttest"
)

const (
	gatewayConfig = "../../deploy/gateway/gateway.yaml"
	agentConfig   = "../../deploy/gateway/agent.yaml"
)

// startGateway runs a gateway that listens on address and sends to Loki.
func startGateway(t testing.TB, address, loki string) *collector {
	t.Helper()
	ports := agenttest.FreePorts(t, 2)
	c := &collector{self: "http://" + agenttest.Loopback(ports[0]) + "/metrics"}
	c.Process = agenttest.Run(
		t, environment("LOKI_URL="+loki, "NETEXPORTER_LISTEN="+address, "NETEXPORTER_HEALTH="+agenttest.Loopback(ports[1])),
		agenttest.Program(t, "netexporter"), "--config", gatewayConfig, "--config", fmt.Sprintf(
			`yaml:service: {telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: %d, without_type_suffix: true}}}}]}}}`, ports[0],
		),
	)
	agenttest.Wait(t, "the gateway to be ready", func() bool {
		if c.Ended() {
			t.Fatalf("the gateway has ended: %v", c.Cmd.ProcessState)
		}
		_, err := agenttest.Get("http://" + agenttest.Loopback(ports[1]))
		return err == nil
	})
	return c
}

// withHosts makes a command see a file for /etc/hosts, as if the DNS said so.
func withHosts(t *testing.T, hosts string, next func(*exec.Cmd)) func(*exec.Cmd) {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	require.NoError(t, err)
	return func(cmd *exec.Cmd) {
		next(cmd)
		cmd.Args = append([]string{"unshare", "--mount", "--propagation=slave", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = unshare
	}
}

// One of two gateways is killed under load. Loki has each event once: what the gateway had not delivered is still the agent's.
func TestGatewayDies(t *testing.T) {
	agenttest.RequireRoot(t)
	loki := startLoki(t)
	// Loki takes its time, so that the gateways have something under way.
	slow := newProxy(t, loki.url())
	slow.instead(func(w http.ResponseWriter, r *http.Request) {
		slow.forward.ServeHTTP(w, r)
		select {
		case <-r.Context().Done():
		case <-time.After(300 * time.Millisecond):
		}
	})
	port := agenttest.FreePorts(t, 1)[0]
	addresses := []string{"127.0.0.2", "127.0.0.3"}
	var gateways []*collector
	for _, address := range addresses {
		gateways = append(gateways, startGateway(t, fmt.Sprint(address, ":", port), slow.URL))
	}
	hosts := agenttest.WriteFile(t, "hosts", "127.0.0.1 localhost\n127.0.0.2 gateways.test\n127.0.0.3 gateways.test\n")
	variables := withHosts(t, hosts, environment(
		fmt.Sprint("NETEXPORTER_GATEWAY=gateways.test:", port), "NETEXPORTER_GATEWAY_INSECURE=true", "NETEXPORTER_QUEUE="+t.TempDir(),
	))
	d := newDatagrams(t)
	// Small batches, so that there are many.
	agent := startAgent(t, variables, d, agentConfig, "gateway",
		"exporters: {otlp_grpc/gateway: {sending_queue: {batch: {flush_timeout: 100ms, min_size: 20000, max_size: 20000}}}}")

	received := func(g *collector) int {
		return g.own(t, "otelcol_receiver_accepted_log_records", `receiver="otlp"`)
	}
	agenttest.Wait(t, "both gateways to have had something", func() bool {
		d.make(t, 10, 5*time.Millisecond)
		return received(gateways[0]) > 0 && received(gateways[1]) > 0
	})
	d.make(t, 200, 2*time.Millisecond)
	require.Positive(t, agent.waiting(t, "otlp_grpc/gateway"), "events wait for the gateways")
	agenttest.Wait(t, "the gateway to be at work", func() bool {
		d.make(t, 1, 0)
		return gateways[0].own(t, "otelcol_exporter_in_flight_requests") > 0
	})
	gateways[0].kill(t)
	had := received(gateways[1])
	slow.instead(nil)
	d.make(t, 200, 2*time.Millisecond)

	agent.settle(t, d)
	d.waitStored(t, loki, routeOTLP)
	assert.Greater(t, received(gateways[1]), had, "the other gateway went on")
	assert.Zero(t, agent.own(t, "otelcol_exporter_send_failed_log_records"))
	assert.Zero(t, agent.own(t, "otelcol_exporter_enqueue_failed_log_records"))
	t.Logf("%d events, %d in Loki", d.sent, len(d.stored(loki, routeOTLP)))
}

// BenchmarkGateway measures what a gateway costs an event, with a back end that costs nothing: batches of 512, as an
// agent sends them in a storm, from eight agents at once.
func BenchmarkGateway(b *testing.B) {
	const batch, agents = 512, 8
	var out atomic.Int64
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		out.Add(n)
		w.WriteHeader(http.StatusOK)
	}))
	b.Cleanup(sink.Close)
	address := agenttest.Loopback(agenttest.FreePorts(b, 1)[0])
	gateway := startGateway(b, address, sink.URL)

	request := plogotlp.NewExportRequestFromLogs(losses(batch))
	marshaled, err := request.MarshalProto()
	require.NoError(b, err)
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	require.NoError(b, err)
	b.Cleanup(func() { _ = connection.Close() })
	client := plogotlp.NewGRPCClient(connection)

	before := cpuTime(b, gateway)
	b.ResetTimer()
	var group sync.WaitGroup
	var next atomic.Int64
	for range agents {
		group.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, err := client.Export(b.Context(), request); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	events := float64(b.N * batch)
	b.ReportMetric(events/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric((cpuTime(b, gateway)-before).Seconds()*1e6/events, "cpu-µs/event")
	b.ReportMetric(float64(len(marshaled))/batch, "B/event")
	b.ReportMetric(float64(out.Load())/events, "sent-B/event")
}

// losses makes records of lost packets, as the agent does: a stack of some length, and who it was.
func losses(count int) plog.Logs {
	const stack = "sk_skb_reason_drop+0x90 __udp4_lib_rcv+0x4BC ip_protocol_deliver_rcu+0xB3 ip_local_deliver_finish+0x81 " +
		"__netif_receive_skb_one_core+0x91 process_backlog+0x87 __napi_poll+0x33 net_rx_action+0x2F1 handle_softirqs+0xD6 " +
		"do_softirq+0x43 __local_bh_enable_ip+0x68 __dev_queue_xmit+0x2A6 ip_finish_output2+0x1FF ip_send_skb+0x8B udp_send_skb+0x181"
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	for key, value := range map[string]string{
		"host.name": "worker-1", "k8s.node.name": "worker-1", "k8s.namespace.name": "shop", "k8s.pod.name": "cart-5775dfdc77-fj767",
		"k8s.pod.uid": "0b1d8e2a-6c33-4c1b-9a52-1f5f0c0a7b11", "namespace": "shop", "pod": "cart-5775dfdc77-fj767", "node": "worker-1",
		"netns": "ns4026532345", "container.id": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	} {
		rl.Resource().Attributes().PutStr(key, value)
	}
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for i := range count {
		rec := records.AppendEmpty()
		now := pcommon.NewTimestampFromTime(time.Now())
		rec.SetTimestamp(now)
		rec.SetObservedTimestamp(now)
		rec.SetSeverityNumber(plog.SeverityNumberInfo)
		rec.SetSeverityText("INFO")
		rec.SetEventName("PACKETLOSS")
		source, destination := fmt.Sprintf("10.1.%d.%d", i%7, i%251), "10.1.17.188"
		rec.Body().SetStr(fmt.Sprintf("type=PACKETLOSS pod=cart-5775dfdc77-fj767 namespace=shop protocol=UDP saddr=%s sport=%d daddr=%s dport=53 "+
			"reason=NO_SOCKET location=__udp4_lib_rcv+0x4BC  stacktrace:%s", source, 30000+i, destination, stack))
		for key, value := range map[string]string{
			"event.name": "PACKETLOSS", "event.reason": "NO_SOCKET", "event.location": "__udp4_lib_rcv+0x4BC", "event.stacktrace": stack,
			"network.transport": "udp", "source.address": source, "destination.address": destination,
		} {
			rec.Attributes().PutStr(key, value)
		}
		rec.Attributes().PutInt("source.port", int64(30000+i))
		rec.Attributes().PutInt("destination.port", 53)
	}
	return ld
}

// cpuTime is the CPU time of a process so far, what the kernel did for it included.
func cpuTime(t testing.TB, c *collector) time.Duration {
	t.Helper()
	const sched = 2 // CPUCLOCK_SCHED of include/linux/posix-timers_types.h, as clock_getcpuclockid(3) makes it
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(^int32(c.Cmd.Process.Pid)<<3|sched, &ts))
	return time.Duration(ts.Nano())
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package delivery

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// The benchmarks measure what docs/scaling.md reasons from.

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

	before := gateway.CPUTime(b)
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
	b.ReportMetric((gateway.CPUTime(b)-before).Seconds()*1e6/events, "cpu-µs/event")
	b.ReportMetric(float64(len(marshaled))/batch, "B/event")
	b.ReportMetric(float64(out.Load())/events, "sent-B/event")
}

// BenchmarkLoki measures what a Loki costs an event, in CPU time and on disk: batches of 512, of one node after the other.
func BenchmarkLoki(b *testing.B) {
	const batch, nodes = 512, 100
	// It refuses more than 4 MiB a second by default, and 3 MiB of a stream.
	loki := agenttest.StartLoki(b, "-distributor.ingestion-rate-limit-mb=1000", "-distributor.ingestion-burst-size-mb=1000",
		"-ingester.per-stream-rate-limit=1GB", "-ingester.per-stream-rate-limit-burst=1GB")
	before := loki.CPUTime(b)
	b.ResetTimer()
	for i := range b.N {
		ld := losses(batch)
		ld.ResourceLogs().At(0).Resource().Attributes().PutStr("node", fmt.Sprint("worker-", i%nodes))
		body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		require.NoError(b, err)
		post(b, loki.URL+"/otlp/v1/logs", body)
	}
	b.StopTimer()
	events := float64(b.N * batch)
	b.ReportMetric((loki.CPUTime(b)-before).Seconds()*1e6/events, "cpu-µs/event")
	b.ReportMetric(float64(loki.Memory(b))/(1<<20), "MiB")
	post(b, loki.URL+"/flush", nil)
	agenttest.Wait(b, "all to be on disk", func() bool {
		text, err := agenttest.Get(loki.URL + "/metrics")
		return err == nil && strings.Contains(text, "\nloki_ingester_memory_chunks 0\n")
	})
	b.ReportMetric(float64(size(b, loki.Storage))/events, "stored-B/event")
}

// post sends a request, which must succeed.
func post(b *testing.B, url string, body []byte) {
	b.Helper()
	resp, err := http.Post(url, "application/x-protobuf", bytes.NewReader(body))
	require.NoError(b, err)
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	require.Less(b, resp.StatusCode, http.StatusBadRequest, "%s", answer)
}

// size is how much the files below a directory have.
func size(b *testing.B, dir string) (sum int64) {
	b.Helper()
	require.NoError(b, filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		sum += info.Size()
		return err
	}))
	return sum
}

// BenchmarkPrometheus measures what a Prometheus costs a series and a sample: the page of one agent, as that of 100 nodes with 20
// namespaces each, scraped b.N times.
func BenchmarkPrometheus(b *testing.B) {
	const nodes, namespaces = 100, 20
	agenttest.RequireRoot(b)
	for range namespaces / 2 {
		nettest.New(b)
	}
	agent := agenttest.Start(b)
	targets := make([]string, 0, nodes)
	for i := range nodes {
		targets = append(targets, fmt.Sprintf("{targets: [%q], labels: {instance: worker-%d}}", strings.TrimSuffix(strings.TrimPrefix(agent.Metrics, "http://"), "/metrics"), i))
	}
	server := agenttest.StartPrometheus(b, fmt.Sprintf("global: {scrape_interval: 15s}\nscrape_configs:\n  - job_name: netexporter\n    honor_labels: true\n    static_configs: [%s]\n", strings.Join(targets, ", ")))
	value := func(expr string) float64 {
		if series := server.Query(b, expr); len(series) > 0 {
			return series[0].Value()
		}
		return 0
	}
	// Its own metrics are on its own page, and not among those that it scrapes.
	own := func(name string) (v float64) {
		text, err := agenttest.Get(server.URL + "/metrics")
		require.NoError(b, err)
		for line := range strings.Lines(text) {
			if rest, found := strings.CutPrefix(line, name+" "); found {
				_, err = fmt.Sscan(rest, &v)
				require.NoError(b, err)
			}
		}
		return v
	}
	rounds := func() float64 { return value("min(count_over_time(up[1h]))") }
	agenttest.Wait(b, "a first scrape of all", func() bool { return value("count(up == 1)") == nodes })
	cpu, samples, begin := server.CPUTime(b), own(`prometheus_tsdb_head_samples_appended_total{type="float"}`)+own("prometheus_tsdb_head_samples_appended_total"), rounds()
	b.ResetTimer()
	agenttest.Wait(b, "more scrapes", func() bool { return rounds() >= begin+float64(b.N) })
	b.StopTimer()
	series := own("prometheus_tsdb_head_series")
	samples = own(`prometheus_tsdb_head_samples_appended_total{type="float"}`) + own("prometheus_tsdb_head_samples_appended_total") - samples
	b.ReportMetric(series, "series")
	b.ReportMetric(float64(server.Memory(b))/series, "B/series")
	b.ReportMetric((server.CPUTime(b)-cpu).Seconds()*1e6/samples, "cpu-µs/sample")
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

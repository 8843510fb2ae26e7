// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/plogtest"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probes"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fixedHost is a host with a host namespace, a pod, a container, a named namespace and one of which
// nothing is known.
type fixedHost struct{ counters int }

const (
	containerID = "3f2a8f7d0c3b4ab0b8f6b0f2a0f1e2d3c4b5a6978899aabbccddeeff00112233"
	podUID      = "8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a7b3c"
)

func (h fixedHost) Rows(rows []netns.Row) ([]netns.Row, error) {
	for i := range uint32(4) {
		row := netns.Row{ID: netns.ID{Cookie: uint64(i + 1), Inode: 4026531840 + i}}
		for j := range h.counters {
			row.Values = append(row.Values, uint64(1000*i)+uint64(j))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (h fixedHost) Serves() []bool {
	serves := make([]bool, h.counters)
	for i := range serves {
		serves[i] = i != 1 // one that this kernel does not have
	}
	return serves
}

func (fixedHost) Tasks([]netns.Task) ([]netns.Task, error) {
	return []netns.Task{
		{NetNS: netns.ID{Cookie: 2, Inode: 4026531841}, TGID: 101},
		{NetNS: netns.ID{Cookie: 3, Inode: 4026531842}, TGID: 102},
	}, nil
}
func (fixedHost) Host() (netns.ID, error) { return netns.ID{Cookie: 1, Inode: 4026531840}, nil }
func (fixedHost) Hooks() []kernel.Hook    { return nil }
func (fixedHost) Close() error            { return nil }

// fixedNames are the names of a kernel that does not change.
type fixedNames struct{}

func (fixedNames) Names(enum string, _ ...string) map[uint32]string {
	return map[string]map[uint32]string{
		"skb_drop_reason": {2: "NOT_SPECIFIED", 3: "NO_SOCKET"},
		"sk_rst_reason":   {0: "NOT_SPECIFIED", 1: "NO_SOCKET"},
	}[enum]
}

func (fixedNames) Value(string) (uint64, bool) { return 0, false }

func (fixedNames) Spans([]string) []kernel.Span { return nil }

func (fixedNames) Append(dst []byte, addr uint64) []byte {
	if addr == 1 {
		return append(dst, "__udp4_lib_rcv+0x4BC"...)
	}
	return append(dst, "ip_protocol_deliver_rcu+0xB3"...)
}

// newFixed returns what an agent has while it runs, on the fixed host.
func newFixed(t *testing.T) *running {
	root := t.TempDir()
	for path, content := range map[string]string{
		"etc/hostname":    "worker-1\n",
		"proc/101/cgroup": "0::/kubepods/pod" + podUID + "/" + containerID + "\n",
		"proc/102/cgroup": "0::/docker/" + containerID + "\n",
	} {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	cfg := createDefaultConfig().(*Config)
	cfg.RootPath = root
	r := &running{kernelSide: &kernelSide{names: probe.NewNames(fixedNames{}, fixedNames{}, probes.All())}}
	var counters []netns.Counter
	for _, d := range probes.All() {
		for _, c := range d.Counters {
			r.counters = append(r.counters, c)
			counters = append(counters, c.Counter)
		}
	}
	host := fixedHost{len(r.counters)}
	r.source, r.serves = host, host.Serves()
	r.inventory = netns.NewInventory(host, root, counters)
	var err error
	r.resources, err = newResources(cfg)
	require.NoError(t, err)
	set := receivertest.NewNopSettings(metadata.Type)
	r.sinceBoot = metadata.NewMetricsBuilder(metadata.NewDefaultMetricsBuilderConfig(), set)
	r.series = newSeriesWriter(r.sinceBoot, r.counters)
	r.sinceStart = probe.NewMetricsBuilder(metadata.NewDefaultMetricsBuilderConfig(), set, 1, true)
	r.rows, err = r.inventory.Pass(nil)
	require.NoError(t, err)
	return r
}

func TestGoldenMetrics(t *testing.T) {
	r := newFixed(t)
	metrics, series := r.record(r.rows, nil, nil, 1)
	assert.Equal(t, metrics.DataPointCount(), series)
	compareMetrics(t, filepath.Join("testdata", "metrics.yaml"), metrics)
}

func compareMetrics(t *testing.T, file string, got pmetric.Metrics) {
	if *update {
		require.NoError(t, golden.WriteMetricsToFile(file, got))
	}
	want, err := golden.ReadMetrics(file)
	require.NoError(t, err)
	require.NoError(t, pmetrictest.CompareMetrics(want, got, pmetrictest.IgnoreTimestamp(), pmetrictest.IgnoreStartTimestamp(),
		pmetrictest.IgnoreResourceMetricsOrder(), pmetrictest.IgnoreMetricsOrder(), pmetrictest.IgnoreMetricDataPointsOrder()))
}

// record returns the bytes of a record.
func record[T any](v T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&v)), int(unsafe.Sizeof(v)))
}

// header is that of an event in the i-th namespace of the fixed host.
func header(i uint32, family, proto, state uint8, ktime uint64) (h bpf.EventHdr) {
	h.KtimeNs = ktime
	if i > 0 {
		h.Netns.Cookie, h.Netns.Inode = uint64(i), 4026531840+i-1
	}
	h.Flow.Family, h.Flow.Proto, h.Flow.State = family, proto, state
	h.Flow.Sport, h.Flow.Dport = 43018, 443
	binary.BigEndian.PutUint32(h.Flow.Saddr[:], 0x0a000001)
	binary.BigEndian.PutUint32(h.Flow.Daddr[:], 0x0a000002)
	if family == 6 {
		h.Flow.Saddr, h.Flow.Daddr = [16]byte{0xfd, 15: 1}, [16]byte{0xfd, 15: 2}
	}
	return h
}

func TestGoldenLogs(t *testing.T) {
	r := newFixed(t)
	sink := &consumertest.LogsSink{}
	cfg := createDefaultConfig().(*Config)
	agent := newAgent(receivertest.NewNopSettings(metadata.Type), cfg, func() {})
	require.NoError(t, agent.sendEventsTo(agent.set, sink))
	s := agent.events
	s.cgroups = netns.NewCgroups(t.TempDir())
	s.inventory, s.names, s.resources = r.inventory, r.names, r.resources

	send := func(d probe.Definition, raws ...[]byte) {
		events := make([]probe.Event, len(raws))
		for i, raw := range raws {
			require.NoError(t, d.Decode(raw, &events[i]))
		}
		require.NoError(t, s.consume(&d, events))
	}
	const tcp, udp = 6, 17
	loss := bpf.PacketlossEvent{Hdr: header(2, 4, udp, 0, 1), Location: 1, Reason: 3, Frames: 2}
	loss.Stack[0], loss.Stack[1] = 1, 2
	loss6 := loss
	loss6.Hdr, loss6.Reason = header(1, 6, udp, 0, 2), 77
	loss6.Hdr.Suppressed = 4711
	notIP := loss
	notIP.Hdr, notIP.Frames = header(0, 0, 0, 0, 3), 0
	send(probes.PacketLoss(), record(loss), record(loss6), record(notIP))

	var resets [][]byte
	for i := range uint32(6) {
		for _, family := range []uint8{4, 6} {
			// Backwards in time and across namespaces: they must leave in order.
			h := header(1+i%4, family, tcp, uint8(i), 100-uint64(i))
			resets = append(resets, record(bpf.TcpresetEvent{Hdr: h, Type: i + 1, Reason: i % 2}))
		}
	}
	send(probes.TCPReset(), resets...)
	late := bpf.TcptwrcvEvent{Hdr: header(1, 4, tcp, 6, 1)}
	late6 := bpf.TcptwrcvEvent{Hdr: header(2, 6, tcp, 6, 2)}
	late.Hdr.Flow.TcpFlags, late6.Hdr.Flow.TcpFlags = 0x11, 0x02
	send(probes.TCPTwRcv(), record(late), record(late6))

	node := header(0, 0, 0, 0, 4)
	node.Cpu = 3
	softirq := bpf.NetSoftirqEvent{Hdr: node, Type: 1, Vector: 1}
	softirq.Latency = bpf.Latency{Ns: 12_345_678, Pid: 4711, Comm: [16]int8{'n', 'g', 'i', 'n', 'x'}}
	softirq2 := softirq
	softirq2.Type, softirq2.Vector, softirq2.Hdr.Suppressed = 2, 0, 5
	send(probes.NetSoftirq(), record(softirq), record(softirq2))

	latency := bpf.SocketlatencyLatency{Ns: 152_000_000, Pid: 4711, Comm: softirq.Latency.Comm}
	read := bpf.SocketlatencyEvent{Hdr: header(1, 4, tcp, 1, 5), Latency: latency}
	write := bpf.SocketlatencyEvent{Hdr: header(2, 6, tcp, 1, 6), Type: 1, Latency: bpf.SocketlatencyLatency{Ns: 200_000_001}}
	send(probes.SocketLatency(), record(read), record(write))
	rx := bpf.KernellatencyEvent{Hdr: header(1, 6, tcp, 0, 7), Latency: bpf.KernellatencyLatency(latency), Section: 1, Frames: 1}
	tx := bpf.KernellatencyEvent{Hdr: header(2, 4, tcp, 0, 8), Latency: bpf.KernellatencyLatency(latency), Type: 1}
	send(probes.KernelLatency(), record(rx), record(tx))
	qdisc := bpf.NetiftxlatEvent{Hdr: header(1, 4, udp, 0, 9), Latency: bpf.NetiftxlatLatency(latency)}
	xmit := bpf.NetiftxlatEvent{Hdr: header(2, 6, tcp, 0, 10), Latency: bpf.NetiftxlatLatency(latency), Type: 1}
	send(probes.NetIfTxLat(), record(qdisc), record(xmit))

	file := filepath.Join("testdata", "logs.yaml")
	got := sink.AllLogs()[0]
	for _, logs := range sink.AllLogs()[1:] {
		logs.ResourceLogs().MoveAndAppendTo(got.ResourceLogs())
	}
	for _, rl := range got.ResourceLogs().All() {
		var last uint64
		for _, rec := range rl.ScopeLogs().At(0).LogRecords().All() {
			require.LessOrEqual(t, last, uint64(rec.Timestamp()), "records out of order")
			last = uint64(rec.Timestamp())
			require.True(t, strings.HasPrefix(rec.Body().Str(), "type="+rec.EventName()))
			// They depend on the clock.
			rec.SetTimestamp(0)
			rec.SetObservedTimestamp(0)
		}
	}
	if *update {
		require.NoError(t, golden.WriteLogsToFile(file, got))
	}
	want, err := golden.ReadLogs(file)
	require.NoError(t, err)
	require.NoError(t, plogtest.CompareLogs(want, got, plogtest.IgnoreResourceLogsOrder()))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/plogtest"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadatatest"
)

var update = flag.Bool("update", false, "write the golden files anew")

const containerID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// onePod knows one pod.
type onePod struct {
	uid, containerID string
	addr             netip.Addr
	pod              *pod
}

func (o onePod) lookup(uid, containerID string) (*pod, string) {
	if uid == o.uid || containerID == o.containerID {
		return o.pod, sourceAPI
	}
	return nil, sourceNone
}

func (o onePod) at(addr netip.Addr, _ time.Time) *pod {
	if addr == o.addr {
		return o.pod
	}
	return nil
}

// noPods knows none.
type noPods struct{}

func (noPods) lookup(string, string) (*pod, string) { return nil, sourceNone }
func (noPods) at(netip.Addr, time.Time) *pod        { return nil }

// testPod returns a pod of an operator, in IPv4 and IPv6.
func testPod(t testing.TB, labels ...string) *pod {
	t.Helper()
	return newPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "elastic-operator-0", Namespace: "elastic-system", UID: "8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a7b3c",
			Labels: map[string]string{"app": "operator", "app.kubernetes.io/name": "elastic"},
		},
		Spec:   corev1.PodSpec{NodeName: "kube-worker-1"},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.1.0.5"}, {IP: "fd00::5"}}},
	}, labels)
}

// started returns a labeller with the node name worker-1.
func started(t testing.TB, pods resolver, cfg Config) *labeller {
	t.Helper()
	l, err := newLabeller(componenttest.NewNopTelemetrySettings(), &cfg, pods)
	require.NoError(t, err)
	l.node = "worker-1"
	return l
}

func TestLabel(t *testing.T) {
	pods := onePod{uid: "243fd2b0", containerID: containerID, pod: testPod(t)}
	for _, tt := range []struct {
		name     string
		pods     resolver
		ours     bool
		resource map[string]any
		want     map[string]any // added, nil for a resource that passes untouched
	}{
		{
			"host", pods, true,
			map[string]any{
				"network.netns.inode": 4026531840, "network.netns.host": true, "network.netns.name": "host",
			},
			map[string]any{"namespace": "hostNetwork", "pod": "hostNetwork", "netns": "ns0", "node": "worker-1"},
		},
		{
			"pod in the network of the host", pods, true,
			map[string]any{
				"network.netns.inode": 4026531840, "network.netns.host": true, "network.netns.name": "host",
				"container.id": containerID, "k8s.pod.uid": "243fd2b0",
			},
			map[string]any{
				"namespace": "elastic-system", "pod": "elastic-operator-0", "netns": "ns0", "node": "worker-1",
				"k8s.namespace.name": "elastic-system", "k8s.pod.name": "elastic-operator-0", "k8s.node.name": "kube-worker-1",
				"k8s.pod.uid": "8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a7b3c",
			},
		},
		{
			"container in the network of the host",
			noPods{},
			true,
			map[string]any{"network.netns.inode": 4026531840, "network.netns.host": true, "container.id": containerID},
			map[string]any{"namespace": "container", "pod": "0123456789ab", "netns": "ns0", "node": "worker-1"},
		},
		{
			"unknown pod in the network of the host",
			noPods{},
			true,
			map[string]any{"network.netns.inode": 4026531840, "network.netns.host": true, "k8s.pod.uid": "243fd2b0"},
			map[string]any{"namespace": "hostNetwork", "pod": "hostNetwork", "netns": "ns0", "node": "worker-1"},
		},
		{
			"pod by UID", pods, true,
			map[string]any{"network.netns.inode": 1, "k8s.pod.uid": "243fd2b0", "container.id": "f00"},
			map[string]any{
				"namespace": "elastic-system", "pod": "elastic-operator-0", "netns": "ns1", "node": "worker-1",
				"k8s.namespace.name": "elastic-system", "k8s.pod.name": "elastic-operator-0", "k8s.node.name": "kube-worker-1",
				"k8s.pod.uid": "8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a7b3c",
			},
		},
		{
			"pod by container", pods, true,
			map[string]any{"network.netns.inode": 1, "container.id": containerID},
			map[string]any{
				"namespace": "elastic-system", "pod": "elastic-operator-0", "netns": "ns1", "node": "worker-1",
				"k8s.namespace.name": "elastic-system", "k8s.pod.name": "elastic-operator-0", "k8s.node.name": "kube-worker-1",
				"k8s.pod.uid": "8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a7b3c",
			},
		},
		{
			"container of an unknown pod",
			noPods{},
			true,
			map[string]any{"network.netns.inode": 1, "k8s.pod.uid": "243fd2b0", "container.id": containerID, "network.netns.name": "cni-1"},
			map[string]any{"namespace": "container", "pod": "0123456789ab", "netns": "ns1", "node": "worker-1"},
		},
		{
			"named", pods, true,
			map[string]any{"network.netns.inode": 4026532346, "network.netns.name": "blue"},
			map[string]any{"namespace": "netns", "pod": "blue", "netns": "ns4026532346", "node": "worker-1"},
		},
		{
			"folded", pods, true,
			map[string]any{"network.netns.folded": 17},
			map[string]any{"namespace": "other", "pod": "other", "netns": "", "node": "worker-1"},
		},
		{
			"nothing known",
			noPods{},
			true,
			map[string]any{"network.netns.inode": 4026532347, "network.netns.host": false},
			map[string]any{"namespace": "", "pod": "", "netns": "ns4026532347", "node": "worker-1"},
		},
		{
			"unknown pod without a container",
			noPods{},
			true,
			map[string]any{"network.netns.inode": 1, "k8s.pod.uid": "243fd2b0"},
			map[string]any{"namespace": "", "pod": "", "netns": "ns1", "node": "worker-1"},
		},
		{
			"labels of before are replaced",
			noPods{},
			true,
			map[string]any{"network.netns.inode": 1, "pod": "old", "namespace": "old", "netns": "old", "node": "old"},
			map[string]any{"namespace": "", "pod": "", "netns": "ns1", "node": "worker-1"},
		},
		{"node", noPods{}, true, map[string]any{"host.name": "worker-1"}, map[string]any{"node": "worker-1"}},
		{
			"namespace from another agent's pipeline",
			noPods{},
			false,
			map[string]any{"network.netns.inode": 1},
			map[string]any{"namespace": "", "pod": "", "netns": "ns1", "node": "worker-1"},
		},
		{"foreign", pods, false, map[string]any{"host.name": "other", "container.id": containerID, "k8s.pod.uid": "243fd2b0"}, nil},
		{"empty", noPods{}, false, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, want := pcommon.NewMap(), pcommon.NewMap()
			require.NoError(t, got.FromRaw(tt.resource))
			require.NoError(t, want.FromRaw(tt.resource))
			for key, value := range tt.want {
				require.NoError(t, want.PutEmpty(key).FromRaw(value))
			}

			labelled := started(t, tt.pods, Config{}).label(got, tt.ours, false, newTally())

			assert.Equal(t, tt.want != nil, labelled)
			assert.Equal(t, want.AsRaw(), got.AsRaw())
		})
	}
}

// What is known of the addresses and labels of a pod goes with metrics only if it was asked for, with events always.
func TestVerbose(t *testing.T) {
	more := map[string]any{
		"k8s.pod.ip": "10.1.0.5", "k8s.pod.ips": []any{"10.1.0.5", "fd00::5"}, "k8s.pod.label.app": "operator",
	}
	for _, tt := range []struct {
		name    string
		verbose bool
	}{{"plain", false}, {"verbose", true}} {
		t.Run(tt.name, func(t *testing.T) {
			l := started(t, onePod{uid: "243fd2b0", pod: testPod(t, "app")}, Config{Verbose: tt.verbose})
			md := pmetric.NewMetrics()
			res := md.ResourceMetrics().AppendEmpty().Resource().Attributes()
			require.NoError(t, res.FromRaw(map[string]any{"network.netns.inode": 1, "k8s.pod.uid": "243fd2b0"}))
			_, err := l.processMetrics(t.Context(), md)
			require.NoError(t, err)
			for key, want := range more {
				got, there := res.Get(key)
				if assert.Equal(t, tt.verbose, there, key) && there {
					assert.Equal(t, want, got.AsRaw(), key)
				}
			}
			_, there := res.Get("k8s.pod.label.app.kubernetes.io/name")
			assert.False(t, there, "a label that was not asked for")

			ld := plog.NewLogs()
			res = ld.ResourceLogs().AppendEmpty().Resource().Attributes()
			require.NoError(t, res.FromRaw(map[string]any{"network.netns.inode": 1, "k8s.pod.uid": "243fd2b0"}))
			_, err = l.processLogs(t.Context(), ld)
			require.NoError(t, err)
			for key, want := range more {
				if got, there := res.Get(key); assert.True(t, there, key) {
					assert.Equal(t, want, got.AsRaw(), key)
				}
			}
		})
	}
}

func TestEventOfPod(t *testing.T) {
	ld, err := golden.ReadLogs(filepath.Join("testdata", "golden", "logs_input.yaml"))
	require.NoError(t, err)
	p := testPod(t)
	p.name, p.namespace = "storage-monitor-5775dfdc77-fj767", "kube-system"
	pods := onePod{containerID: containerID, addr: netip.MustParseAddr("10.1.0.2"), pod: p}
	ld, err = started(t, pods, Config{}).processLogs(t.Context(), ld)
	require.NoError(t, err)
	event := ld.ResourceLogs().At(1).ScopeLogs().At(0).LogRecords().At(0)
	assert.Equal(t,
		"type=TCPRESET_NOSOCK pod=storage-monitor-5775dfdc77-fj767 namespace=kube-system protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488",
		event.Body().Str())
	for key, want := range map[string]string{
		"destination.k8s.pod.name": "storage-monitor-5775dfdc77-fj767", "destination.k8s.namespace.name": "kube-system",
		"source.k8s.pod.name": "", "source.k8s.namespace.name": "",
	} {
		assert.Equal(t, want, text(event.Attributes(), key), key)
	}
}

// The state of a namespace is labelled as its events are, and stays without a line.
func TestEntityOfPod(t *testing.T) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	require.NoError(t, rl.Resource().Attributes().FromRaw(map[string]any{"network.netns.inode": 1, "k8s.pod.uid": "243fd2b0"}))
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(receiverScope)
	state := sl.LogRecords().AppendEmpty()
	state.SetEventName("entity.state")
	state.Attributes().PutStr("entity.type", "network.namespace")
	_, err := started(t, onePod{uid: "243fd2b0", pod: testPod(t)}, Config{}).processLogs(t.Context(), ld)
	require.NoError(t, err)
	res := rl.Resource().Attributes()
	assert.Equal(t, "elastic-operator-0", text(res, labelPod))
	assert.Equal(t, "10.1.0.5", text(res, "k8s.pod.ip"))
	assert.Empty(t, state.Body().AsString())
	assert.Equal(t, 1, state.Attributes().Len())
}

func TestGoldenMetrics(t *testing.T) {
	input, err := golden.ReadMetrics(filepath.Join("testdata", "golden", "metrics_input.yaml"))
	require.NoError(t, err)
	sink := new(consumertest.MetricsSink)
	p, err := NewFactory().CreateMetrics(t.Context(), processortest.NewNopSettings(metadata.Type), config(Config{RootPath: testRoot(t)}), sink)
	require.NoError(t, err)
	require.True(t, p.Capabilities().MutatesData)
	require.NoError(t, p.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, p.ConsumeMetrics(t.Context(), input))
	require.NoError(t, p.Shutdown(t.Context()))
	require.Len(t, sink.AllMetrics(), 1)

	path := filepath.Join("testdata", "golden", "metrics_expected.yaml")
	if *update {
		require.NoError(t, golden.WriteMetricsToFile(path, sink.AllMetrics()[0], golden.SkipMetricTimestampNormalization()))
	}
	want, err := golden.ReadMetrics(path)
	require.NoError(t, err)
	require.NoError(t, pmetrictest.CompareMetrics(want, sink.AllMetrics()[0], pmetrictest.IgnoreResourceMetricsOrder()))
}

func TestGoldenLogs(t *testing.T) {
	input, err := golden.ReadLogs(filepath.Join("testdata", "golden", "logs_input.yaml"))
	require.NoError(t, err)
	sink := new(consumertest.LogsSink)
	p, err := NewFactory().CreateLogs(t.Context(), processortest.NewNopSettings(metadata.Type), config(Config{RootPath: testRoot(t)}), sink)
	require.NoError(t, err)
	require.True(t, p.Capabilities().MutatesData)
	require.NoError(t, p.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, p.ConsumeLogs(t.Context(), input))
	require.NoError(t, p.Shutdown(t.Context()))
	require.Len(t, sink.AllLogs(), 1)

	path := filepath.Join("testdata", "golden", "logs_expected.yaml")
	if *update {
		require.NoError(t, golden.WriteLogsToFile(path, sink.AllLogs()[0]))
	}
	want, err := golden.ReadLogs(path)
	require.NoError(t, err)
	require.NoError(t, plogtest.CompareLogs(want, sink.AllLogs()[0]))
}

// config returns c with the rest as by default, and no API server.
func config(c Config) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.AuthType, cfg.Node, cfg.RootPath = authNone, c.Node, c.RootPath
	return cfg
}

// testRoot returns the root file system of the host worker-1.
func testRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("testdata", "root"))
	require.NoError(t, err)
	return root
}

func TestTelemetry(t *testing.T) {
	tel := componenttest.NewTelemetry()
	defer func() { require.NoError(t, tel.Shutdown(t.Context())) }()
	p, err := NewFactory().CreateMetrics(t.Context(), metadatatest.NewSettings(tel), config(Config{Node: "worker-1"}), consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context(), componenttest.NewNopHost()))
	for range 2 {
		input, err := golden.ReadMetrics(filepath.Join("testdata", "golden", "metrics_input.yaml"))
		require.NoError(t, err)
		require.NoError(t, p.ConsumeMetrics(t.Context(), input))
	}
	require.NoError(t, p.Shutdown(t.Context()))

	var want []metricdata.DataPoint[int64]
	for _, kind := range []string{ownerHost, ownerContainer, ownerNetns, ownerNone, ownerNode} {
		want = append(want, metricdata.DataPoint[int64]{Attributes: attribute.NewSet(attribute.String("owner", kind)), Value: 2})
	}
	metadatatest.AssertEqualNetexporterK8spodResources(t, tel, want, metricdatatest.IgnoreTimestamp())
}

// The names that the processor reads have one source, the metadata.yaml of the receiver.
func TestNamesAreDeclared(t *testing.T) {
	var receiver struct {
		ScopeName          string         `yaml:"scope_name"`
		ResourceAttributes map[string]any `yaml:"resource_attributes"`
		Attributes         map[string]any `yaml:"attributes"`
	}
	readYAML(t, filepath.Join("..", "..", "receiver", "netexporterreceiver", "metadata.yaml"), &receiver)
	assert.Equal(t, receiverScope, receiver.ScopeName)
	for _, key := range []string{keyFolded, keyHost, keyInode, keyPodUID} {
		assert.Contains(t, receiver.ResourceAttributes, key)
	}
	for _, key := range []string{keySource, keyDestination} {
		assert.Contains(t, receiver.Attributes, key)
	}

	var own struct {
		ResourceAttributes map[string]any `yaml:"resource_attributes"`
		Attributes         map[string]struct {
			Enum []string `yaml:"enum"`
		} `yaml:"attributes"`
	}
	readYAML(t, "metadata.yaml", &own)
	for _, key := range []string{labelNamespace, labelNetns, labelNode, labelPod, keyPodName, keyPodNamespace} {
		assert.Contains(t, own.ResourceAttributes, key)
	}
	assert.ElementsMatch(t, own.Attributes["lookup_source"].Enum, []string{sourceAPI, sourceTombstone, sourceKubelet, sourceLogDirectory, sourceNone})
	assert.ElementsMatch(t, own.Attributes["owner"].Enum, []string{ownerContainer, ownerFolded, ownerHost, ownerNetns, ownerNode, ownerNone, ownerPod})
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, into))
}

// knownPods returns the pods that putResource numbers, as the API server has told of them.
func knownPods(b *testing.B) resolver {
	b.Helper()
	p, err := newPods(componenttest.NewNopTelemetrySettings(), config(Config{}), func() {})
	require.NoError(b, err)
	for i := range 1000 {
		require.NoError(b, p.table.Add(apiPod(fmt.Sprintf("243fd2b0-%04d", i), fmt.Sprintf("web-%d", i), func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "web", "pod-template-hash": "5775dfdc77"}
			p.Status.PodIP = fmt.Sprintf("10.1.%d.%d", i/250, i%250)
			p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		})))
	}
	return p
}

// 1,000 namespaces of 100 series each: what it takes must be that of the resources, not of the series.
func BenchmarkMetrics(b *testing.B) {
	for _, bb := range []struct {
		name  string
		pods  resolver
		label Config
	}{{"containers", noPods{}, Config{}}, {"pods", knownPods(b), Config{}}, {"pods verbose", knownPods(b), Config{Verbose: true}}} {
		b.Run(bb.name, func(b *testing.B) {
			l := started(b, bb.pods, bb.label)
			md := pmetric.NewMetrics()
			for range 1000 {
				sm := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
				sm.Scope().SetName(receiverScope)
				for range 100 {
					sm.Metrics().AppendEmpty().SetEmptySum().DataPoints().AppendEmpty().SetIntValue(1)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				for i, rm := range md.ResourceMetrics().All() {
					attrs := pcommon.NewMap()
					putResource(attrs, i)
					attrs.MoveTo(rm.Resource().Attributes())
				}
				b.StartTimer()
				if _, err := l.processMetrics(b.Context(), md); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLogs(b *testing.B) {
	events, err := golden.ReadLogs(filepath.Join("testdata", "golden", "logs_input.yaml"))
	require.NoError(b, err)
	event := events.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	for _, bb := range []struct {
		name string
		pods resolver
	}{{"containers", noPods{}}, {"pods", knownPods(b)}} {
		b.Run(bb.name, func(b *testing.B) {
			l := started(b, bb.pods, Config{})
			input := plog.NewLogs()
			for i := range 1000 {
				rl := input.ResourceLogs().AppendEmpty()
				putResource(rl.Resource().Attributes(), i)
				sl := rl.ScopeLogs().AppendEmpty()
				sl.Scope().SetName(receiverScope)
				event.CopyTo(sl.LogRecords().AppendEmpty())
			}
			ld := plog.NewLogs()
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				input.CopyTo(ld)
				b.StartTimer()
				if _, err := l.processLogs(b.Context(), ld); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// putResource puts the attributes of the i-th of many containers.
func putResource(attrs pcommon.Map, i int) {
	attrs.PutStr("container.id", fmt.Sprintf("%064x", i))
	attrs.PutStr("host.name", "worker-1")
	attrs.PutStr("k8s.pod.uid", fmt.Sprintf("243fd2b0-%04d", i))
	attrs.PutInt(keyInode, int64(4026532345+i))
	attrs.PutInt("network.netns.cookie", int64(i))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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

	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadatatest"
)

var update = flag.Bool("update", false, "write the golden files anew")

const containerID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// onePod knows one pod.
type onePod struct {
	uid, containerID string
	pod              pod
}

func (o onePod) lookup(uid, containerID string) (pod, bool) {
	return o.pod, uid == o.uid || containerID == o.containerID
}

// started returns a labeller with the node name worker-1.
func started(t testing.TB, pods resolver) *labeller {
	t.Helper()
	l, err := newLabeller(componenttest.NewNopTelemetrySettings(), &Config{Node: "worker-1"}, pods)
	require.NoError(t, err)
	require.NoError(t, l.start(t.Context(), componenttest.NewNopHost()))
	return l
}

func TestLabel(t *testing.T) {
	pods := onePod{uid: "243fd2b0", containerID: containerID, pod: pod{name: "elastic-operator-0", namespace: "elastic-system"}}
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
				"k8s.namespace.name": "elastic-system", "k8s.pod.name": "elastic-operator-0", "k8s.node.name": "worker-1",
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
				"k8s.namespace.name": "elastic-system", "k8s.pod.name": "elastic-operator-0", "k8s.node.name": "worker-1",
			},
		},
		{
			"pod by container", pods, true,
			map[string]any{"network.netns.inode": 1, "container.id": containerID},
			map[string]any{
				"namespace": "elastic-system", "pod": "elastic-operator-0", "netns": "ns1", "node": "worker-1",
				"k8s.namespace.name": "elastic-system", "k8s.pod.name": "elastic-operator-0", "k8s.node.name": "worker-1",
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
			onePod{},
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

			labelled := started(t, tt.pods).label(t.Context(), got, tt.ours)

			assert.Equal(t, tt.want != nil, labelled)
			assert.Equal(t, want.AsRaw(), got.AsRaw())
		})
	}
}

func TestEventOfPod(t *testing.T) {
	ld, err := golden.ReadLogs(filepath.Join("testdata", "golden", "logs_input.yaml"))
	require.NoError(t, err)
	pods := onePod{containerID: containerID, pod: pod{name: "storage-monitor-5775dfdc77-fj767", namespace: "kube-system"}}
	ld, err = started(t, pods).processLogs(t.Context(), ld)
	require.NoError(t, err)
	container := ld.ResourceLogs().At(1)
	assert.Equal(t,
		"type=TCPRESET_NOSOCK pod=storage-monitor-5775dfdc77-fj767 namespace=kube-system protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488",
		container.ScopeLogs().At(0).LogRecords().At(0).Body().Str())
}

func TestGoldenMetrics(t *testing.T) {
	input, err := golden.ReadMetrics(filepath.Join("testdata", "golden", "metrics_input.yaml"))
	require.NoError(t, err)
	sink := new(consumertest.MetricsSink)
	p, err := NewFactory().CreateMetrics(t.Context(), processortest.NewNopSettings(metadata.Type), &Config{RootPath: testRoot(t)}, sink)
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
	p, err := NewFactory().CreateLogs(t.Context(), processortest.NewNopSettings(metadata.Type), &Config{RootPath: testRoot(t)}, sink)
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
	p, err := NewFactory().CreateMetrics(t.Context(), metadatatest.NewSettings(tel), &Config{Node: "worker-1"}, consumertest.NewNop())
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
	}
	readYAML(t, filepath.Join("..", "..", "receiver", "netexporterreceiver", "metadata.yaml"), &receiver)
	assert.Equal(t, receiverScope, receiver.ScopeName)
	for _, key := range []string{keyFolded, keyHost, keyInode, keyPodUID} {
		assert.Contains(t, receiver.ResourceAttributes, key)
	}

	var own struct {
		Attributes struct {
			Owner struct {
				Enum []string `yaml:"enum"`
			} `yaml:"owner"`
		} `yaml:"attributes"`
	}
	readYAML(t, "metadata.yaml", &own)
	assert.ElementsMatch(t, own.Attributes.Owner.Enum, []string{ownerContainer, ownerFolded, ownerHost, ownerNetns, ownerNode, ownerNone, ownerPod})
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, into))
}

func BenchmarkMetrics(b *testing.B) {
	l := started(b, noPods{})
	input := pmetric.NewMetrics()
	for i := range 1000 {
		rm := input.ResourceMetrics().AppendEmpty()
		putResource(rm.Resource().Attributes(), i)
		rm.ScopeMetrics().AppendEmpty().Scope().SetName(receiverScope)
	}
	md := pmetric.NewMetrics()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		input.CopyTo(md)
		b.StartTimer()
		if _, err := l.processMetrics(b.Context(), md); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLogs(b *testing.B) {
	events, err := golden.ReadLogs(filepath.Join("testdata", "golden", "logs_input.yaml"))
	require.NoError(b, err)
	event := events.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	l := started(b, noPods{})
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
}

// putResource puts the attributes of the i-th of many containers.
func putResource(attrs pcommon.Map, i int) {
	attrs.PutStr("container.id", fmt.Sprintf("%064x", i))
	attrs.PutStr("host.name", "worker-1")
	attrs.PutStr("k8s.pod.uid", fmt.Sprintf("243fd2b0-%04d", i))
	attrs.PutInt(keyInode, int64(4026532345+i))
	attrs.PutInt("network.netns.cookie", int64(i))
}

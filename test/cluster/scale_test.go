// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/netexporter/netexporter/processor/k8spodprocessor"
)

// TestScale measures what many agents cost the API server, for docs/kubernetes.md. Their nodes and pods are kwok's, which
// have no processes; of each agent there is the part that asks the API server, with a connection of its own.
func TestScale(t *testing.T) {
	if os.Getenv("CLUSTER_SCALE") == "" {
		t.Skip("a measurement: make test-cluster CLUSTER_SCALE=1 ARGS='-test.run TestScale'")
	}
	const nodes, podsOfNode, updates = 300, 20, 4000
	c := open(t)
	c.createNamespace(t, workNamespace)
	startKwok(t)
	each(nodes, func(i int) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fakeName(i), Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"}}}
		_, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
		assert.NoError(t, err)
	})
	each(nodes*podsOfNode, func(i int) {
		pod := newPod(fakeName(i), fakeName(i%nodes))
		pod.Annotations = map[string]string{"of": strings.Repeat("the size that pods have", 150)}
		_, err := c.client.CoreV1().Pods(workNamespace).Create(t.Context(), pod, metav1.CreateOptions{})
		assert.NoError(t, err)
	})
	wait(t, "pods that run", func() bool {
		pending, err := c.client.CoreV1().Pods(workNamespace).List(t.Context(), metav1.ListOptions{FieldSelector: "status.phase!=Running", Limit: 1})
		return err == nil && len(pending.Items) == 0
	})

	// measure returns what the API server does for many changes of pods, and logs it for each of them.
	round := 0
	measure := func(what string) {
		round++
		before := c.settled(t)
		each(updates, func(i int) {
			patch := fmt.Appendf(nil, `{"metadata":{"labels":{"round":"%d"}}}`, round)
			_, err := c.client.CoreV1().Pods(workNamespace).Patch(t.Context(), fakeName(i), types.MergePatchType, patch, metav1.PatchOptions{})
			assert.NoError(t, err)
		})
		after := c.settled(t)
		t.Logf("%s: an update takes %v CPU of the API server, and %.0f bytes sent in %.2f events of watches", what,
			(after.cpu-before.cpu)/updates, (after.bytes-before.bytes)/updates, (after.events-before.events)/updates)
	}
	measure("no agent")

	before := c.settled(t)
	agents := startAgents(t, nodes)
	after := c.settled(t)
	t.Logf("%d agents begin: %v CPU of the API server and %.1f MB sent; its memory grows from %d to %d MiB", nodes,
		after.cpu-before.cpu, (after.bytes-before.bytes)/1e6, before.rss>>20, after.rss>>20)
	assert.InDelta(t, nodes, after.watches-before.watches, 0, "watches")
	assert.Zero(t, after.lists-before.lists, "lists")
	measure(fmt.Sprintf("%d agents", nodes))

	for _, a := range agents {
		require.NoError(t, a.Shutdown(t.Context()))
	}
	measure("no agent again")
}

func fakeName(i int) string { return fmt.Sprintf("fake-%d", i) }

// startKwok has kwok play the kubelets of nodes that ask for it.
func startKwok(t *testing.T) {
	t.Helper()
	var stages []string
	for _, of := range []string{"node", "pod"} {
		files, err := filepath.Glob(filepath.Join(os.Getenv("KWOK_STAGES"), of, "fast/*-*.yaml"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		stages = append(stages, files...)
	}
	serve(t, "kwok", "--kubeconfig", os.Getenv("KUBECONFIG"), "--cidr", "10.128.0.0/9", "--config", strings.Join(stages, ","),
		"--manage-nodes-with-annotation-selector", "kwok.x-k8s.io/node=fake",
		// Without leases the nodes would be taken for dead, and all of their pods changed, over and over.
		"--node-lease-duration-seconds", "40")
}

// startAgents starts the processor k8spod of each of the fake nodes.
func startAgents(t *testing.T, count int) []processor.Metrics {
	t.Helper()
	// Clients share a connection if they ask for the same; a name for the server's certificate of its own makes them differ.
	admin, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	current := *admin.Contexts[admin.CurrentContext]
	for i := range count {
		cluster := admin.Clusters[current.Cluster].DeepCopy()
		cluster.TLSServerName = fakeName(i)
		admin.Clusters[fakeName(i)] = cluster
		admin.Contexts[fakeName(i)] = &api.Context{Cluster: fakeName(i), AuthInfo: current.AuthInfo}
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*admin, file))
	t.Setenv("KUBECONFIG", file)

	factory := k8spodprocessor.NewFactory()
	agents := make([]processor.Metrics, count)
	each(count, func(i int) {
		cfg := factory.CreateDefaultConfig().(*k8spodprocessor.Config)
		cfg.AuthType, cfg.Context, cfg.Node, cfg.NodeFromEnvVar = "kubeConfig", fakeName(i), fakeName(i), ""
		agent, err := factory.CreateMetrics(t.Context(), processortest.NewNopSettings(factory.Type()), cfg, consumertest.NewNop())
		if assert.NoError(t, err) && assert.NoError(t, agent.Start(t.Context(), componenttest.NewNopHost())) {
			agents[i] = agent
		}
	})
	require.NotContains(t, agents, nil)
	return agents
}

// each runs f for 0 to count, some at a time.
func each(count int, f func(i int)) {
	var group sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	group.Wait()
}

// usage is what the API server has done since its start.
type usage struct {
	cpu time.Duration
	rss int64 // bytes, now
	// Of pods: watches now, lists, and what watches were sent.
	watches, lists, events, bytes float64
}

// settled returns the usage once no more is sent than word that there is nothing new, once a minute to each watch.
func (c *cluster) settled(t *testing.T) usage {
	t.Helper()
	last := c.usage(t)
	wait(t, "silence of the watches", func() bool {
		before := last
		time.Sleep(5 * time.Second)
		last = c.usage(t)
		return last.events-before.events < 100
	})
	return last
}

func (c *cluster) usage(t *testing.T) usage {
	t.Helper()
	page, err := c.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	require.NoError(t, err)
	sum := func(name string, labels map[string]string) (total float64) {
		for _, s := range samples(t, page, name) {
			matches := true
			for key, value := range labels {
				matches = matches && s.labels[key] == value
			}
			if matches {
				total += s.value
			}
		}
		return total
	}
	u := usage{
		watches: sum("apiserver_longrunning_requests", map[string]string{"resource": "pods", "verb": "WATCH"}),
		lists:   sum("apiserver_request_total", map[string]string{"resource": "pods", "verb": "LIST"}),
		events:  sum("apiserver_watch_events_total", map[string]string{"resource": "pods"}),
		bytes:   sum("apiserver_watch_events_sizes_sum", map[string]string{"resource": "pods"}),
		rss:     int64(sum("process_resident_memory_bytes", nil)),
	}
	pid, err := os.ReadFile(filepath.Join(c.dir, "n1/apiserver.pid"))
	require.NoError(t, err)
	stat, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "stat"))
	require.NoError(t, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	for _, field := range fields[12:14] { // user and system, in hundredths of a second
		ticks, err := strconv.Atoi(field)
		require.NoError(t, err)
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	return u
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// TestScale measures what the watches of many agents cost the API server, for docs/kubernetes.md. The nodes and their pods
// are objects alone; the watches are what the agents ask for, each on a connection of its own.
func TestScale(t *testing.T) {
	if os.Getenv("CLUSTER_SCALE") == "" {
		t.Skip("a measurement: CLUSTER_SCALE=1 make test-cluster ARGS='-test.run TestScale'")
	}
	const nodes, podsOfNode, updates = 300, 20, 4000
	c := open(t)
	c.createNamespace(t, workNamespace)
	each(nodes, func(i int) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("fake-%d", i)}}
		_, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
		require.NoError(t, err)
	})
	each(nodes*podsOfNode, func(i int) {
		_, err := c.client.CoreV1().Pods(workNamespace).Create(t.Context(), newPod(fmt.Sprintf("fake-%d", i), fmt.Sprintf("fake-%d", i%nodes)), metav1.CreateOptions{})
		require.NoError(t, err)
	})

	// measure returns the CPU time of the API server and the bytes sent to watches, for each of many changes of pods.
	round := 0
	measure := func(name string, received *atomic.Int64) {
		round++
		time.Sleep(5 * time.Second) // what the changes before have led to shall be over
		cpu, bytes := c.cpu(t, "apiserver"), received.Load()
		each(updates, func(i int) {
			patch := fmt.Appendf(nil, `{"metadata":{"labels":{"round":"%d"}}}`, round)
			_, err := c.client.CoreV1().Pods(workNamespace).Patch(t.Context(), fmt.Sprintf("fake-%d", i), types.MergePatchType, patch, metav1.PatchOptions{})
			require.NoError(t, err)
		})
		time.Sleep(2 * time.Second)
		t.Logf("%s: %v CPU of the API server and %d bytes an update", name, (c.cpu(t, "apiserver")-cpu)/updates, (received.Load()-bytes)/updates)
	}
	var none atomic.Int64
	measure("no watch", &none)
	for _, tt := range []struct {
		name     string
		watches  int
		selector func(i int) string
	}{
		{"300 watches of one node each", nodes, func(i int) string { return fmt.Sprintf("spec.nodeName=fake-%d", i) }},
		{"30 watches of all nodes", nodes / 10, func(int) string { return "" }},
	} {
		ctx, stop := context.WithCancel(t.Context())
		var received atomic.Int64
		cpu := c.cpu(t, "apiserver")
		var group sync.WaitGroup
		for i := range tt.watches {
			group.Go(func() { c.watchPods(ctx, tt.selector(i), &received) })
		}
		for last := int64(-1); received.Load() != last || last == 0; time.Sleep(2 * time.Second) {
			last = received.Load()
		}
		t.Logf("%s: begun with %v CPU and %d bytes in all", tt.name, c.cpu(t, "apiserver")-cpu, received.Load())
		measure(tt.name, &received)
		stop()
		group.Wait()
	}
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

// watchPods begins with the pods there are and goes on with their changes, in protobuf, as the processor k8spod does, and counts
// the bytes.
func (c *cluster) watchPods(ctx context.Context, selector string, received *atomic.Int64) {
	config := rest.CopyConfig(c.config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.Dial = (&net.Dialer{}).DialContext // a connection of its own
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return
	}
	all := true
	stream, err := client.CoreV1().RESTClient().Get().Resource("pods").VersionedParams(&metav1.ListOptions{
		Watch: true, SendInitialEvents: &all, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		FieldSelector: selector,
	}, scheme.ParameterCodec).Stream(ctx)
	if err != nil {
		return
	}
	defer stream.Close()
	for buf := make([]byte, 64<<10); err == nil; {
		var n int
		n, err = stream.Read(buf)
		received.Add(int64(n))
	}
}

// cpu is the CPU time that a server of the control plane has taken.
func (c *cluster) cpu(t *testing.T, part string) time.Duration {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(c.dir, "n1", part+".pid"))
	require.NoError(t, err)
	stat, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "stat"))
	require.NoError(t, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	user, _ := strconv.Atoi(fields[12])
	system, _ := strconv.Atoi(fields[13])
	return time.Duration(user+system) * 10 * time.Millisecond
}

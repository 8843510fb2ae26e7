// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Ports, by which the tests know the pods. Nobody else connects to them, nowhere on this machine.
const (
	portPod = 11000 + 10*iota
	portTwoContainers
	portHostNetwork
	portStatic
	portAcross
	portDeleted
	portSameName
	portLiving
	portBorn
	portInspector
	portLabelled
	portPeers

	portChurn = 12000
)

// loopback are the addresses of a port in a pod's own network, IPv4 and IPv6.
func loopback(port int) []string {
	return []string{fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("[::1]:%d", port)}
}

// assertMetrics waits for resets of a pod on the Prometheus endpoint of a node, and asserts that all it says of that pod is
// of the one namespace. Series without a pod prove nothing: an agent counts in the namespaces of the other node too.
func (s *suite) assertMetrics(t testing.TB, node, namespace, pod, netns string) {
	t.Helper()
	wait(t, "the resets of "+pod+" among the metrics of "+node, func() bool {
		seen := false
		for _, m := range s.agents[node].metrics(t, "inspector_pod_tcpoutrsts") {
			if m.labels["pod"] == pod && m.labels["netns"] == netns {
				seen = seen || m.value > 0
				assert.Equal(t, map[string]string{"namespace": namespace, "pod": pod, "node": node, "netns": netns}, m.labels)
			}
		}
		return seen
	})
}

func (s *suite) testPod(t *testing.T) {
	_, netns := s.create(t, newPod("plain", "n1", loopback(portPod)...))
	found := s.seen.wait(t, "n1", resetSent, portPod, bothVersions)
	assertOf(t, found, "n1", workNamespace, "plain", netns)
	s.assertMetrics(t, "n1", workNamespace, "plain", netns)

	// The same on standard output, the log of the agent's pod.
	wait(t, "the line in the log", func() bool {
		return slices.ContainsFunc(s.agents["n1"].output(t, "stdout"), func(line string) bool {
			return strings.HasPrefix(line, "type=TCPRESET_NOSOCK pod=plain namespace=work protocol=TCP saddr=") &&
				strings.HasSuffix(line, " dport="+strconv.Itoa(portPod))
		})
	})
}

func (s *suite) testTwoContainers(t *testing.T) {
	pod := newPod("two", "n2", loopback(portTwoContainers)...)
	pod.Spec.Containers = append(pod.Spec.Containers, connector("second", loopback(portTwoContainers+1)...))
	_, netns := s.create(t, pod)
	for _, port := range []int{portTwoContainers, portTwoContainers + 1} {
		assertOf(t, s.seen.wait(t, "n2", resetSent, port, bothVersions), "n2", workNamespace, "two", netns)
	}
	s.assertMetrics(t, "n2", workNamespace, "two", netns)
}

// In the node's network the counters are the node's, but an event is of the pod whose socket it was. A reset without a
// socket has nobody there; the side that is refused has.
func (s *suite) testHostNetwork(t *testing.T) {
	pod := newPod("host", "n1", loopback(portHostNetwork)...)
	pod.Spec.HostNetwork = true
	s.create(t, pod)
	found := s.seen.wait(t, "n1", resetReceived, portHostNetwork, bothVersions)
	assertOf(t, found, "n1", workNamespace, "host", "ns0")
	s.assertMetrics(t, "n1", "hostNetwork", "hostNetwork", "ns0")
}

// staticPod has the kubelet of node 1 run a pod that the API server did not ask for.
func (s *suite) staticPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	pod.Spec.NodeName = ""
	manifest, err := json.Marshal(pod)
	require.NoError(t, err)
	// Moved to where the kubelet looks: it must not read a part of it.
	file := filepath.Join(s.dir, "n1", pod.Name+".json")
	require.NoError(t, os.WriteFile(file, manifest, 0o644))
	target := filepath.Join(s.dir, "n1/manifests", pod.Name+".json")
	require.NoError(t, os.Rename(file, target))
	t.Cleanup(func() { os.Remove(target) })
}

// A static pod has one UID for the kubelet, and for its cgroups, and another for the API server.
func (s *suite) testStaticPod(t *testing.T) {
	s.staticPod(t, newPod("static", "n1", loopback(portStatic)...))
	var mirror *corev1.Pod
	wait(t, "the mirror of the static pod", func() bool {
		var err error
		mirror, err = s.client.CoreV1().Pods(workNamespace).Get(t.Context(), "static-n1", metav1.GetOptions{})
		return err == nil
	})
	inKubelet := mirror.DeepCopy()
	inKubelet.UID = types.UID(mirror.Annotations[corev1.MirrorPodAnnotationKey])
	require.NotEqual(t, mirror.UID, inKubelet.UID)
	netns := s.netns(t, inKubelet)

	assertOf(t, s.seen.wait(t, "n1", resetSent, portStatic, bothVersions), "n1", workNamespace, "static-n1", netns)
	s.assertMetrics(t, "n1", workNamespace, "static-n1", netns)
	// Its name is that of its log directory, too; its address is not.
	ip, _ := s.podIPs(t, mirror)
	s.seen.wait(t, "n1", resetSent, portStatic, func(found []record) bool { return found[len(found)-1].ip == ip })
}

// A connection from one node to the other that is refused: both agents tell, each of its own pod.
func (s *suite) testAcrossNodes(t *testing.T) {
	server, serverNetns := s.create(t, newPod("server", "n2"))
	ip4, ip6 := s.podIPs(t, server)
	port := strconv.Itoa(portAcross)
	_, clientNetns := s.create(t, newPod("client", "n1", net.JoinHostPort(ip4, port), net.JoinHostPort(ip6, port)))

	sent := s.seen.wait(t, "n2", resetSent, portAcross, bothVersions)
	assertOf(t, sent, "n2", workNamespace, "server", serverNetns)
	received := s.seen.wait(t, "n1", resetReceived, portAcross, bothVersions)
	assertOf(t, received, "n1", workNamespace, "client", clientNetns)
	s.assertMetrics(t, "n2", workNamespace, "server", serverNetns)
	// Of the two addresses each agent knows the pod that is on its node.
	s.assertPeers(t, "n2", resetSent, portAcross, "", "server")
	s.assertPeers(t, "n1", resetReceived, portAcross, "client", "")
}

// Within a node, both pods of a connection are told.
func (s *suite) testPeers(t *testing.T) {
	server, serverNetns := s.create(t, newPod("near-server", "n1"))
	ip4, ip6 := s.podIPs(t, server)
	port := strconv.Itoa(portPeers)
	_, clientNetns := s.create(t, newPod("near-client", "n1", net.JoinHostPort(ip4, port), net.JoinHostPort(ip6, port)))

	s.assertPeers(t, "n1", resetSent, portPeers, "near-client", "near-server")
	s.assertPeers(t, "n1", resetReceived, portPeers, "near-client", "near-server")
	assertOf(t, s.seen.of("n1", resetSent, portPeers), "n1", workNamespace, "near-server", serverNetns)
	assertOf(t, s.seen.of("n1", resetReceived, portPeers), "n1", workNamespace, "near-client", clientNetns)
}

// assertPeers waits for records that tell these pods of their addresses, and asserts that none tells others. The API server
// does not know an address yet when the pod first uses it.
func (s *suite) assertPeers(t testing.TB, node, kind string, port int, source, destination string) {
	t.Helper()
	want := [2]string{source, destination}
	s.seen.wait(t, node, kind, port, func(found []record) bool {
		return bothVersions(slices.DeleteFunc(found, func(r record) bool { return [2]string{r.sourcePod, r.destinationPod} != want }))
	})
	for _, r := range s.seen.of(node, kind, port) {
		assert.Contains(t, []string{"", source}, r.sourcePod, r)
		assert.Contains(t, []string{"", destination}, r.destinationPod, r)
	}
}

// A pod that the API server does not know any more makes its last reset.
func (s *suite) testDeleted(t *testing.T) {
	last := fmt.Sprintf("127.0.0.1:%d", portDeleted+1)
	pod, netns := s.create(t, newPod("deleted", "n1", append([]string{"-last", last}, loopback(portDeleted)...)...))
	s.seen.wait(t, "n1", resetSent, portDeleted, isThere)
	s.assertMetrics(t, "n1", workNamespace, "deleted", netns)
	ip, _ := s.podIPs(t, pod)
	s.seen.wait(t, "n1", resetSent, portDeleted, func(found []record) bool { return found[len(found)-1].ip == ip })
	s.delete(t, pod)
	gone := time.Now()

	found := s.seen.wait(t, "n1", resetSent, portDeleted+1, isThere)
	assertOf(t, found, "n1", workNamespace, "deleted", netns)
	assert.Greater(t, found[0].time.Sub(gone), 150*time.Millisecond, "the reset came before the pod was deleted")
	assert.Equal(t, string(pod.UID), found[0].uid)
	assert.Equal(t, ip, found[0].ip, "it is not what the API server said of the pod")
	s.assertMetrics(t, "n1", workNamespace, "deleted", netns)
}

// Two pods of one name, one after the other: the events of the first are not of the second.
func (s *suite) testSameName(t *testing.T) {
	uids, networks := map[int]string{}, map[int]string{}
	for _, port := range []int{portSameName, portSameName + 1} {
		pod, netns := s.create(t, newPod("again", "n1", loopback(port)...))
		uids[port], networks[port] = string(pod.UID), netns
		s.seen.wait(t, "n1", resetSent, port, bothVersions)
		s.assertMetrics(t, "n1", workNamespace, "again", netns)
		s.delete(t, pod)
	}
	require.NotEqual(t, uids[portSameName], uids[portSameName+1])
	for port, uid := range uids {
		found := s.seen.of("n1", resetSent, port)
		assertOf(t, found, "n1", workNamespace, "again", networks[port])
		for _, r := range found {
			assert.Equal(t, uid, r.uid, r)
		}
	}
}

// Many short lives, in namespaces whose inode numbers are used again: no event and no metric may be of another pod.
func (s *suite) testChurn(t *testing.T) {
	const rounds = 200
	var (
		mu       sync.Mutex
		networks = map[string]string{} // by pod
	)
	// What the Prometheus endpoints say meanwhile: labels by pod.
	series := map[string][]map[string]string{}
	var left atomic.Int64
	left.Store(rounds)
	t.Run("both", func(t *testing.T) {
		t.Run("endpoints", func(t *testing.T) {
			t.Parallel()
			for ; left.Load() > 0; time.Sleep(time.Second) {
				for _, a := range s.agents {
					for _, m := range a.metrics(t, "inspector_pod_tcpoutrsts") {
						series[m.labels["pod"]] = append(series[m.labels["pod"]], m.labels)
					}
				}
			}
		})
		t.Run("rounds", func(t *testing.T) {
			t.Parallel()
			for i := range rounds {
				node, name, port := fmt.Sprintf("n%d", 1+i%2), fmt.Sprintf("round-%d", i), portChurn+i
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					defer left.Add(-1)
					pod, netns := s.create(t, newPod(name, node, loopback(port)...))
					mu.Lock()
					networks[name] = netns
					mu.Unlock()
					s.seen.wait(t, node, resetSent, port, bothVersions)
					s.delete(t, pod)
				})
			}
		})
	})

	events, onPage := 0, 0
	numbers := map[string]bool{}
	for i := range rounds {
		node, name := fmt.Sprintf("n%d", 1+i%2), fmt.Sprintf("round-%d", i)
		numbers[networks[name]] = true
		found := s.seen.of(node, resetSent, portChurn+i)
		events += len(found)
		assertOf(t, found, node, workNamespace, name, networks[name])
		if len(series[name]) > 0 {
			onPage++
		}
		for _, labels := range series[name] {
			assert.Equal(t, map[string]string{"namespace": workNamespace, "pod": name, "node": node, "netns": networks[name]}, labels)
		}
	}
	t.Logf("%d pods, %d inode numbers; %d events; %d pods seen on a Prometheus endpoint", rounds, len(numbers), events, onPage)
	assert.Less(t, len(numbers), rounds, "no inode number was used twice: this run proves nothing about that")
	assert.NotZero(t, onPage)
}

// Without its API server a cluster goes on, and so do the agents.
func (s *suite) testOutage(t *testing.T) {
	const outage, pass = time.Minute, 5 * time.Second
	networks, ports := map[string]string{}, map[string]int{"n1": portLiving, "n2": portLiving + 1}
	for node, port := range ports {
		_, networks[node] = s.create(t, newPod("living-"+node, node, loopback(port)...))
		s.assertMetrics(t, node, workNamespace, "living-"+node, networks[node])
	}
	byLogs := s.lookups(t, "n1", "log_directory")

	start := s.stop(t, "apiserver")
	begin := time.Now()
	s.staticPod(t, newPod("born", "n1", loopback(portBorn)...))
	born := s.seen.wait(t, "n1", resetSent, portBorn, func(found []record) bool {
		return found[len(found)-1].time.Sub(found[0].time) > 2*pass
	})
	for _, r := range born {
		if r.pod != "born-n1" {
			t.Log("not named yet:", r)
			assert.Less(t, r.time.Sub(born[0].time), pass, r)
		}
	}
	s.assertMetrics(t, "n1", workNamespace, "born-n1", born[0].netns)
	assert.Greater(t, s.lookups(t, "n1", "log_directory"), byLogs)
	for node, netns := range networks {
		s.seen.wait(t, node, resetSent, ports[node], func(found []record) bool {
			return found[len(found)-1].time.Sub(begin) > outage
		})
		s.assertMetrics(t, node, workNamespace, "living-"+node, netns)
		connected := s.agents[node].self(t, "otelcol_netexporter_k8spod_api_connected")
		require.NotEmpty(t, connected)
		assert.Zero(t, connected[0].value, "the agent on %s does not say that the API server is away", node)
	}

	start()
	s.waitAPI(t)
	for node, netns := range networks {
		wait(t, "the agent on "+node+" to be connected again", func() bool {
			return s.agents[node].self(t, "otelcol_netexporter_k8spod_api_connected")[0].value == 1
		})
		found := s.seen.of(node, resetSent, ports[node])
		t.Logf("%d events of a living pod on %s in an outage of %v", len(found), node, outage)
		assertOf(t, found, node, workNamespace, "living-"+node, netns)
	}
}

// lookups is how often a source has named a pod to the agent of a node.
func (s *suite) lookups(t testing.TB, node, source string) (count float64) {
	t.Helper()
	for _, m := range s.agents[node].self(t, "otelcol_netexporter_k8spod_lookups") {
		if m.labels["source"] == source {
			count += m.value
		}
	}
	return count
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	agentNamespace = "netexporter"
	workNamespace  = "work"
	workload       = "localhost/workload:1"
	// timeout is for anything that the cluster does by itself. It only ends a test that has failed.
	timeout      = 2 * time.Minute
	pollInterval = 50 * time.Millisecond
)

// cluster is what `run` has started.
type cluster struct {
	dir    string // of `run`, shared by the nodes: n1, n2, and what they run
	config *rest.Config
	client kubernetes.Interface
}

// open connects to the cluster, and skips the test if there is none.
func open(t *testing.T) *cluster {
	t.Helper()
	dir := os.Getenv("CLUSTER_DIR")
	if dir == "" {
		t.Skip("needs a Kubernetes cluster: make test-cluster makes one")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	c := &cluster{dir, config, client}
	c.waitAPI(t)
	return c
}

// waitAPI waits until both nodes are ready.
func (c *cluster) waitAPI(t *testing.T) {
	t.Helper()
	wait(t, "two nodes that are ready", func() bool {
		nodes, err := c.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		ready := 0
		for _, n := range nodes.Items {
			for _, condition := range n.Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		return ready == 2
	})
}

// wait polls until the condition holds, and fails the test if it does not within timeout.
func wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !condition(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", timeout, what)
		}
	}
}

// render returns what `helm template` makes of the chart with these flags.
func render(t *testing.T, flags ...string) []byte {
	t.Helper()
	return command(t, "helm", append([]string{"template", "netexporter", chart(), "--namespace", agentNamespace}, flags...)...)
}

func command(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", cmd, stderr.String())
	return out
}

// serve runs a server until the test ends.
func serve(t *testing.T, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	server := exec.Command(name, args...)
	server.Stdout, server.Stderr = &log, &log
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, tail(strings.Split(log.String(), "\n"), 20))
		}
	})
}

// objects parses a stream of manifests.
func objects(t *testing.T, manifests []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		var o unstructured.Unstructured
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		if len(o.Object) > 0 {
			all = append(all, &o)
		}
	}
}

// apply creates or changes objects as `kubectl apply --server-side` does; a field that the API server does not know is an
// error. With dryRun they are only checked.
func (c *cluster) apply(t *testing.T, manifests []byte, dryRun bool) {
	t.Helper()
	client, err := dynamic.NewForConfig(c.config)
	require.NoError(t, err)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery()))
	options := metav1.PatchOptions{FieldManager: "test", FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	for _, o := range objects(t, manifests) {
		gvk := o.GroupVersionKind()
		mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		require.NoError(t, err)
		var resource dynamic.ResourceInterface = client.Resource(mapping.Resource)
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			resource = client.Resource(mapping.Resource).Namespace(o.GetNamespace())
		}
		data, err := o.MarshalJSON()
		require.NoError(t, err)
		_, err = resource.Patch(t.Context(), o.GetName(), "application/apply-patch+yaml", data, options)
		require.NoError(t, err, "%s %s", gvk.Kind, o.GetName())
	}
}

func (c *cluster) createNamespace(t *testing.T, name string) {
	t.Helper()
	_, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		require.NoError(t, err)
	}
	wait(t, "the service account of "+name, func() bool {
		_, err := c.client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
}

// agent is the pod of the DaemonSet on a node.
type agent struct {
	*corev1.Pod
	node string
	log  string // path of the log of the container, in the runtime's format
}

// install rolls the DaemonSet out and returns its pods by node, once they are ready.
func (c *cluster) install(t *testing.T, manifests []byte) map[string]agent {
	t.Helper()
	c.createNamespace(t, agentNamespace)
	c.apply(t, manifests, false)
	wait(t, "the DaemonSet on both nodes", func() bool {
		ds, err := c.client.AppsV1().DaemonSets(agentNamespace).Get(t.Context(), "netexporter", metav1.GetOptions{})
		return err == nil && isRolledOut(ds)
	})
	pods, err := c.client.CoreV1().Pods(agentNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=netexporter"})
	require.NoError(t, err)
	agents := map[string]agent{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		agents[pod.Spec.NodeName] = agent{pod, pod.Spec.NodeName, c.logFile(pod, "netexporter")}
	}
	require.Len(t, agents, 2)
	t.Cleanup(func() {
		for _, a := range agents {
			if t.Failed() {
				t.Logf("log of the agent on %s:\n%s", a.node, tail(a.output(t, "stderr"), 40))
			}
		}
	})
	return agents
}

func isRolledOut(ds *appsv1.DaemonSet) bool {
	s := ds.Status
	return s.ObservedGeneration == ds.Generation && s.DesiredNumberScheduled == 2 && s.UpdatedNumberScheduled == 2 && s.NumberReady == 2
}

// logFile is where the runtime writes the log of a container's first run.
func (c *cluster) logFile(pod *corev1.Pod, container string) string {
	dir := fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID)
	return filepath.Join(c.dir, pod.Spec.NodeName, "pods", dir, container, "0.log")
}

func tail(lines []string, count int) string {
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// output returns the lines that the agent has written to a stream.
func (a agent) output(t testing.TB, stream string) []string {
	t.Helper()
	return logLines(t, a.log, stream)
}

// logLines returns the whole lines of a stream in a log of the container runtime: time, stream, F for a line that is whole or
// P for a part of one, text.
func logLines(t testing.TB, file, stream string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	var lines []string
	part := ""
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 || fields[1] != stream {
			continue
		}
		part += fields[3]
		if fields[2] == "F" {
			lines, part = append(lines, part), ""
		}
	}
	return lines
}

// sample is a line of the Prometheus exposition.
type sample struct {
	labels map[string]string
	value  float64
}

// metrics returns the samples of a metric on the endpoint of an agent.
func (a agent) metrics(t testing.TB, name string) []sample { return a.scrape(t, 9102, name) }

// self returns the samples of a metric of the agent about itself.
func (a agent) self(t testing.TB, name string) []sample { return a.scrape(t, 8888, name) }

func (a agent) scrape(t testing.TB, port int, name string) []sample {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	var page []byte
	wait(t, "the page of the agent", func() bool { // a change of its configuration closes it for a moment
		resp, err := client.Get(fmt.Sprintf("http://%s:%d/metrics", a.Status.PodIP, port))
		if errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
		require.NoError(t, err)
		defer resp.Body.Close()
		page, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		return true
	})
	return samples(t, page, name)
}

// samples returns those of a metric on a page of the Prometheus exposition.
func samples(t testing.TB, page []byte, name string) []sample {
	t.Helper()
	var found []sample
	line := regexp.MustCompile(`(?m)^` + name + `(?:\{(.*)\})? (\S+)`)
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
	for _, m := range line.FindAllStringSubmatch(string(page), -1) {
		s := sample{labels: map[string]string{}}
		for _, l := range label.FindAllStringSubmatch(m[1], -1) {
			s.labels[l[1]] = l[2]
		}
		var err error
		s.value, err = strconv.ParseFloat(m[2], 64)
		require.NoError(t, err)
		found = append(found, s)
	}
	return found
}

// newPod is a pod that connects to addresses, on a node.
func newPod(name, node string, args ...string) *corev1.Pod {
	grace := int64(2)
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: workNamespace, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{connector("main", args...)},
		},
	}
}

// connector is a container that connects to addresses.
func connector(name string, args ...string) corev1.Container {
	return corev1.Container{
		Name:            name,
		Image:           workload,
		ImagePullPolicy: corev1.PullNever,
		Args:            append([]string{"connect"}, args...),
	}
}

// create makes a pod, which is deleted with the test at the latest, and returns it once it has begun to connect, with
// the name of its network namespace.
func (c *cluster) create(t testing.TB, pod *corev1.Pod) (created *corev1.Pod, netns string) {
	t.Helper()
	created, err := c.client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { c.delete(t, created) })
	return created, c.netns(t, created)
}

// netns waits for a pod to print its network namespace, and returns its name as the agent spells it.
func (c *cluster) netns(t testing.TB, pod *corev1.Pod) string {
	t.Helper()
	link := regexp.MustCompile(`^net:\[(\d+)\]`)
	var netns string
	wait(t, "the pod "+pod.Name, func() bool {
		lines := logLines(t, c.logFile(pod, pod.Spec.Containers[0].Name), "stdout")
		if len(lines) == 0 {
			return false
		}
		m := link.FindStringSubmatch(lines[0])
		require.NotNil(t, m, lines[0])
		netns = "ns" + m[1]
		return true
	})
	return netns
}

// delete takes a pod off the API at once, before it has ended.
func (c *cluster) delete(t testing.TB, pod *corev1.Pod) {
	t.Helper()
	now := int64(0)
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(context.Background(), pod.Name,
		metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		require.NoError(t, err)
	}
}

// podIPs waits for the addresses of a pod.
func (c *cluster) podIPs(t testing.TB, pod *corev1.Pod) (ip4, ip6 string) {
	t.Helper()
	wait(t, "the addresses of "+pod.Name, func() bool {
		p, err := c.client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		require.NoError(t, err)
		for _, ip := range p.Status.PodIPs {
			if strings.Contains(ip.IP, ":") {
				ip6 = ip.IP
			} else {
				ip4 = ip.IP
			}
		}
		return ip4 != "" && ip6 != ""
	})
	return ip4, ip6
}

// stop ends a server of the control plane with SIGKILL, and keeps it from coming back until start is called.
func (c *cluster) stop(t *testing.T, part string) (start func()) {
	t.Helper()
	hold := filepath.Join(c.dir, "n1", part+".stop")
	require.NoError(t, os.WriteFile(hold, nil, 0o644))
	start = func() {
		if err := os.Remove(hold); !os.IsNotExist(err) {
			require.NoError(t, err)
		}
	}
	t.Cleanup(start)
	data, err := os.ReadFile(filepath.Join(c.dir, "n1", part+".pid"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	return start
}

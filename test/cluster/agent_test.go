// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// withEvents are flags that send events to Loki, which testLoki starts, and to the tests, which have more of them there than in
// their lines.
func withEvents() []string {
	return []string{"--set", "config.enableEventServer=true,config.remoteLokiAddress=" + lokiHost, "--set-json", `extraConfig={
		"exporters": {"otlp_http": {"endpoint": "http://` + backEnd + `"}},
		"service": {"pipelines": {"logs": {"exporters": ["stdout", "eventstream", "otlp_http"]}}}}`}
}

func TestCluster(t *testing.T) {
	c := open(t)
	seen := receive(t)
	c.createNamespace(t, workNamespace)
	manifests := render(t, withEvents()...)
	agents := c.install(t, manifests)
	s := &suite{c, seen, agents, manifests}

	t.Run("base of kustomize", s.testBase)
	t.Run("agents report", s.testReports)
	t.Run("privileges", s.testPrivileges)
	t.Run("RBAC", s.testRBAC)
	t.Run("pod", s.testPod)
	t.Run("two containers", s.testTwoContainers)
	t.Run("host network", s.testHostNetwork)
	t.Run("static pod", s.testStaticPod)
	t.Run("across nodes", s.testAcrossNodes)
	t.Run("two pods of a node", s.testPeers)
	t.Run("Loki", s.testLoki)
	t.Run("deleted before its reset", s.testDeleted)
	t.Run("same name again", s.testSameName)
	t.Run("inspector", s.testInspector)
	t.Run("many pods", s.testChurn)
	t.Run("self-test in the pod", s.testSelfTest)
	t.Run("load on the API server", s.testLoad)
	t.Run("changed ConfigMap", s.testReload)
	t.Run("API server is away", s.testOutage)
	t.Run("no agent has begun anew", s.testRestarts)
}

// suite is a cluster in which the agent runs.
type suite struct {
	*cluster
	seen      *records
	agents    map[string]agent
	manifests []byte
}

// The API server knows each field of what `kubectl apply -k` would send it.
func (s *suite) testBase(t *testing.T) {
	s.apply(t, command(t, "kustomize", "build", filepath.Join(os.Getenv("CLUSTER_DEPLOY"), "base")), true)
}

func (s *suite) testReports(t *testing.T) {
	for node, a := range s.agents {
		for _, probe := range a.self(t, "otelcol_netexporter_probe_up") {
			assert.InDelta(t, 1, probe.value, 0, "probe %s on %s", probe.labels["probe"], node)
		}
		connected := a.self(t, "otelcol_netexporter_k8spod_api_connected")
		require.NotEmpty(t, connected)
		assert.InDelta(t, 1, connected[0].value, 0)
		wait(t, "the first collection of "+node, func() bool { return len(a.metrics(t, "inspector_pod_tcpoutrsts")) > 0 })
		for _, sample := range a.metrics(t, "inspector_pod_tcpoutrsts") {
			assert.Equal(t, node, sample.labels["node"])
		}
	}
}

// inspector, from outside, of both nodes at once.
func (s *suite) testInspector(t *testing.T) {
	const port = portInspector
	for _, node := range []string{"n1", "n2"} {
		_, netns := s.create(t, newPod("inspected-"+node, node, loopback(port)...))
		s.seen.wait(t, node, resetSent, port, isThere)
		entity := regexp.MustCompile(`(?m)^` + node + ` +` + workNamespace + ` +inspected-` + node + ` +` + netns + ` `)
		wait(t, "the pod in the list of "+node, func() bool { // which is told of with each pass
			return entity.Match(command(t, inspector(), "list", "entity", "-e", s.agents[node].Status.PodIP))
		})
	}
	// Found by the API server, with the administrator's kubeconfig.
	entities := string(command(t, inspector(), "list", "entity", "--kube"))
	for _, node := range []string{"n1", "n2"} {
		assert.Contains(t, entities, " inspected-"+node+" ")
	}
	lines := strings.Split(strings.TrimSpace(string(command(t, inspector(), "watch", "-s", s.agents["n1"].Status.PodIP, "-s", s.agents["n2"].Status.PodIP,
		"--pod", "inspected-n1,inspected-n2", "--type", resetSent, "--since", "10m", "--count", "80"))), "\n") // the first made some while the second was begun
	for _, node := range []string{"n1", "n2"} {
		assert.True(t, slices.ContainsFunc(lines, func(line string) bool {
			return strings.Contains(line, "TCPRESET_NOSOCK Namespace=work Pod=inspected-"+node+" Node="+node+" ")
		}), "%s: %q", node, lines)
	}
}

func inspector() string { return filepath.Join(filepath.Dir(os.Getenv("CLUSTER_AGENT")), "inspector") }

// A change of the ConfigMap acts without another pod: here, that labels of pods are labels of metrics.
func (s *suite) testReload(t *testing.T) {
	_, netns := s.create(t, newPod("labelled", "n1", loopback(portLabelled)...))
	s.assertMetrics(t, "n1", workNamespace, "labelled", netns)
	changed := render(t, append(withEvents(), "--set", "config.metricLabelVerbose=true")...)
	s.apply(t, changed, false)
	wait(t, "the label of the pod among the metrics", func() bool {
		return slices.ContainsFunc(s.agents["n1"].metrics(t, "inspector_pod_tcpoutrsts"), func(m sample) bool {
			return m.labels["pod"] == "labelled" && m.labels["k8s_pod_label_app"] == "labelled"
		})
	})
	s.apply(t, s.manifests, false)
	wait(t, "the metrics without that label", func() bool {
		return slices.ContainsFunc(s.agents["n1"].metrics(t, "inspector_pod_tcpoutrsts"), func(m sample) bool {
			return m.labels["pod"] == "labelled" && m.labels["k8s_pod_label_app"] == ""
		})
	})
}

// What the tests have seen, each agent has done in one run.
func (s *suite) testRestarts(t *testing.T) {
	for node, a := range s.agents {
		now, err := s.client.CoreV1().Pods(agentNamespace).Get(t.Context(), a.Name, metav1.GetOptions{})
		require.NoError(t, err)
		assert.Equal(t, a.UID, now.UID, node)
		assert.Zero(t, now.Status.ContainerStatuses[0].RestartCount, node)
	}
}

// The self-test, in a pod as `kubectl debug node --profile=sysadmin` makes it.
func (s *suite) testSelfTest(t *testing.T) {
	pod := newPod("selftest", "n1")
	pod.Spec.HostPID, pod.Spec.HostNetwork, pod.Spec.RestartPolicy = true, true, corev1.RestartPolicyNever
	container := &pod.Spec.Containers[0]
	container.Image = s.agents["n1"].Spec.Containers[0].Image
	container.Command, container.Args = []string{"inspector", "selftest"}, []string{"--root", "/host"}
	container.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	container.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
	pod, err := s.client.CoreV1().Pods(workNamespace).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { s.delete(t, pod) })
	wait(t, "the end of the self-test", func() bool {
		pod, err = s.client.CoreV1().Pods(workNamespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		require.NoError(t, err)
		return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	})
	out := logLines(t, s.logFile(pod, "main"), "stdout")
	assert.Equal(t, corev1.PodSucceeded, pod.Status.Phase, out)
	assert.Regexp(t, `packetloss +drop +\S+ +ok`, strings.Join(out, "\n"))
}

// daemonSet is that of the manifests.
func (s *suite) daemonSet(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	for _, o := range objects(t, s.manifests) {
		if o.GetKind() == "DaemonSet" {
			var ds appsv1.DaemonSet
			require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &ds))
			return &ds
		}
	}
	require.Fail(t, "no DaemonSet among the manifests")
	return nil
}

// process is the number of the agent's process. Only those of node 1 are seen from here.
func (a agent) process(t *testing.T) string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/comm")
	require.NoError(t, err)
	for _, file := range processes {
		dir := filepath.Dir(file)
		comm, _ := os.ReadFile(file)
		cgroups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if string(comm) == "netexporter\n" && strings.Contains(string(cgroups), "pod"+string(a.UID)) {
			return dir
		}
	}
	require.Fail(t, "the agent has no process")
	return ""
}

// The process has the capabilities of the manifest and no other, in a container that it cannot change.
func (s *suite) testPrivileges(t *testing.T) {
	spec := s.daemonSet(t).Spec.Template.Spec
	want := uint64(0)
	for _, name := range spec.Containers[0].SecurityContext.Capabilities.Add {
		number, known := map[corev1.Capability]int{
			"BPF": unix.CAP_BPF, "PERFMON": unix.CAP_PERFMON, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYSLOG": unix.CAP_SYSLOG,
			"SYS_ADMIN": unix.CAP_SYS_ADMIN, "NET_ADMIN": unix.CAP_NET_ADMIN,
		}[name]
		require.True(t, known, name)
		want |= 1 << number
	}
	assert.Nil(t, spec.Containers[0].SecurityContext.Privileged)

	dir := s.agents["n1"].process(t)
	status := map[string]string{}
	data, err := os.ReadFile(filepath.Join(dir, "status"))
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		got, err := strconv.ParseUint(status[set], 16, 64)
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprintf("%x", want), fmt.Sprintf("%x", got), set)
	}
	assert.Equal(t, "1", status["NoNewPrivs"])
	assert.Equal(t, "2", status["Seccomp"], "the runtime's filter")
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(filepath.Join(dir, "root"), &fs))
	assert.NotZero(t, fs.Flags&unix.ST_RDONLY, "the root file system can be written")
}

// The token that is mounted into the agent's pod may list and watch pods, and nothing else.
func (s *suite) testRBAC(t *testing.T) {
	secret := filepath.Join(s.agents["n1"].process(t), "root/var/run/secrets/kubernetes.io/serviceaccount")
	token, err := os.ReadFile(filepath.Join(secret, "token"))
	require.NoError(t, err)
	ca, err := os.ReadFile(filepath.Join(secret, "ca.crt"))
	require.NoError(t, err)
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host:            "https://10.96.0.1",
		BearerToken:     string(token),
		TLSClientConfig: rest.TLSClientConfig{CAData: ca},
	})
	require.NoError(t, err)
	ctx, core := t.Context(), client.CoreV1()

	ofNode := metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}
	_, err = core.Pods("").List(ctx, ofNode)
	require.NoError(t, err)
	watch, err := core.Pods("").Watch(ctx, ofNode)
	require.NoError(t, err)
	watch.Stop()

	for what, attempt := range map[string]func() error{
		"get a pod": func() error {
			_, err := core.Pods(agentNamespace).Get(ctx, s.agents["n1"].Name, metav1.GetOptions{})
			return err
		},
		"read a log": func() error {
			_, err := core.Pods(agentNamespace).GetLogs(s.agents["n1"].Name, &corev1.PodLogOptions{}).DoRaw(ctx)
			return err
		},
		"create a pod": func() error {
			_, err := core.Pods(agentNamespace).Create(ctx, newPod("x", "n1"), metav1.CreateOptions{})
			return err
		},
		"delete a pod":      func() error { return core.Pods(agentNamespace).Delete(ctx, "x", metav1.DeleteOptions{}) },
		"list secrets":      func() error { _, err := core.Secrets(agentNamespace).List(ctx, metav1.ListOptions{}); return err },
		"list ConfigMaps":   func() error { _, err := core.ConfigMaps(agentNamespace).List(ctx, metav1.ListOptions{}); return err },
		"list nodes":        func() error { _, err := core.Nodes().List(ctx, metav1.ListOptions{}); return err },
		"list namespaces":   func() error { _, err := core.Namespaces().List(ctx, metav1.ListOptions{}); return err },
		"list services":     func() error { _, err := core.Services("").List(ctx, metav1.ListOptions{}); return err },
		"list ClusterRoles": func() error { _, err := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{}); return err },
	} {
		assert.True(t, apierrors.IsForbidden(attempt()), what)
	}

	// What the API server itself says, but for what everybody may: ask about oneself and about the server.
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: agentNamespace}}
	review, err = client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, review, metav1.CreateOptions{})
	require.NoError(t, err)
	rules := slices.DeleteFunc(review.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
		return !slices.ContainsFunc(r.Resources, func(name string) bool { return !strings.HasPrefix(name, "selfsubject") })
	})
	var own rbacv1.PolicyRule
	require.Len(t, rules, 1)
	own.Verbs, own.Resources = rules[0].Verbs, rules[0].Resources
	assert.Equal(t, rbacv1.PolicyRule{Verbs: []string{"list", "watch"}, Resources: []string{"pods"}}, own)
}

// request is a line of the API server's audit log.
type request struct {
	Verb       string
	Stage      string
	RequestURI string
	SourceIPs  []string
	User       struct{ Username string }
	Status     struct{ Code int } `json:"responseStatus"`
}

// An agent asks for the pods of its node once, and then only listens: a watch that begins with them, or a list and a watch
// where the API server cannot do that.
func (s *suite) testLoad(t *testing.T) {
	file, err := os.Open(filepath.Join(s.dir, "n1/log/audit"))
	require.NoError(t, err)
	defer file.Close()
	counts := map[string]map[string]int{"n1": {}, "n2": {}}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var r request
		if json.Unmarshal(lines.Bytes(), &r) != nil || r.User.Username != "system:serviceaccount:netexporter:netexporter" || r.Stage != "RequestReceived" {
			continue
		}
		for node, a := range s.agents {
			if !slices.Contains(r.SourceIPs, a.Status.PodIP) || strings.Contains(r.RequestURI, agentNamespace) {
				continue
			}
			uri, err := url.Parse(r.RequestURI)
			require.NoError(t, err)
			assert.Equal(t, "spec.nodeName="+node, uri.Query().Get("fieldSelector"), r.RequestURI)
			counts[node][r.Verb]++
		}
	}
	t.Log("requests for pods:", counts)
	for node, verbs := range counts {
		assert.LessOrEqual(t, verbs["list"], 1, node)
		assert.Equal(t, 1, verbs["watch"], node)
	}
}

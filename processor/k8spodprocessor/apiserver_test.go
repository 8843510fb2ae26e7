// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/netexporter/netexporter/internal/kubeapi"
	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadatatest"
)

const agentUser = "agent"

// apiServer is a kube-apiserver with its etcd. There are no nodes: what kubelets would write, the test does.
type apiServer struct {
	t       testing.TB
	program string
	dir     string
	port    string
	etcd    string
	running *exec.Cmd
	admin   rest.Interface
}

// newAPIServer starts etcd. The API server is for start.
func newAPIServer(t testing.TB) *apiServer {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	find := func(name string, cached ...string) string {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		for _, pattern := range cached {
			found, err := filepath.Glob(filepath.Join(cache, "netexporter", pattern))
			require.NoError(t, err)
			if len(found) > 0 {
				return found[len(found)-1]
			}
		}
		t.Skipf("no %s: `make test-cluster` builds or fetches it", name)
		return ""
	}
	s := &apiServer{t: t, program: find("kube-apiserver", "tools/kubernetes-*/kube-apiserver"), dir: t.TempDir(), port: freePort(t)}
	s.etcd = "http://127.0.0.1:" + freePort(t)

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	s.write("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	s.write("tokens.csv", []byte("admin,admin,admin,system:masters\n"+agentUser+","+agentUser+","+agentUser+"\n"))
	s.write("audit.yaml", []byte(`{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}`))
	s.write("token", []byte(agentUser))
	writeKubeconfig(t, s.path("kubeconfig"), "https://127.0.0.1:"+s.port, s.path("token"))

	etcd := s.command("etcd.log", find("etcd", "tools/etcd-*/server", "cluster/usr/bin/etcd"), "--data-dir", s.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", s.etcd, "--advertise-client-urls", s.etcd, "--listen-peer-urls", "http://127.0.0.1:"+freePort(t))
	t.Cleanup(func() { s.kill(etcd) })
	s.admin, err = kubeapi.NewClient(&rest.Config{
		Host: "https://127.0.0.1:" + s.port, BearerToken: "admin", TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1,
	})
	require.NoError(t, err)
	t.Cleanup(s.stop)
	return s
}

// writeKubeconfig writes a kubeconfig with the token in a file.
func writeKubeconfig(t testing.TB, path, server, token string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": [{"name": "test", "cluster": {"server": %q, "insecure-skip-tls-verify": true}}],
		"users": [{"name": "agent", "user": {"tokenFile": %q}}],
		"contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}]}`, server, token), 0o600))
}

// freePort returns a port that is free.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

func (s *apiServer) path(name string) string { return filepath.Join(s.dir, name) }

func (s *apiServer) write(name string, data []byte) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.path(name), data, 0o600))
}

func (s *apiServer) command(log, program string, args ...string) *exec.Cmd {
	s.t.Helper()
	out, err := os.OpenFile(s.path(log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(s.t, err)
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The signal comes with the end of the thread that started the process.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		_ = cmd.Wait()
	}()
	require.NoError(s.t, <-started)
	return cmd
}

func (s *apiServer) kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	for cmd.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(time.Millisecond)
	}
}

// start starts the API server and waits until it takes pods.
func (s *apiServer) start() {
	s.t.Helper()
	s.running = s.command("apiserver.log", s.program, "--etcd-servers="+s.etcd, "--bind-address=127.0.0.1", "--secure-port="+s.port,
		"--endpoint-reconciler-type=none", "--cert-dir="+s.path("pki"), "--token-auth-file="+s.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+s.path("sa.key"),
		"--service-account-signing-key-file="+s.path("sa.key"), "--disable-admission-plugins=ServiceAccount",
		"--audit-policy-file="+s.path("audit.yaml"), "--audit-log-path="+s.path("audit.log"))
	s.eventually(func() bool {
		return s.admin.Get().Resource("namespaces").Name("default").Do(s.t.Context()).Error() == nil
	}, "the API server starts")
}

func (s *apiServer) stop() {
	if s.running != nil {
		s.kill(s.running)
		s.running = nil
	}
}

func (s *apiServer) eventually(done func() bool, what string) {
	s.t.Helper()
	if !assert.Eventually(s.t, done, 2*time.Minute, 20*time.Millisecond, what) {
		for _, log := range []string{"etcd.log", "apiserver.log"} {
			data, _ := os.ReadFile(s.path(log))
			s.t.Logf("%s: %s", log, data[max(0, len(data)-2000):])
		}
		s.t.FailNow()
	}
}

// allow lets the agent do what a role of deploy/kubernetes lets it do.
func (s *apiServer) allow() {
	s.t.Helper()
	for kind, object := range map[string]string{
		"clusterroles": `{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "agent"},
			"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]}`,
		"clusterrolebindings": `{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "agent"},
			"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "agent"},
			"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}]}`,
	} {
		require.NoError(s.t, s.admin.Post().AbsPath("/apis/rbac.authorization.k8s.io/v1", kind).
			SetHeader("Content-Type", "application/json").Body([]byte(object)).Do(s.t.Context()).Error())
	}
}

// create makes a pod that runs on a node, with the given container.
func (s *apiServer) create(node, name, container string, ips ...string) *corev1.Pod {
	s.t.Helper()
	var pod corev1.Pod
	require.NoError(s.t, s.admin.Post().Namespace("default").Resource("pods").Body(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}).Do(s.t.Context()).Into(&pod))
	now := metav1.Now()
	pod.Status.Phase, pod.Status.StartTime = corev1.PodRunning, &now
	for _, ip := range ips {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		pod.Status.PodIP = ips[0]
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "containerd://" + container}}
	require.NoError(s.t, s.admin.Put().Namespace("default").Resource("pods").Name(name).SubResource("status").
		Body(&pod).Do(s.t.Context()).Into(&pod))
	return &pod
}

func (s *apiServer) delete(name string) {
	s.t.Helper()
	var now int64
	require.NoError(s.t, s.admin.Delete().Namespace("default").Resource("pods").Name(name).
		Body(&metav1.DeleteOptions{GracePeriodSeconds: &now}).Do(s.t.Context()).Error())
}

// requests returns what the agent has asked for so far, as verb and path with the query's field selector.
func (s *apiServer) requests() (asked []string) {
	s.t.Helper()
	data, err := os.ReadFile(s.path("audit.log"))
	require.NoError(s.t, err)
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, len(data)+1)
	for scanner.Scan() {
		var event struct {
			Verb, RequestURI, Stage string
			User                    struct{ Username string }
		}
		require.NoError(s.t, json.Unmarshal(scanner.Bytes(), &event))
		if event.User.Username == agentUser && event.Stage == "RequestReceived" {
			uri, err := url.Parse(event.RequestURI)
			require.NoError(s.t, err)
			asked = append(asked, event.Verb+" "+uri.Path+" "+uri.Query().Get("fieldSelector"))
		}
	}
	return asked
}

// agent is a processor in a metrics and one in a logs pipeline, of one configuration, on a node.
type agent struct {
	s          *apiServer
	telemetry  *componenttest.Telemetry
	components []component.Component
	metrics    processor.Metrics
	logs       processor.Logs
	passed     consumertest.MetricsSink
	events     consumertest.LogsSink
	root       string
}

// newAgent starts both on the node worker-1.
func newAgent(s *apiServer) *agent {
	s.t.Helper()
	s.t.Setenv("KUBECONFIG", s.path("kubeconfig"))
	s.t.Setenv("K8S_NODE_NAME", "worker-1")
	a := &agent{s: s, telemetry: componenttest.NewTelemetry(), root: s.t.TempDir()}
	cfg := createDefaultConfig().(*Config)
	cfg.AuthType, cfg.Node, cfg.RootPath, cfg.Verbose = authKubeConfig, "host-1", a.root, true
	factory, set := NewFactory(), metadatatest.NewSettings(a.telemetry)
	var err error
	a.metrics, err = factory.CreateMetrics(s.t.Context(), set, cfg, &a.passed)
	require.NoError(s.t, err)
	a.logs, err = factory.CreateLogs(s.t.Context(), set, cfg, &a.events)
	require.NoError(s.t, err)
	a.components = []component.Component{a.metrics, a.logs}
	for _, c := range a.components {
		require.NoError(s.t, c.Start(s.t.Context(), componenttest.NewNopHost()))
	}
	return a
}

func (a *agent) shutdown() {
	for _, c := range a.components {
		require.NoError(a.s.t, c.Shutdown(a.s.t.Context()))
	}
	require.NoError(a.s.t, a.telemetry.Shutdown(a.s.t.Context()))
}

// labels returns what is made of a network namespace with processes of a pod.
func (a *agent) labels(uid, container string) map[string]any {
	a.s.t.Helper()
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.ScopeMetrics().AppendEmpty().Scope().SetName(receiverScope)
	res := rm.Resource().Attributes()
	res.PutInt(keyInode, 4026532345)
	res.PutStr(keyPodUID, uid)
	if container != "" {
		res.PutStr("container.id", container)
	}
	a.passed.Reset()
	require.NoError(a.s.t, a.metrics.ConsumeMetrics(a.s.t.Context(), md))
	return a.passed.AllMetrics()[0].ResourceMetrics().At(0).Resource().Attributes().AsRaw()
}

// name returns the labels namespace and pod.
func (a *agent) name(uid, container string) string {
	labels := a.labels(uid, container)
	return fmt.Sprint(labels["namespace"], "/", labels["pod"])
}

// destination returns the namespace and name of the pod that an event's destination is told to be.
func (a *agent) destination(ip string, when time.Time) string {
	a.s.t.Helper()
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutInt(keyInode, 4026532345)
	rec := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	rec.SetTimestamp(pcommon.NewTimestampFromTime(when))
	rec.Attributes().PutStr("event.name", "TCP_RCV_RST_ESTAB")
	rec.Attributes().PutStr(keyDestination, ip)
	a.events.Reset()
	require.NoError(a.s.t, a.logs.ConsumeLogs(a.s.t.Context(), ld))
	attrs := a.events.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes()
	return text(attrs, "destination.k8s.namespace.name") + "/" + text(attrs, "destination.k8s.pod.name")
}

// connected returns what own telemetry tells of the API server.
func (a *agent) connected() bool {
	return a.gauge("otelcol_netexporter.k8spod.api.connected") == 1
}

func (a *agent) gauge(name string) int64 {
	a.s.t.Helper()
	got, err := a.telemetry.GetMetric(name)
	require.NoError(a.s.t, err)
	data, ok := got.Data.(metricdata.Gauge[int64])
	require.True(a.s.t, ok, name)
	require.Len(a.s.t, data.DataPoints, 1, name)
	return data.DataPoints[0].Value
}

func TestAPIServer(t *testing.T) {
	s := newAPIServer(t)
	s.start()
	s.allow()
	old := s.create("worker-1", "web", containerID, "10.1.0.5", "fd00::5")
	foreign := s.create("worker-2", "foreign", otherID, "10.1.1.5")
	a := newAgent(s)
	defer a.shutdown()

	// Start has waited for the list, so that nothing is unnamed even in the first pass.
	assert.Equal(t, map[string]any{
		"network.netns.inode": int64(4026532345), "k8s.pod.uid": string(old.UID),
		"namespace": "default", "pod": "web", "netns": "ns4026532345", "node": "host-1",
		"k8s.namespace.name": "default", "k8s.pod.name": "web", "k8s.node.name": "worker-1",
		"k8s.pod.ip": "10.1.0.5", "k8s.pod.ips": []any{"10.1.0.5", "fd00::5"}, "k8s.pod.label.app": "web",
	}, a.labels(string(old.UID), ""))
	assert.Equal(t, "default/web", a.name("00000000-0000-0000-0000-000000000000", containerID))
	assert.Equal(t, "/", a.name(string(foreign.UID), ""), "a pod of another node")
	assert.True(t, a.connected())
	assert.EqualValues(t, 1, a.gauge("otelcol_netexporter.k8spod.pods"))
	assert.EqualValues(t, 1, a.gauge("otelcol_netexporter.k8spod.unnamed"))

	// Two processors ask once, and for the pods of this node alone. An API server or etcd that does not stream lists, as
	// etcd before 3.5.13, refuses the first watch.
	verbs := map[string]int{}
	for _, asked := range s.requests() {
		verb, what, _ := strings.Cut(asked, " ")
		assert.Equal(t, "/api/v1/pods spec.nodeName=worker-1", what)
		verbs[verb]++
	}
	assert.LessOrEqual(t, verbs["list"], 1)
	assert.LessOrEqual(t, verbs["watch"], 1+verbs["list"])

	// Gone and made anew under the same name and address.
	s.delete("web")
	s.eventually(func() bool { return a.gauge("otelcol_netexporter.k8spod.tombstones") == 1 }, "the end of a pod is seen")
	assert.Equal(t, "default/web", a.name(string(old.UID), ""))
	again := s.create("worker-1", "web", otherID, "10.1.0.5")
	s.eventually(func() bool { return a.name(string(again.UID), "") == "default/web" }, "the new pod is seen")
	assert.Equal(t, "default/web", a.name(string(old.UID), ""))

	// The API server dies.
	s.stop()
	s.eventually(func() bool { return !a.connected() }, "the outage is seen")
	assert.Equal(t, "default/web", a.name(string(again.UID), ""))
	fresh := "11111111-2222-3333-4444-555555555555"
	assert.Equal(t, "/", a.name(fresh, ""))
	require.NoError(t, os.MkdirAll(filepath.Join(a.root, "var/log/pods", "default_fresh_"+fresh), 0o755))
	assert.Equal(t, "default/fresh", a.name(fresh, ""))

	// It comes back, and the agent with it.
	s.start()
	s.delete("web")
	late := s.create("worker-1", "late", otherID)
	s.eventually(func() bool { return a.name(string(late.UID), "") == "default/late" }, "the API server is found again")
	assert.True(t, a.connected())
	assert.Equal(t, "default/web", a.name(string(again.UID), ""), "a pod of before the outage, deleted")
}

// At boot the agent may start before the API server, and it may lack the right. It names pods as soon as that is put
// right.
func TestAPIServerLater(t *testing.T) {
	s := newAPIServer(t)
	a := newAgent(s)
	defer a.shutdown()
	assert.False(t, a.connected())

	s.start()
	pod := s.create("worker-1", "web", containerID)
	s.eventually(func() bool { return len(s.requests()) > 0 }, "the API server is found")
	assert.False(t, a.connected())
	assert.Equal(t, "/", a.name(string(pod.UID), ""))
	s.allow()
	s.eventually(func() bool { return a.name(string(pod.UID), "") == "default/web" }, "the right is used")
	assert.True(t, a.connected())
}

// The other side of an event is told by its address, at the time of the event.
func TestAPIServerAddresses(t *testing.T) {
	s := newAPIServer(t)
	s.start()
	s.allow()
	s.create("worker-1", "web", containerID, "10.1.0.5", "fd00::5")
	a := newAgent(s)
	defer a.shutdown()
	for _, ip := range []string{"10.1.0.5", "fd00::5"} {
		assert.Equal(t, "default/web", a.destination(ip, time.Now()), ip)
	}
	assert.Equal(t, "/", a.destination("10.1.0.5", time.Now().Add(-time.Hour)))
	s.delete("web")
	s.eventually(func() bool { return a.gauge("otelcol_netexporter.k8spod.tombstones") == 1 }, "the end of a pod is seen")
	assert.Equal(t, "default/web", a.destination("10.1.0.5", time.Now()), "the last packets")
}

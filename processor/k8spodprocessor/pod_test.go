// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/pdata/pcommon"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	uid        = "8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a7b3c"
	mirrorUID  = "bb9517db-0f61-4f43-a9a0-4d2d28b7d0de"
	staticUID  = "243fd2b0aa11bb22cc33dd44ee55ff66"
	otherID    = "f23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0"
	podAddress = "10.1.0.5"
)

// epoch is a time of which the API server tells no fractions.
var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func at(s float64) metav1.Time {
	return metav1.NewTime(epoch.Add(time.Duration(s * float64(time.Second))))
}

// apiPod returns a running pod as the API server has it.
func apiPod(uid, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	start := at(0)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(uid), CreationTimestamp: start},
		Spec:       corev1.PodSpec{NodeName: "worker-1"},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: &start,
			PodIP: podAddress, PodIPs: []corev1.PodIP{{IP: podAddress}, {IP: "fd00::5"}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func TestStaticPodHasTwoUIDs(t *testing.T) {
	p := newPod(apiPod(mirrorUID, "kube-proxy-worker-1", func(p *corev1.Pod) {
		p.Annotations = map[string]string{"kubernetes.io/config.mirror": staticUID, "kubernetes.io/config.hash": staticUID}
	}), nil)
	assert.Equal(t, []string{mirrorUID, staticUID}, p.uids)
}

func TestContainersOfPod(t *testing.T) {
	p := newPod(apiPod(uid, "a", func(p *corev1.Pod) {
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{ContainerID: "containerd://1"}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{
			{ContainerID: "cri-o://2"},
			{ContainerID: "docker://3", LastTerminationState: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ContainerID: "docker://4"},
			}},
			{}, // not yet created
		}
		p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{ContainerID: "containerd://5"}}
	}), nil)
	assert.Equal(t, []string{"1", "2", "3", "4", "5"}, p.containers)
}

func TestAddressesOfPod(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*corev1.Pod)
		want   []netip.Addr
		told   map[string]any
	}{
		{
			"dual stack",
			func(*corev1.Pod) {},
			addrs(podAddress, "fd00::5"),
			map[string]any{"k8s.pod.ip": podAddress, "k8s.pod.ips": []any{podAddress, "fd00::5"}},
		},
		{
			"old API server",
			func(p *corev1.Pod) { p.Status.PodIPs = nil },
			addrs(podAddress),
			map[string]any{"k8s.pod.ip": podAddress, "k8s.pod.ips": []any{podAddress}},
		},
		{"none yet", func(p *corev1.Pod) { p.Status.PodIPs, p.Status.PodIP = nil, "" }, nil, map[string]any{}},
		{
			"network of the host",
			func(p *corev1.Pod) { p.Spec.HostNetwork = true },
			nil,
			map[string]any{"k8s.pod.ip": podAddress, "k8s.pod.ips": []any{podAddress, "fd00::5"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPod(apiPod(uid, "a", tt.change), nil)
			assert.Equal(t, tt.want, p.addrs)
			assert.Equal(t, tt.told, p.more.AsRaw())
		})
	}
}

func TestWorkload(t *testing.T) {
	for _, tt := range []struct {
		kind, name, hash string
		want             map[string]any
	}{
		{"ReplicaSet", "web-5775dfdc77", "5775dfdc77", map[string]any{"k8s.replicaset.name": "web-5775dfdc77", "k8s.deployment.name": "web"}},
		{"ReplicaSet", "by-hand", "", map[string]any{"k8s.replicaset.name": "by-hand"}},
		{"ReplicaSet", "by-hand-1", "2", map[string]any{"k8s.replicaset.name": "by-hand-1"}},
		{"DaemonSet", "proxy", "", map[string]any{"k8s.daemonset.name": "proxy"}},
		{"StatefulSet", "db", "", map[string]any{"k8s.statefulset.name": "db"}},
		{"Job", "backup-29384720", "", map[string]any{"k8s.job.name": "backup-29384720", "k8s.cronjob.name": "backup"}},
		{"Job", "migrate-2", "", map[string]any{"k8s.job.name": "migrate-2"}},
		{"Node", "worker-1", "", map[string]any{}},
	} {
		t.Run(tt.kind+" "+tt.name, func(t *testing.T) {
			yes := true
			p := newPod(apiPod(uid, "a", func(p *corev1.Pod) {
				p.OwnerReferences = []metav1.OwnerReference{{Kind: tt.kind, Name: tt.name, Controller: &yes}}
				p.Labels = map[string]string{"pod-template-hash": tt.hash}
			}), nil)
			got := p.attrs.AsRaw()
			for key, want := range map[string]any{
				"k8s.pod.name": "a", "k8s.pod.uid": uid, "k8s.namespace.name": "default", "k8s.node.name": "worker-1",
			} {
				assert.Equal(t, want, got[key])
				delete(got, key)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestPodLabels(t *testing.T) {
	labels := map[string]string{"app": "web", "app.kubernetes.io/name": "shop", "app.kubernetes.io-name": "hop", "tier": ""}
	for _, tt := range []struct {
		name string
		keys podLabels
		want map[string]any
	}{
		{"none", nil, map[string]any{}},
		{"some", podLabels{"tier", "app", "missing"}, map[string]any{"k8s.pod.label.app": "web", "k8s.pod.label.tier": ""}},
		// The Prometheus exporter would print two of them alike, and leave out the series.
		{"all", podLabels{"*"}, map[string]any{"k8s.pod.label.app": "web", "k8s.pod.label.tier": "", "k8s.pod.label.app.kubernetes.io-name": "hop"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := pcommon.NewMap()
			tt.keys.put(got, labels)
			assert.Equal(t, tt.want, got.AsRaw())
		})
	}
}

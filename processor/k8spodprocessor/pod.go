// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
)

// keyPodLabel is the prefix of the attributes that are labels of the pod, after semantic conventions.
const keyPodLabel = "k8s.pod.label."

// pod is what is kept of a Kubernetes pod. It does not change, but for ended and deleted, which belong to the table.
type pod struct {
	name, namespace string
	// uids are the spellings of its UID: that of the API server and, if it is a static pod, that of the kubelet and of
	// cgroup paths.
	uids []string
	// containers are the ids of its containers, without the runtime's name.
	containers []string
	// addrs are its addresses, IPv4 and IPv6; none if it is in the network of the host, whose they are then.
	addrs []netip.Addr
	// started is when the kubelet took it up, ended when its last container did, or zero. A second is all that
	// the API server knows; both are on the safe side.
	started, ended time.Time
	// deleted is when the API server forgot it, zero if it has not.
	deleted time.Time

	// attrs are resource attributes; more those of verbose metrics and of logs.
	attrs, more pcommon.Map
}

// newPod returns what is kept of a pod.
func newPod(p *corev1.Pod, labels podLabels) *pod {
	kept := &pod{
		name: p.Name, namespace: p.Namespace, uids: []string{string(p.UID)},
		started: p.CreationTimestamp.Time, more: pcommon.NewMap(),
	}
	if p.Status.StartTime != nil {
		kept.started = p.Status.StartTime.Time
	}
	// The API server shows static pods by mirrors, which have a UID of their own.
	if uid := p.Annotations[corev1.MirrorPodAnnotationKey]; uid != "" && uid != string(p.UID) {
		kept.uids = append(kept.uids, uid)
	}
	finished := p.CreationTimestamp.Time
	for _, statuses := range [][]corev1.ContainerStatus{
		p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses,
	} {
		for i := range statuses {
			kept.addContainer(statuses[i].ContainerID)
			for _, end := range []*corev1.ContainerStateTerminated{
				statuses[i].State.Terminated, statuses[i].LastTerminationState.Terminated,
			} {
				if end != nil {
					kept.addContainer(end.ContainerID)
					if end.FinishedAt.After(finished) {
						finished = end.FinishedAt.Time
					}
				}
			}
		}
	}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		kept.ended = finished.Add(time.Second) // it is cut off
	}

	rb := metadata.NewResourceBuilder(metadata.DefaultResourceAttributesConfig())
	rb.SetK8sPodName(p.Name)
	rb.SetK8sPodUID(string(p.UID))
	rb.SetK8sNamespaceName(p.Namespace)
	if p.Spec.NodeName != "" {
		rb.SetK8sNodeName(p.Spec.NodeName)
	}
	setWorkload(rb, p)
	kept.attrs = rb.Emit().Attributes()

	kept.setAddresses(p)
	labels.put(kept.more, p.Labels)
	return kept
}

// addContainer takes note of a container id, "containerd://<id>" or empty.
func (p *pod) addContainer(id string) {
	if _, id, _ = strings.Cut(id, "://"); id != "" && !slices.Contains(p.containers, id) {
		p.containers = append(p.containers, id)
	}
}

// setAddresses takes note of the addresses of a pod. Those of a pod in the network of the host are not its own.
func (p *pod) setAddresses(from *corev1.Pod) {
	ips := from.Status.PodIPs
	if len(ips) == 0 && from.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: from.Status.PodIP}}
	}
	if len(ips) == 0 {
		return
	}
	rb := metadata.NewResourceBuilder(metadata.DefaultResourceAttributesConfig())
	rb.SetK8sPodIP(ips[0].IP)
	var all []any
	for _, ip := range ips {
		all = append(all, ip.IP)
		if addr, err := netip.ParseAddr(ip.IP); err == nil && !from.Spec.HostNetwork {
			p.addrs = append(p.addrs, addr.Unmap())
		}
	}
	rb.SetK8sPodIps(all)
	rb.Emit().Attributes().MoveTo(p.more)
}

// ofCronJob is the name that a CronJob gives to its Jobs: its own, and the time in minutes since 1970.
var ofCronJob = regexp.MustCompile(`^(.+)-\d{8,}$`)

// setWorkload sets what controls a pod, and what controls that, as far as the pod's own metadata tells.
func setWorkload(rb *metadata.ResourceBuilder, p *corev1.Pod) {
	owner := metav1.GetControllerOf(p)
	if owner == nil {
		return
	}
	switch owner.Kind {
	case "ReplicaSet":
		rb.SetK8sReplicasetName(owner.Name)
		// The Deployment puts the hash that ends the ReplicaSet's name on the pods, too.
		hash := p.Labels["pod-template-hash"]
		if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" {
			rb.SetK8sDeploymentName(name)
		}
	case "DaemonSet":
		rb.SetK8sDaemonsetName(owner.Name)
	case "StatefulSet":
		rb.SetK8sStatefulsetName(owner.Name)
	case "Job":
		rb.SetK8sJobName(owner.Name)
		if m := ofCronJob.FindStringSubmatch(owner.Name); m != nil {
			rb.SetK8sCronjobName(m[1])
		}
	}
}

// podLabels are the keys of the labels of pods that become attributes; the key "*" stands for all.
type podLabels []string

// put adds the labels to attributes. Of keys that the Prometheus exporter would print alike, as it has an underscore for
// any run of other signs, the first in the alphabet is taken: it leaves out series that have two labels of one name.
func (l podLabels) put(attrs pcommon.Map, labels map[string]string) {
	all := slices.Contains(l, "*")
	var taken []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if !all && !slices.Contains(l, key) {
			continue
		}
		printed := strings.Join(strings.FieldsFunc(key, func(r rune) bool { return strings.ContainsRune("-_./", r) }), "_")
		if !slices.Contains(taken, printed) {
			taken = append(taken, printed)
			attrs.PutStr(keyPodLabel+key, labels[key])
		}
	}
}

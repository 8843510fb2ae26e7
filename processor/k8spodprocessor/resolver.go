// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

// pod is what the labels need to know of a Kubernetes pod.
type pod struct {
	name, namespace string
}

// resolver knows the pods of this node. It must serve concurrent calls and not block.
type resolver interface {
	// lookup returns the pod of the UID or, where the UID is empty or unknown, of the container id; one of them may be empty.
	// The UID is spelled as in the cgroup path, which for a static pod is not that of the API. Neither is ever
	// given to another pod, so that a lookup needs no time.
	lookup(uid, containerID string) (pod, bool)
}

// noPods is the resolver of a host where no pods are known.
type noPods struct{}

func (noPods) lookup(string, string) (pod, bool) { return pod{}, false }

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bufio"
	"io"
	"path"
	"strings"
)

// Owner is the container and the pod that a process belongs to, as the path of its cgroup tells.
// That path is the container runtime's and kubelet's doing and needs neither's socket.
type Owner struct {
	// ContainerID is the full id, 64 hexadecimal digits; empty outside containers.
	ContainerID string
	// PodUID is the UID of the pod: as the API server knows it, except for static pods, whose
	// UID here is their configuration's hash. Empty outside pods.
	PodUID string
}

const (
	containerIDLen = 64
	uuidLen        = 36 // 8-4-4-4-12
	staticUIDLen   = 32 // no dashes
)

// parseOwner reads /proc/<pid>/cgroup, lines "hierarchy:controllers:path", cgroups(7). All
// hierarchies of a process that is in a container name the same one. Paths of version 2 begin at begin.
func parseOwner(r io.Reader, begin string) (Owner, error) {
	scanner := bufio.NewScanner(r)
	var owner Owner
	for scanner.Scan() {
		parts := strings.SplitN(scanner.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[0] == "0" {
			parts[2] = path.Join(begin, parts[2])
		}
		o := ownerOf(parts[2])
		if owner.PodUID == "" && (o.PodUID != "" || owner.ContainerID == "") {
			owner = o
		}
	}
	return owner, scanner.Err()
}

// ownerOf parses one path:
//
//	/kubepods/burstable/pod<uid>/<id>                                  cgroupfs driver
//	/kubepods.slice/.../kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope  systemd driver
//	/system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<id>  systemd driver of the kubelet alone
//	/docker/<id>, /system.slice/docker-<id>.scope, /libpod-<id>.scope  without Kubernetes
//
// Of nested containers (Kubernetes in Docker) it takes the innermost.
func ownerOf(path string) Owner {
	var owner Owner
	for segment := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == ':' }) {
		segment = strings.TrimSuffix(strings.TrimSuffix(segment, ".slice"), ".scope")
		if uid := podUID(segment); uid != "" {
			owner = Owner{PodUID: uid}
			continue
		}
		id := segment[strings.LastIndexByte(segment, '-')+1:]
		if len(id) == containerIDLen && isHex(id) {
			owner.ContainerID = id
		}
	}
	return owner
}

// podUID returns the UID in a segment "pod<uid>" or "kubepods-<qos>-pod<uid>", in which systemd has
// the dashes of the UID written as underscores.
func podUID(segment string) string {
	i := strings.LastIndex(segment, "pod")
	if i < 0 || i > 0 && segment[i-1] != '-' {
		return ""
	}
	uid := strings.ReplaceAll(segment[i+len("pod"):], "_", "-")
	switch len(uid) {
	case uuidLen:
		for _, dash := range []int{8, 13, 18, 23} {
			if uid[dash] != '-' {
				return ""
			}
		}
		if !isHex(strings.ReplaceAll(uid, "-", "")) {
			return ""
		}
	case staticUIDLen:
		if !isHex(uid) {
			return ""
		}
	default:
		return ""
	}
	return uid
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

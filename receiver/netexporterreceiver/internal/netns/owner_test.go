// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"strings"
	"testing"
)

const (
	id     = "3f2a8f7d0c3b4ab0b8f6b0f2a0f1e2d3c4b5a6978899aabbccddeeff00112233"
	uid    = "8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a7b3c"
	static = "243fd2b0aa11bb22cc33dd44ee55ff66"
)

// Paths as runtimes and kubelets make them, with cgroups of either version.
func TestOwner(t *testing.T) {
	underscored := strings.ReplaceAll(uid, "-", "_")
	slice := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underscored + ".slice/"
	node := strings.Repeat("a", 64)
	for path, want := range map[string]Owner{
		// cgroupfs driver: containerd and docker, CRI-O; a guaranteed pod has no class; a static pod.
		"/kubepods/besteffort/pod" + uid + "/" + id:                 {id, uid},
		"/kubepods/burstable/pod" + uid + "/" + id:                  {id, uid},
		"/kubepods/pod" + uid + "/" + id:                            {id, uid},
		"/kubepods/burstable/pod" + uid + "/crio-" + id:             {id, uid},
		"/kubepods/burstable/pod" + uid + "/crio-conmon-" + id:      {id, uid},
		"/kubepods/burstable/pod" + static + "/" + id:               {id, static},
		"/kubepods/besteffort/pod" + uid:                            {"", uid},
		"/kubepods/besteffort/pod" + uid + "/" + id + "/init.scope": {id, uid}, // systemd in a container

		// systemd driver: containerd, CRI-O with runc and crun, docker; a guaranteed pod; a static pod.
		slice + "cri-containerd-" + id + ".scope":                                     {id, uid},
		slice + "crio-" + id + ".scope":                                               {id, uid},
		slice + "crio-" + id + ".scope/container":                                     {id, uid},
		slice + "docker-" + id + ".scope":                                             {id, uid},
		"/kubepods.slice/kubepods-pod" + underscored + ".slice/crio-" + id + ".scope": {id, uid},
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + static + ".slice/cri-containerd-" + id + ".scope": {id, static},
		// Of the kubelet alone, while containerd has the cgroupfs driver.
		"/system.slice/containerd.service/kubepods-besteffort-pod" + underscored + ".slice:cri-containerd:" + id: {id, uid},

		// Seen from the cgroup namespace of another pod, of another class and of the same.
		"/../../../kubepods-besteffort.slice/kubepods-besteffort-pod" + underscored + ".slice/cri-containerd-" + id + ".scope": {id, uid},
		"/../../pod" + uid + "/" + id: {id, uid},
		"/../" + id:                   {id, ""}, // of the own pod

		// Kubernetes in Docker: kind, with both drivers, and k3d.
		"/docker/" + node + "/kubelet/kubepods/pod" + uid + "/" + id: {id, uid},
		"/docker/" + node + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" +
			underscored + ".slice/cri-containerd-" + id + ".scope": {id, uid},
		"/system.slice/docker-" + node + ".scope/kubepods/burstable/pod" + uid + "/" + id: {id, uid},
		"/docker/" + node + "/system.slice/containerd.service":                            {node, ""},

		// Without Kubernetes.
		"/docker/" + id:                                    {id, ""},
		"/system.slice/docker-" + id + ".scope":            {id, ""},
		"/machine.slice/libpod-" + id + ".scope/container": {id, ""},
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-payload-" + id: {id, ""},
		"/system.slice/podman-4711.scope/libpod-payload-" + id:                          {id, ""},
		"/default/" + id: {id, ""}, // ctr, nerdctl
		"/":              {},
		"/..":            {},
		"/user.slice/user-0.slice/session-1.scope":           {},
		"/system.slice/kubelet.service":                      {},
		"/podman/podium/pod123":                              {},
		"/kubepods/besteffort/pod" + strings.Repeat("g", 36): {},
		"/docker/" + id[:63]:                                 {},
	} {
		if got := ownerOf(path); got != want {
			t.Errorf("owner of %s is %+v, want %+v", path, got, want)
		}
	}
}

func TestParseOwner(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     Owner
		begin    string
	}{
		{
			"both versions, as containerd leaves them", "11:freezer:/kubepods/burstable/pod" + uid + "/" + id + "\n" +
				"10:cpu,cpuacct:/kubepods/burstable/pod" + uid + "/" + id + "\n" +
				"1:name=systemd:/kubepods/burstable/pod" + uid + "/" + id + "\n0::/kubepods/burstable/pod" + uid + "/" + id + "\n",
			Owner{id, uid},
			"",
		},
		{
			"version 1 with systemd", "12:rdma:/\n11:memory:/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/crio-" + id + ".scope\n" +
				"1:name=systemd:/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/crio-" + id + ".scope\n0::/system.slice/crio.service\n",
			Owner{id, uid},
			"",
		},
		{"v2", "0::/kubepods/besteffort/pod" + uid + "/" + id + "\n", Owner{id, uid}, ""},
		{"v1", "9:name=systemd:/\n4:memory:/kubepods/besteffort/pod" + uid + "/" + id + "\n0::/\n", Owner{id, uid}, ""},
		{"the pod before the container", "2:cpu:/docker/" + id + "\n1:memory:/kubepods/pod" + uid + "/" + id + "\n", Owner{id, uid}, ""},
		{"host", "9:name=systemd:/\n0::/system.slice/sshd.service\n", Owner{}, ""},
		{"own pod, from its cgroup namespace", "0::/../" + id + "\n", Owner{id, uid}, "/kubepods/pod" + uid + "/" + strings.Repeat("a", 64)},
		{"own container", "0::/\n", Owner{id, uid}, "/kubepods/pod" + uid + "/" + id},
		{
			"another pod", "0::/../../../besteffort/pod" + uid + "/" + id + "\n",
			Owner{id, uid},
			"/kubepods/burstable/pod" + static + "/" + strings.Repeat("a", 64),
		},
		{"the host", "0::/../../../../system.slice/sshd.service\n", Owner{}, "/kubepods/burstable/pod" + static + "/" + id},
		{"version 1 has no part in it", "1:cpu:/user.slice\n", Owner{}, "/kubepods/pod" + uid + "/" + id},
		{"garbage", "nonsense\n::\n", Owner{}, ""},
	} {
		got, err := parseOwner(strings.NewReader(test.in), test.begin)
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
}

func FuzzParseOwner(f *testing.F) {
	f.Add("0::/kubepods/besteffort/pod" + uid + "/" + id + "\n")
	f.Add("0::/kubepods-burstable-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/crio-" + id + ".scope")
	f.Fuzz(func(t *testing.T, in string) {
		o, _ := parseOwner(strings.NewReader(in), "")
		if o.ContainerID != "" && (len(o.ContainerID) != containerIDLen || !isHex(o.ContainerID)) {
			t.Fatalf("container id %q", o.ContainerID)
		}
		if o.PodUID != "" && len(o.PodUID) != uuidLen && len(o.PodUID) != staticUIDLen {
			t.Fatalf("pod UID %q", o.PodUID)
		}
	})
}

func TestParseStartTime(t *testing.T) {
	got, err := parseStartTime([]byte("77 (a b) c)) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1"))
	if err != nil || got != 4711 {
		t.Fatalf("got %d, %v", got, err)
	}
}

func FuzzParseStartTime(f *testing.F) {
	f.Add([]byte("77 (a b) c)) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1"))
	f.Fuzz(func(_ *testing.T, in []byte) { _, _ = parseStartTime(in) })
}

func FuzzDecodeTasks(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, in []byte) {
		if tasks, err := decodeTasks(nil, in); err == nil && len(in) > 0 && len(tasks) == 0 {
			t.Fatal("bytes without a task and without an error")
		}
	})
}

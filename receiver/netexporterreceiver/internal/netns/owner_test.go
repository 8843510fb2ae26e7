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

func TestOwner(t *testing.T) {
	underscored := strings.ReplaceAll(uid, "-", "_")
	for path, want := range map[string]Owner{
		"/kubepods/besteffort/pod" + uid + "/" + id:   {id, uid},
		"/kubepods/pod" + uid + "/" + id:              {id, uid},
		"/kubepods/burstable/pod" + static + "/" + id: {id, static},
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underscored + ".slice/cri-containerd-" + id + ".scope": {id, uid},
		"/kubepods.slice/kubepods-pod" + underscored + ".slice/crio-" + id + ".scope":                                              {id, uid},
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + underscored + ".slice/docker-" + id + ".scope":       {id, uid},
		"/system.slice/containerd.service/kubepods-besteffort-pod" + underscored + ".slice:cri-containerd:" + id:                   {id, ""},
		"/kubepods/besteffort/pod" + uid:                            {"", uid},
		"/kubepods/besteffort/pod" + uid + "/" + id + "/init.scope": {id, uid},
		"/docker/" + id:                          {id, ""},
		"/system.slice/docker-" + id + ".scope":  {id, ""},
		"/machine.slice/libpod-" + id + ".scope": {id, ""},
		"/docker/" + strings.Repeat("a", 64) + "/kubelet/kubepods/pod" + uid + "/" + id: {id, uid},
		"/": {},
		"/user.slice/user-0.slice/session-1.scope":           {},
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
	}{
		{"v2", "0::/kubepods/besteffort/pod" + uid + "/" + id + "\n", Owner{id, uid}},
		{"v1", "9:name=systemd:/\n4:memory:/kubepods/besteffort/pod" + uid + "/" + id + "\n0::/\n", Owner{id, uid}},
		{"the pod before the container", "2:cpu:/docker/" + id + "\n1:memory:/kubepods/pod" + uid + "/" + id + "\n", Owner{id, uid}},
		{"host", "9:name=systemd:/\n0::/system.slice/sshd.service\n", Owner{}},
		{"garbage", "nonsense\n::\n", Owner{}},
	} {
		got, err := parseOwner(strings.NewReader(test.in))
		if err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
}

func FuzzParseOwner(f *testing.F) {
	f.Add("0::/kubepods/besteffort/pod" + uid + "/" + id + "\n")
	f.Add("0::/kubepods-burstable-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/crio-" + id + ".scope")
	f.Fuzz(func(t *testing.T, in string) {
		o, _ := parseOwner(strings.NewReader(in))
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

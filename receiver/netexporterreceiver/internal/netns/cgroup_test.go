// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// makeCgroup makes a directory of cgroups below root and returns its inode number.
func makeCgroup(t *testing.T, root, path string) uint64 {
	t.Helper()
	dir := filepath.Join(root, "sys/fs/cgroup", path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestCgroups(t *testing.T) {
	root := t.TempDir()
	pod := makeCgroup(t, root, "kubepods/burstable/pod"+uid)
	container := makeCgroup(t, root, "kubepods/burstable/pod"+uid+"/"+id)
	service := makeCgroup(t, root, "system.slice/sshd.service")
	if err := os.WriteFile(filepath.Join(root, "sys/fs/cgroup/cgroup.controllers"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := NewCgroups(root)
	now := time.Now()
	c.now = func() time.Time { return now }
	expect := func(id uint64, want Owner) {
		t.Helper()
		if got := c.Owner(id); got != want {
			t.Errorf("owner of %d is %+v, want %+v", id, got, want)
		}
	}
	expect(container, Owner{ContainerID: id, PodUID: uid})
	expect(pod, Owner{PodUID: uid})
	expect(service, Owner{})

	// A new one is not looked for at once, but as soon as it may be.
	other := makeCgroup(t, root, "docker/"+id)
	expect(other, Owner{})
	now = now.Add(cgroupPause)
	expect(other, Owner{ContainerID: id})

	// What was met keeps its owner; what is asked for in vain is not looked for again.
	if err := os.RemoveAll(filepath.Join(root, "sys/fs/cgroup/kubepods")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(cgroupPause)
	expect(1<<40, Owner{})
	looked := c.looked
	now = now.Add(cgroupPause)
	expect(1<<40, Owner{})
	expect(container, Owner{ContainerID: id, PodUID: uid})
	if c.looked != looked {
		t.Error("looked again for one that was not there")
	}
}

func TestNoCgroups(t *testing.T) {
	if got := NewCgroups(t.TempDir()).Owner(1); got != (Owner{}) {
		t.Errorf("got %+v", got)
	}
}

// In a container the paths of cgroups begin at the container's own.
func TestCgroupNamespace(t *testing.T) {
	own := "/kubepods/burstable/pod" + uid + "/" + id
	for _, test := range []struct{ name, shown, in, want string }{
		{"host", "/system.slice/netexporter.service", "/system.slice/netexporter.service", ""},
		{"container", "/", own, own},
		{"cgroup within a container", "/init.scope", own + "/init.scope", own},
		{"no such process in the tree", "/", "", ""},
	} {
		root := t.TempDir()
		for path, content := range map[string]string{
			"sys/fs/cgroup/cgroup.controllers":                     "cpu memory\n",
			"sys/fs/cgroup/kubepods/besteffort/other/cgroup.procs": "1\n2\n",
			"sys/fs/cgroup/" + test.in + "/cgroup.procs":           "1\n" + strconv.Itoa(os.Getpid()) + "\n",
			"proc/self/cgroup":                                     "1:name=systemd:/x\n0::" + test.shown + "\n",
		} {
			if test.in == "" && strings.HasSuffix(content, strconv.Itoa(os.Getpid())+"\n") {
				continue
			}
			path = filepath.Join(root, path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if got := cgroupNamespace(root); got != test.want {
			t.Errorf("%s: begins at %q, want %q", test.name, got, test.want)
		}
	}
	if got := cgroupNamespace(t.TempDir()); got != "" {
		t.Errorf("without cgroups: %q", got)
	}
}

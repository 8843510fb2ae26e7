// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/netexporter/netexporter/internal/kernel"
)

// fakeSource is a host of which a test decides what is on it.
type fakeSource struct {
	rows   []Row
	tasks  []Task
	host   ID
	passes int
	looks  int
	look   func() // what happens while tasks are read
	err    error
}

func (f *fakeSource) Rows(rows []Row) ([]Row, error) {
	f.passes++
	return append(rows, f.rows...), f.err
}

func (f *fakeSource) Tasks(tasks []Task) ([]Task, error) {
	f.looks++
	if f.look != nil {
		f.look()
	}
	return append(tasks, f.tasks...), nil
}
func (f *fakeSource) Serves() []bool       { return nil }
func (f *fakeSource) Host() (ID, error)    { return f.host, nil }
func (f *fakeSource) Hooks() []kernel.Hook { return nil }
func (f *fakeSource) Close() error         { return nil }

type host struct {
	*fakeSource
	root string
	now  time.Time
	*Inventory
}

func newHost(t *testing.T) *host {
	h := &host{fakeSource: &fakeSource{host: ID{1, 100}}, root: t.TempDir(), now: time.Unix(1000, 0)}
	h.Inventory = NewInventory(h.fakeSource, h.root, nil)
	h.Inventory.now = func() time.Time { return h.now }
	h.Inventory.used = func() time.Duration { return h.now.Sub(time.Unix(0, 0)) }
	h.fakeSource.rows = []Row{{ID: ID{1, 100}}}
	return h
}

// add makes a namespace with processes, of which each is in a cgroup.
func (h *host) add(t *testing.T, ns ID, cgroups ...string) {
	t.Helper()
	h.fakeSource.rows = append(h.fakeSource.rows, Row{ID: ns})
	for _, cgroup := range cgroups {
		pid := 1000 + len(h.fakeSource.tasks)
		h.fakeSource.tasks = append(h.fakeSource.tasks, Task{NetNS: ns, TGID: pid, Start: uint64(pid)})
		h.write(t, fmt.Sprintf("proc/%d/cgroup", pid), "0::"+cgroup+"\n")
	}
}

func (h *host) write(t *testing.T, path, content string) {
	t.Helper()
	path = filepath.Join(h.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func (h *host) pass(t *testing.T) {
	t.Helper()
	if _, err := h.Pass(nil); err != nil {
		t.Fatal(err)
	}
}

func (h *host) want(t *testing.T, want Namespace) {
	t.Helper()
	if got, ok := h.Lookup(want.ID); !ok || got != want {
		t.Fatalf("got %+v (known: %t), want %+v", got, ok, want)
	}
}

func TestInventory(t *testing.T) {
	h := newHost(t)
	pod, docker, plain := ID{2, 101}, ID{3, 102}, ID{4, 103}
	h.add(t, pod, "/system.slice/containerd.service", "/kubepods/pod"+uid+"/"+id, "/docker/"+id)
	h.add(t, docker, "/docker/"+id)
	h.add(t, plain, "/user.slice")
	h.fakeSource.tasks = append(h.fakeSource.tasks, Task{NetNS: ID{1, 100}, TGID: 1})
	h.pass(t)
	h.want(t, Namespace{ID: ID{1, 100}, Host: true})
	h.want(t, Namespace{ID: pod, Owner: Owner{id, uid}})
	h.want(t, Namespace{ID: docker, Owner: Owner{ContainerID: id}})
	h.want(t, Namespace{ID: plain})
}

// A runtime starts a process before it moves it into the container's cgroup.
func TestOwnerIsFoundLater(t *testing.T) {
	h := newHost(t)
	ns := ID{2, 101}
	h.add(t, ns, "/system.slice/containerd.service")
	h.pass(t)
	h.want(t, Namespace{ID: ns})
	h.write(t, "proc/1000/cgroup", "0::/kubepods/pod"+uid+"/"+id+"\n")
	h.pass(t)
	h.want(t, Namespace{ID: ns, Owner: Owner{id, uid}})
}

// An event may come after the first process of a namespace and before the next pass.
func TestOwnerIsFoundForAnEvent(t *testing.T) {
	h := newHost(t)
	ns := ID{2, 101}
	h.add(t, ns)
	h.pass(t)
	h.want(t, Namespace{ID: ns})
	h.add(t, ns, "/kubepods/pod"+uid+"/"+id)
	h.want(t, Namespace{ID: ns}) // too soon
	h.now = h.now.Add(ownerPause)
	h.want(t, Namespace{ID: ns, Owner: Owner{id, uid}})

	// One namespace's events do not put off another's.
	first, second := ID{3, 102}, ID{4, 103}
	h.add(t, first)
	h.add(t, second)
	h.pass(t)
	h.add(t, first, "/kubepods/pod"+uid+"/"+id)
	h.add(t, second, "/kubepods/pod"+uid+"/"+id)
	h.want(t, Namespace{ID: first, Owner: Owner{id, uid}})
	h.want(t, Namespace{ID: second, Owner: Owner{id, uid}})
}

// Where nobody is known, events do not make it look for ever.
func TestOwnerIsNotAskedForEachEvent(t *testing.T) {
	h := newHost(t)
	ns := ID{2, 101}
	h.add(t, ns, "/user.slice")
	h.pass(t)
	for range 100 {
		h.now = h.now.Add(ownerPause)
		h.want(t, Namespace{ID: ns})
	}
	if asked := h.entries[ns].asked; asked != ownerTries {
		t.Errorf("asked %d times, want %d", asked, ownerTries)
	}
}

// Of a thousand namespaces that nobody lives in, metrics do not look for anybody, and events not for long.
func TestLooksTakeABoundedTime(t *testing.T) {
	h := newHost(t)
	const namespaces, look = 1000, 20 * time.Millisecond
	for i := range namespaces {
		h.add(t, ID{uint64(10 + i), uint32(1000 + i)})
	}
	h.pass(t)
	h.looks = 0
	for _, row := range h.fakeSource.rows {
		h.Namespace(row.ID)
	}
	if h.looks != 0 {
		t.Errorf("%d looks for metrics", h.looks)
	}
	h.fakeSource.look = func() { h.now = h.now.Add(look) }
	begin := h.now
	for range 100 {
		for _, row := range h.fakeSource.rows {
			h.Lookup(row.ID)
			h.Lookup(ID{row.ID.Cookie + 1e6, row.ID.Inode}) // new ones, too
		}
		h.now = h.now.Add(100 * time.Millisecond)
	}
	most := lookBurst + h.now.Sub(begin)/lookShare + look
	if got := time.Duration(h.looks) * look; got > most || got < most/2 {
		t.Errorf("%d looks took %v, want at most %v and more than half of it", h.looks, got, most)
	}
}

// Where Kubernetes runs in Docker, whatever is not yet in a pod is in the container that is the node.
func TestPodAfterItsNode(t *testing.T) {
	h := newHost(t)
	ns := ID{2, 101}
	node := "/docker/" + strings.Repeat("a", 64)
	h.add(t, ns, node+"/system.slice/containerd.service")
	h.pass(t)
	h.want(t, Namespace{ID: ns, Owner: Owner{ContainerID: strings.Repeat("a", 64)}})
	h.write(t, "proc/1000/cgroup", "0::"+node+"/kubelet/kubepods/burstable/pod"+uid+"/"+id+"\n")
	h.pass(t)
	h.want(t, Namespace{ID: ns, Owner: Owner{id, uid}})
}

// Without cookies a namespace that has got the inode of another cannot be told from it but by its processes.
func TestInodeReusedWithoutCookie(t *testing.T) {
	h := newHost(t)
	ns := ID{0, 101}
	h.add(t, ns, "/kubepods/pod"+uid+"/"+id, "/kubepods/pod"+uid+"/"+id)
	h.pass(t)
	h.want(t, Namespace{ID: ns, Owner: Owner{id, uid}})
	h.fakeSource.tasks = h.fakeSource.tasks[:1]
	h.pass(t)
	h.want(t, Namespace{ID: ns, Owner: Owner{id, uid}})
	h.fakeSource.tasks[0].TGID, h.fakeSource.tasks[0].Start = 2000, 2000
	h.write(t, "proc/2000/cgroup", "0::/kubepods/pod"+static+"/"+id+"\n")
	h.pass(t)
	h.want(t, Namespace{ID: ns, Owner: Owner{id, static}})
	h.fakeSource.tasks[0].TGID, h.fakeSource.tasks[0].Start = 3000, 3000
	h.write(t, "proc/3000/cgroup", "0::/user.slice\n")
	h.pass(t)
	h.want(t, Namespace{ID: ns})
}

func TestNamedNamespace(t *testing.T) {
	h := newHost(t)
	h.write(t, "run/netns/blue", "")
	info, err := os.Stat(filepath.Join(h.root, "run/netns/blue"))
	if err != nil {
		t.Fatal(err)
	}
	ns := ID{2, inodeOf(info)}
	h.add(t, ns)
	h.pass(t)
	h.want(t, Namespace{ID: ns, Name: "blue"})
}

// A namespace is there before it is named, and a pass may come in between.
func TestNameIsFoundForAnEvent(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.root, "elsewhere")
	h.write(t, "elsewhere", "")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	ns := ID{2, inodeOf(info)}
	h.add(t, ns)
	h.pass(t)
	h.write(t, "run/netns/other", "")
	if err := os.Rename(file, filepath.Join(h.root, "run/netns/blue")); err != nil {
		t.Fatal(err)
	}
	h.want(t, Namespace{ID: ns, Name: "blue"})
}

// The last events of a namespace come when it is gone; its inode may be another's by then.
func TestTombstone(t *testing.T) {
	h := newHost(t)
	old, next := ID{2, 101}, ID{3, 101}
	h.add(t, old, "/kubepods/pod"+uid+"/"+id)
	h.pass(t)
	h.fakeSource.rows, h.fakeSource.tasks = h.fakeSource.rows[:1], nil
	h.add(t, next)
	h.pass(t)
	h.want(t, Namespace{ID: old, Owner: Owner{id, uid}})
	h.want(t, Namespace{ID: next})
	h.now = h.now.Add(tombstone + time.Second)
	h.pass(t)
	if h.Known(old) {
		t.Error("a namespace is known long after it is gone")
	}
	if !h.Known(next) {
		t.Error("a living namespace is forgotten")
	}
}

func TestLookupFindsNewNamespacesAtOnce(t *testing.T) {
	h := newHost(t)
	h.pass(t)
	ns := ID{2, 101}
	h.add(t, ns, "/docker/"+id)
	h.want(t, Namespace{ID: ns, Owner: Owner{ContainerID: id}})
	passes := h.passes
	for range 100 { // what is not there is looked for once
		if _, ok := h.Lookup(ID{9, 999}); ok {
			t.Fatal("found what is not there")
		}
	}
	if h.passes != passes+1 {
		t.Errorf("%d passes for one unknown namespace", h.passes-passes)
	}
	if _, ok := h.Lookup(ID{}); ok || h.passes != passes+1 {
		t.Error("looked for no namespace")
	}
}

func TestPassFails(t *testing.T) {
	h := newHost(t)
	h.fakeSource.rows, h.fakeSource.err = nil, errors.New("no kernel today")
	if rows, err := h.Pass(nil); rows != nil || !errors.Is(err, h.fakeSource.err) {
		t.Fatalf("got %v, %v", rows, err)
	}
}

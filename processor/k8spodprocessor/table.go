// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// tombstone is how long a pod that is gone is known by its UID, its containers and its addresses after it was
// last asked for. The receiver keeps a network namespace for a minute after its end.
const tombstone = 2 * time.Minute

// table holds the pods of a node. It is the store of a reflector, so that there is one copy of them, and that a small one.
type table struct {
	labels podLabels
	now    func() time.Time
	// changed is called, if it is not nil, after the pods were brought up to date.
	changed func()

	mu          sync.RWMutex
	byUID       map[string]*pod // all spellings
	byContainer map[string]*pod
	byAddr      map[netip.Addr][]*pod // in the order of their arrival
	// gone are the pods that the API server has deleted, with the time of their end or last use.
	gone map[*pod]time.Time
	live int
}

var (
	_ cache.ReflectorStore         = (*table)(nil)
	_ cache.ReflectorBookmarkStore = (*table)(nil)
)

func newTable(labels podLabels, changed func()) *table {
	return &table{
		labels: labels, now: time.Now, changed: changed,
		byUID: map[string]*pod{}, byContainer: map[string]*pod{}, byAddr: map[netip.Addr][]*pod{}, gone: map[*pod]time.Time{},
	}
}

// Add takes a new pod.
func (t *table) Add(obj any) error { return t.update(obj, t.put) }

// Update takes a new state of a pod.
func (t *table) Update(obj any) error { return t.update(obj, t.put) }

// Delete makes a pod a tombstone.
func (t *table) Delete(obj any) error { return t.update(obj, t.bury) }

func (t *table) update(obj any, do func(*pod)) error {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("expected a pod, got %T", obj)
	}
	kept := newPod(p, t.labels)
	t.mu.Lock()
	do(kept)
	t.sweep()
	t.mu.Unlock()
	t.tell()
	return nil
}

// Replace takes all pods that there are; those that are not among them are gone.
func (t *table) Replace(objs []any, _ string) error {
	there := make(map[string]*pod, len(objs))
	for _, obj := range objs {
		p, ok := obj.(*corev1.Pod)
		if !ok {
			return fmt.Errorf("expected a pod, got %T", obj)
		}
		there[string(p.UID)] = newPod(p, t.labels)
	}
	t.mu.Lock()
	for uid, p := range t.byUID {
		if there[p.uids[0]] == nil && uid == p.uids[0] && p.deleted.IsZero() {
			t.bury(p)
		}
	}
	for _, p := range there {
		t.put(p)
	}
	t.sweep()
	t.mu.Unlock()
	t.tell()
	return nil
}

// Resync does nothing.
func (t *table) Resync() error { return nil }

// Bookmark takes the API server's word that there is nothing new.
func (t *table) Bookmark(string) error {
	t.tell()
	return nil
}

func (t *table) tell() {
	if t.changed != nil {
		t.changed()
	}
}

// put makes p what is known of the pod.
func (t *table) put(p *pod) {
	if old := t.byUID[p.uids[0]]; old != nil {
		if len(p.addrs) == 0 {
			p.addrs = old.addrs // its end takes them from the status, and packets are still under way
		}
		if !old.ended.IsZero() {
			p.ended = old.ended
		}
		t.remove(old)
	}
	t.live++
	for _, uid := range p.uids {
		t.byUID[uid] = p
	}
	for _, id := range p.containers {
		t.byContainer[id] = p
	}
	for _, addr := range p.addrs {
		t.byAddr[addr] = append(t.byAddr[addr], p)
	}
}

// remove forgets a pod.
func (t *table) remove(p *pod) {
	if p.deleted.IsZero() {
		t.live--
	}
	delete(t.gone, p)
	for _, uid := range p.uids {
		if t.byUID[uid] == p { // a static pod has the UID of the one before, if that was the same
			delete(t.byUID, uid)
		}
	}
	for _, id := range p.containers {
		if t.byContainer[id] == p {
			delete(t.byContainer, id)
		}
	}
	for _, addr := range p.addrs {
		t.byAddr[addr] = slices.DeleteFunc(t.byAddr[addr], func(q *pod) bool { return q == p })
		if len(t.byAddr[addr]) == 0 {
			delete(t.byAddr, addr)
		}
	}
}

// bury makes a pod a tombstone.
func (t *table) bury(p *pod) {
	if known := t.byUID[p.uids[0]]; known != nil && known != p {
		t.put(p) // the last state
	} else if known == nil {
		return
	}
	now := t.now()
	p.deleted = now
	if p.ended.IsZero() {
		p.ended = now
	}
	t.live--
	t.gone[p] = now
}

// sweep forgets the tombstones that nobody has asked for lately.
func (t *table) sweep() {
	for p, used := range t.gone {
		if t.now().Sub(used) > tombstone {
			t.remove(p)
		}
	}
}

// lookup returns the pod that has the UID or, if there is none, the container, and whether it is a tombstone; nil if it
// is not known.
func (t *table) lookup(uid, containerID string) (p *pod, gone bool) {
	t.mu.RLock()
	p = t.byUID[uid]
	if p == nil {
		p = t.byContainer[containerID]
	}
	gone = p != nil && !p.deleted.IsZero()
	t.mu.RUnlock()
	if gone {
		// Processes may outlive the pod's object, if it was deleted by force.
		t.mu.Lock()
		defer t.mu.Unlock()
		if _, ok := t.gone[p]; ok {
			t.gone[p] = t.now()
		}
	}
	return p, gone
}

// at returns the pod that had an address at a time, nil if it is not known or not certain which. Addresses are used
// again, and at once by some networks; the last packets of a connection come after the end.
func (t *table) at(addr netip.Addr, when time.Time) *pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var live, last *pod
	for _, p := range t.byAddr[addr] {
		switch {
		case when.Before(p.started):
		case p.ended.IsZero() || when.Before(p.ended):
			if live != nil {
				return nil
			}
			live = p
		case when.Sub(p.ended) < tombstone && (last == nil || p.ended.After(last.ended)):
			last = p
		}
	}
	if live != nil {
		return live
	}
	return last
}

// counts returns how many pods there are, and how many tombstones.
func (t *table) counts() (live, gone int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep()
	return t.live, len(t.gone)
}

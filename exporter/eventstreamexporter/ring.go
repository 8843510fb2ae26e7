// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import "sync"

// ring remembers the last events, numbered from 1 in the order in which they came.
type ring struct {
	mu       sync.Mutex
	events   []*event // that of number n is at n modulo their count
	first    uint64   // number of the oldest that is remembered
	next     uint64   // number of the one to come
	size     int      // bytes that are remembered
	maxSize  int
	lost     uint64        // events that readers were too slow for, added up
	changed  chan struct{} // closed when there is more to read, or never will be
	finished bool
}

func newRing(events, maxSize int) *ring {
	return &ring{events: make([]*event, events), first: 1, next: 1, maxSize: maxSize, changed: make(chan struct{})}
}

// publish appends events and forgets the oldest that there is no room for. It never waits for a reader.
func (r *ring) publish(events []*event) {
	if len(events) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		r.add(e)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *ring) add(e *event) {
	for r.next > r.first && (r.next-r.first == uint64(len(r.events)) || r.size+len(e.logs) > r.maxSize) {
		r.forget()
	}
	r.events[r.next%uint64(len(r.events))] = e
	r.size += len(e.logs)
	r.next++
}

// anew returns a ring of another size that goes on where this one, which is finished, has ended.
func (r *ring) anew(events, maxSize int) *ring {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := newRing(events, maxSize)
	next.first, next.next, next.lost = r.first, r.first, r.lost
	for n := r.first; n < r.next; n++ {
		next.add(r.events[n%uint64(len(r.events))])
	}
	return next
}

func (r *ring) forget() {
	slot := &r.events[r.first%uint64(len(r.events))]
	r.size -= len((*slot).logs)
	*slot = nil
	r.first++
}

// finish lets readers come to their end once they have read all.
func (r *ring) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.finished {
		r.finished = true
		close(r.changed)
	}
}

// reading is what a reader finds.
type reading struct {
	events []*event
	// position is the number of the last of them, or of the event after which there is nothing yet.
	position uint64
	// lost are the events before them that are not remembered any more.
	lost uint64
	// changed is closed when there is more.
	changed  <-chan struct{}
	finished bool
}

// read returns the events after a number, at most as many as into has room for and batchSize bytes.
func (r *ring) read(after uint64, into []*event) reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := reading{changed: r.changed, finished: r.finished}
	from := after + 1
	if from < r.first {
		out.lost = r.first - from
		r.lost += out.lost
		from = r.first
	}
	for size := 0; from < r.next && len(into) < cap(into); from++ {
		e := r.events[from%uint64(len(r.events))]
		if size += len(e.logs); size > batchSize && len(into) > 0 {
			break
		}
		into = append(into, e)
	}
	out.events, out.position = into, from-1
	return out
}

// last returns the number of the last event.
func (r *ring) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next - 1
}

// before returns the number of the last event before the first one that was at a time or later.
// Several sources come together, so their order is not quite that of time.
func (r *ring) before(at int64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := r.first; n < r.next; n++ {
		if r.events[n%uint64(len(r.events))].at >= at {
			return n - 1
		}
	}
	return r.next - 1
}

// ringStats are numbers of a ring.
type ringStats struct {
	published, remembered, lost uint64
	size                        int
}

func (r *ring) stats() ringStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ringStats{r.next - 1, r.next - r.first, r.lost, r.size}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"sync"
)

// errEnded says that nobody will take events any more.
var errEnded = errors.New("the events are not wanted any more")

// outlet is where the readers of rings bring their events. Its sink may be exchanged for another;
// without one the readers wait.
type outlet struct {
	mu      sync.Mutex
	changed *sync.Cond
	sink    Sink
	busy    int // calls of the sink that have not returned
	ended   bool
}

func newOutlet() *outlet {
	o := &outlet{}
	o.changed = sync.NewCond(&o.mu)
	return o
}

// open gives events to sink from now on; if it is nil they are dropped.
func (o *outlet) open(sink Sink) { o.set(sink, sink == nil) }

// close returns once no call of the sink is under way, and lets the readers wait for another.
func (o *outlet) close() {
	o.set(nil, false)
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.busy > 0 {
		o.changed.Wait()
	}
}

func (o *outlet) set(sink Sink, ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sink, o.ended = sink, ended
	o.changed.Broadcast()
}

// wanted tells whether somebody takes events.
func (o *outlet) wanted() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sink != nil
}

// take brings events to the sink, as soon as there is one.
func (o *outlet) take(d *Definition, events []Event) error {
	o.mu.Lock()
	for o.sink == nil && !o.ended {
		o.changed.Wait()
	}
	if o.ended {
		o.mu.Unlock()
		return errEnded
	}
	sink := o.sink
	o.busy++
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.busy--
		o.changed.Broadcast()
	}()
	return sink(d, events)
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
)

// memory is what a stream has seen since the agent started. What there is now, the entities, is not a part of it: who tells of
// that tells all of it anew.
type memory struct {
	run     uint64 // of Position
	started time.Time
	ring    *ring
	counts  *counts
	node    atomic.Pointer[string]
}

// keepTime is how long a memory is kept for a stream that may come back.
const keepTime = time.Minute

// Keeper keeps what streams remember while the collector makes its components anew for a changed configuration, so that
// watchers go on where they were. A nil Keeper keeps nothing. Whoever runs the collector makes one, because the collector asks for
// its factories at each change.
type Keeper struct {
	mu   sync.Mutex
	kept map[component.ID]*memory
}

// NewKeeper returns a Keeper that has nothing to keep yet.
func NewKeeper() *Keeper { return &Keeper{kept: map[component.ID]*memory{}} }

// keep keeps the memory of a stream that has ended, if it has ever started.
func (k *Keeper) keep(id component.ID, m *memory) {
	if k == nil || m == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[id] = m
	time.AfterFunc(keepTime, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.kept[id] == m {
			delete(k.kept, id)
		}
	})
}

// take returns what was kept of a stream, or a new memory.
func (k *Keeper) take(id component.ID, cfg *Config) *memory {
	size := cfg.BufferMiB << 20
	if k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		if was := k.kept[id]; was != nil {
			delete(k.kept, id)
			m := &memory{run: was.run, started: was.started, ring: was.ring.anew(cfg.BufferEvents, size), counts: was.counts}
			m.node.Store(was.node.Load())
			return m
		}
	}
	return &memory{run: rand.Uint64(), started: time.Now(), ring: newRing(cfg.BufferEvents, size), counts: newCounts()}
}

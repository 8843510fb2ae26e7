// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/internal/entity"
)

const (
	// maxEntities is far more network namespaces than a node has.
	maxEntities = 100_000
	// missedReports is after how many reports that did not come an entity is forgotten.
	missedReports = 3
)

// entities is the last state of each entity.
type entities struct {
	now func() time.Time

	mu     sync.Mutex
	states map[entityKey]*entityState
}

type entityKey struct{ kind, id string }

// entityState does not change; a later one takes its place.
type entityState struct {
	key   entityKey
	logs  []byte // LogsData with the one record
	until time.Time
	where
	probe *eventstreamv1.Probe // of a probe
}

func newEntities() *entities {
	return &entities{now: time.Now, states: map[entityKey]*entityState{}}
}

// put takes note of a record of an entity, and reports false if there is no room.
func (s *entities) put(marshaler *plog.ProtoMarshaler, w where, rl plog.ResourceLogs, sl plog.ScopeLogs, rec plog.LogRecord) (bool, error) {
	kind, id, description := entity.Parts(rec)
	raw, err := json.Marshal(id.AsRaw()) // sorted by key
	if err != nil {
		return false, err
	}
	state := &entityState{key: entityKey{kind, string(raw)}, where: w}
	if rec.EventName() == entity.EventDelete {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.states, state.key)
		return true, nil
	}
	if state.logs, err = marshaler.MarshalLogs(single(rl, sl, rec)); err != nil {
		return false, err
	}
	interval := time.Minute
	if v, ok := rec.Attributes().Get(entity.KeyInterval); ok && v.Int() > 0 {
		interval = time.Duration(v.Int()) * time.Millisecond
	}
	now := s.now()
	state.until = now.Add(missedReports * interval)
	if kind == entity.TypeProbe {
		state.probe = probeOf(id, description)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.states[state.key]; !known && len(s.states) >= maxEntities {
		s.purge(now)
		if len(s.states) >= maxEntities {
			return false, nil
		}
	}
	s.states[state.key] = state
	return true, nil
}

func (s *entities) purge(now time.Time) {
	maps.DeleteFunc(s.states, func(_ entityKey, state *entityState) bool { return now.After(state.until) })
}

// list returns the states of all entities of a type, sorted.
func (s *entities) list(kind string) []*entityState {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.purge(s.now())
	var states []*entityState
	for key, state := range s.states {
		if key.kind == kind {
			states = append(states, state)
		}
	}
	slices.SortFunc(states, func(a, b *entityState) int {
		return cmp.Or(
			cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.pod, b.pod), cmp.Compare(a.inode, b.inode), cmp.Compare(a.key.id, b.key.id))
	})
	return states
}

// kinds returns the types of all entities.
func (s *entities) kinds() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := map[string]bool{}
	for key := range s.states {
		kinds[key.kind] = true
	}
	return slices.Sorted(maps.Keys(kinds))
}

func (s *entities) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.states)
}

// probeOf reads the state of a probe. What is not as it should be is left out: anybody may send records.
func probeOf(id, description pcommon.Map) *eventstreamv1.Probe {
	p := &eventstreamv1.Probe{Name: text(id, entity.KeyProbe), Lost: map[string]uint64{}}
	if v, ok := description.Get(entity.KeyUp); ok {
		p.Up = v.Bool()
	}
	if v, ok := description.Get(entity.KeyVerified); ok {
		verified := v.Bool()
		p.Verified = &verified
	}
	if v, ok := description.Get(entity.KeyEvents); ok {
		p.Events, p.HasEvents = uint64(v.Int()), true
	}
	if v, ok := description.Get(entity.KeySuppressed); ok {
		p.Suppressed = uint64(v.Int())
	}
	if v, ok := description.Get(entity.KeyLost); ok && v.Type() == pcommon.ValueTypeMap {
		for hop, n := range v.Map().All() {
			p.Lost[hop] = uint64(n.Int())
		}
	}
	if v, ok := description.Get(entity.KeyHooks); ok && v.Type() == pcommon.ValueTypeSlice {
		for _, h := range v.Slice().All() {
			if h.Type() == pcommon.ValueTypeMap {
				p.Hooks = append(p.Hooks, &eventstreamv1.Hook{
					Name: text(h.Map(), entity.KeyHook), Variant: text(h.Map(), entity.KeyVariant), Error: text(h.Map(), entity.KeyError),
				})
			}
		}
	}
	return p
}

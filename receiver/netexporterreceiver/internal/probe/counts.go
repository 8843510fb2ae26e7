// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// Counts are the entries of a probe's map by namespace.
type Counts[K any] map[netns.ID][]Count[K]

// Count is one entry of a map: a key and the sum of its values over all CPUs.
type Count[K any] struct {
	Key K
	N   uint64
}

// Namespaces lists those that have counts.
func (c Counts[K]) Namespaces() []netns.ID { return slices.Collect(maps.Keys(c)) }

// batch is the number of keys that one system call reads.
const batch = 1024

// ReadCounts reads a per-CPU hash map and deletes the entries of namespaces that are not alive, so
// that it never fills up. Entries of the zero ID, no known namespace, stay.
func ReadCounts[K any](m *ebpf.Map, netNS func(*K) netns.ID, alive Alive) (Counts[K], error) {
	var (
		counts = Counts[K]{}
		dead   []K
	)
	err := readPerCPU(m, func(key K, n uint64) {
		id := netNS(&key)
		if id != (netns.ID{}) && !alive(id) {
			dead = append(dead, key)
			return
		}
		counts[id] = append(counts[id], Count[K]{key, n})
	})
	if err != nil {
		return nil, err
	}
	for _, k := range dead {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("prune %s: %w", m, err)
		}
	}
	return counts, nil
}

// readPerCPU visits all keys of a per-CPU hash map.
func readPerCPU[K any](m *ebpf.Map, visit func(K, uint64)) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	keys, values := make([]K, batch), make([]uint64, batch*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			var sum uint64
			for _, v := range values[i*cpus : (i+1)*cpus] {
				sum += v
			}
			visit(keys[i], sum)
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist): // the end
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", m, err)
		}
	}
}

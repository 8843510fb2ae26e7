// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
)

// maxNames is far more names than there are events; others may send records that have one each.
const maxNames = 256

// counts counts events by their name.
type counts struct {
	mu     sync.Mutex
	byName map[string]*count
}

type count struct {
	events uint64
	last   int64
}

func newCounts() *counts { return &counts{byName: map[string]*count{}} }

func (c *counts) add(events []*event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		n := c.byName[e.name]
		if n == nil {
			if len(c.byName) == maxNames {
				continue
			}
			n = &count{}
			c.byName[e.name] = n
		}
		n.events++
		n.last = max(n.last, e.at)
	}
}

// list returns the counts, sorted by name.
func (c *counts) list() []*eventstreamv1.EventCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*eventstreamv1.EventCount
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		n := c.byName[name]
		list = append(list, &eventstreamv1.EventCount{Name: name, Count: n.events, Last: timestamppb.New(time.Unix(0, n.last))})
	}
	return list
}

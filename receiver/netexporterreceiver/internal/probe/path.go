// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// PathCounts is what a probe of the packet path has counted, in the maps of bpf/include/path.h.
type PathCounts struct {
	slow      Counts[bpf.SlowKey]
	Latencies [len(bpf.Histograms{}.Of)]Latencies // by the probe's type
}

// ReadPathCounts reads the maps of a probe of the packet path.
func ReadPathCounts(maps Maps, alive Alive) (*PathCounts, error) {
	slow, err := ReadCounts(maps[bpf.SocketlatencyMapSlow], func(k *bpf.SlowKey) netns.ID {
		return netns.ID{Cookie: k.Netns.Cookie, Inode: k.Netns.Inode}
	}, alive)
	if err != nil {
		return nil, err
	}
	cpus, err := ReadPerCPU[bpf.Histograms](maps[bpf.SocketlatencyMapLatencies])
	if err != nil {
		return nil, err
	}
	c := &PathCounts{slow: slow}
	for i := range cpus {
		for t := range c.Latencies {
			c.Latencies[t].Add((*bpf.Histogram)(&cpus[i].Of[t]))
		}
	}
	return c, nil
}

// Namespaces lists those in which something was slow, and the zero ID, which has the histograms.
func (c *PathCounts) Namespaces() []netns.ID { return append(c.slow.Namespaces(), netns.ID{}) }

// Slow returns how often it took over 100 ms in a namespace, by the probe's type.
func (c *PathCounts) Slow(id netns.ID) (n [len(bpf.Histograms{}.Of)]int64) {
	for _, count := range c.slow[id] {
		if int(count.Key.Type) < len(n) {
			n[count.Key.Type] += int64(count.N)
		}
	}
	return n
}

// Unattributed tells whether something was slow of which the namespace is not known.
func (c *PathCounts) Unattributed() bool { return len(c.slow[netns.ID{}]) > 0 }

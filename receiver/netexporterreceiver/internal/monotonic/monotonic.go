// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package monotonic makes counters that do not fall of those that the kernel keeps in 32 bits.
package monotonic

// maxRise is the most that a counter is thought to rise between two updates. One that has fallen and
// would have risen by more, had it wrapped, has begun anew.
const maxRise = 1 << 30

// PerCPU adds up counters of 32 bits of which each CPU has its own. The sums have 64 bits and never
// fall: not when a counter wraps, not when it begins anew, not when its CPU is gone. Updating with
// the same values again changes nothing. The zero value has counted nothing.
type PerCPU struct {
	last map[int][]uint32 // by CPU
	sums []uint64
}

// Update takes the counters of a CPU over, which are the same ones each time. What they have counted
// before the first update counts, too.
func (p *PerCPU) Update(cpu int, counters []uint32) {
	last := p.last[cpu]
	for len(last) < len(counters) {
		last = append(last, 0)
	}
	for len(p.sums) < len(counters) {
		p.sums = append(p.sums, 0)
	}
	for i, now := range counters {
		p.sums[i] += rise(last[i], now)
		last[i] = now
	}
	if p.last == nil {
		p.last = map[int][]uint32{}
	}
	p.last[cpu] = last
}

// rise returns what a counter has counted.
func rise(last, now uint32) uint64 {
	risen := now - last // modulo 2^32
	if now < last && risen > maxRise {
		return uint64(now) // it has begun anew
	}
	return uint64(risen)
}

// Sum returns the sum of the i-th counters, 0 before an update with as many.
func (p *PerCPU) Sum(i int) uint64 {
	if i >= len(p.sums) {
		return 0
	}
	return p.sums[i]
}

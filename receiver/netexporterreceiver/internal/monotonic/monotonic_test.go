// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package monotonic

import (
	"encoding/binary"
	"math"
	"testing"
)

func TestPerCPU(t *testing.T) {
	type update struct {
		cpu      int
		counters []uint32
	}
	for name, test := range map[string]struct {
		updates []update
		want    []uint64
	}{
		"nothing":                          {nil, []uint64{0, 0}},
		"what was counted before counts":   {[]update{{0, []uint32{7, 8}}}, []uint64{7, 8}},
		"a first value is no wrap":         {[]update{{0, []uint32{math.MaxUint32}}, {1, []uint32{5}}}, []uint64{math.MaxUint32 + 5}},
		"the same again":                   {[]update{{0, []uint32{7}}, {0, []uint32{7}}}, []uint64{7}},
		"a rise beyond half of the range":  {[]update{{0, []uint32{1}}, {0, []uint32{3 << 30}}}, []uint64{3 << 30}},
		"a wrap":                           {[]update{{0, []uint32{math.MaxUint32 - 1, 3}}, {0, []uint32{4, 3}}}, []uint64{math.MaxUint32 + 5, 3}},
		"a wrap to zero":                   {[]update{{0, []uint32{math.MaxUint32}}, {0, []uint32{0}}}, []uint64{1 << 32}},
		"two wraps":                        {[]update{{0, []uint32{math.MaxUint32}}, {0, []uint32{1 << 29}}, {0, []uint32{math.MaxUint32}}, {0, []uint32{0}}}, []uint64{2 << 32}},
		"CPUs wrap on their own":           {[]update{{0, []uint32{math.MaxUint32}}, {7, []uint32{math.MaxUint32}}, {0, []uint32{0}}, {7, []uint32{math.MaxUint32}}}, []uint64{1<<32 + math.MaxUint32}},
		"it begins anew":                   {[]update{{0, []uint32{1000}}, {0, []uint32{10}}, {0, []uint32{12}}}, []uint64{1012}},
		"a CPU is gone":                    {[]update{{0, []uint32{10}}, {1, []uint32{20}}, {0, []uint32{11}}}, []uint64{31}},
		"a CPU is gone, and comes back":    {[]update{{0, []uint32{10}}, {1, []uint32{20}}, {0, []uint32{11}}, {1, []uint32{22}}}, []uint64{33}},
		"a CPU comes back from the start":  {[]update{{1, []uint32{20}}, {0, []uint32{11}}, {1, []uint32{2}}}, []uint64{33}},
		"a counter that comes along later": {[]update{{0, []uint32{1}}, {0, []uint32{1, 5}}}, []uint64{1, 5}},
	} {
		var p PerCPU
		for _, u := range test.updates {
			p.Update(u.cpu, u.counters)
		}
		for i, want := range test.want {
			if got := p.Sum(i); got != want {
				t.Errorf("%s: counter %d: got %d, want %d", name, i, got, want)
			}
		}
	}
}

// The sum is that of counters of 64 bits, whatever they count, as long as no rise is too large.
func FuzzPerCPU(f *testing.F) {
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0x3f, 0, 0xff, 0xff, 0xff, 0x3f, 0, 0xff, 0xff, 0xff, 0x3f, 0, 0xff, 0xff, 0xff, 0x3f, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var (
			p      PerCPU
			counts [4]uint64
			want   uint64
		)
		for ; len(b) >= 5; b = b[5:] {
			cpu, by := int(b[0])%len(counts), uint64(binary.LittleEndian.Uint32(b[1:])%maxRise)
			counts[cpu] += by
			want += by
			p.Update(cpu, []uint32{uint32(counts[cpu])})
			if got := p.Sum(0); got != want {
				t.Fatalf("got %d, want %d with counters %v", got, want, counts)
			}
		}
	})
}

// A sum never falls, whatever the kernel says.
func FuzzNeverFalls(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p PerCPU
		for last := uint64(0); len(b) >= 5; b = b[5:] {
			p.Update(int(b[0]), []uint32{binary.LittleEndian.Uint32(b[1:])})
			if p.Sum(0) < last {
				t.Fatalf("%d after %d", p.Sum(0), last)
			}
			last = p.Sum(0)
		}
	})
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

// The sums go on where a CPU's counter wraps, and keep what a CPU has counted that is offline.
func TestSoftnetThatWraps(t *testing.T) {
	read := newSoftnetReader()
	for i, pass := range []struct {
		processed map[int]uint32 // of the CPUs that are online
		want      uint64
	}{
		{map[int]uint32{0: 10, 1: 1<<32 - 1}, 1<<32 + 9},
		{map[int]uint32{0: 11, 1: 4}, 1<<32 + 15},
		{map[int]uint32{0: 12}, 1<<32 + 16},
		{map[int]uint32{0: 12, 1: 5}, 1<<32 + 17},
	} {
		var file strings.Builder
		for cpu := range 2 {
			if processed, online := pass.processed[cpu]; online {
				fmt.Fprintf(&file, "%08x 00000000 00000000 0 0 0 0 0 0 0 0 0 %08x\n", processed, cpu)
			}
		}
		s, err := read(fstest.MapFS{"proc/net/softnet_stat": {Data: []byte(file.String())}})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.(softnet).processed; got != pass.want {
			t.Errorf("pass %d: got %d, want %d", i, got, pass.want)
		}
	}
}

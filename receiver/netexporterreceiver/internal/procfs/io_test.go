// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"maps"
	"testing"
)

func TestParseIO(t *testing.T) {
	got := ParseIO([]byte("rchar: 1\nsyscr: 18446744073709551615\nread_bytes: 4096\nnonsense\ncancelled_write_bytes: x\n"))
	want := map[string]uint64{"rchar": 1, "syscr": ^uint64(0), "read_bytes": 4096}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzParseIO(f *testing.F) {
	f.Add([]byte("syscr: 12\n"))
	f.Fuzz(func(_ *testing.T, raw []byte) { ParseIO(raw) })
}

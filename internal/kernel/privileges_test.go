// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMissingPrivileges(t *testing.T) {
	for _, test := range []struct {
		name      string
		effective []int
		missing   []string
	}{
		{"nothing", nil, []string{"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"}},
		{"least", []int{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE}, nil},
		{"before Linux 5.8", []int{unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE}, nil},
		{"no perfmon", []int{unix.CAP_BPF, unix.CAP_SYS_PTRACE}, []string{"CAP_PERFMON"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var effective uint64
			for _, c := range test.effective {
				effective |= 1 << c
			}
			got := missingPrivileges(effective)
			if !slices.Equal(got, test.missing) {
				t.Fatalf("got %v, want %v", got, test.missing)
			}
			if len(got) == 0 {
				return
			}
			message := (&MissingPrivilegesError{got}).Error()
			for _, c := range got {
				if !strings.Contains(message, c) {
					t.Errorf("%q does not name %s", message, c)
				}
			}
		})
	}
}

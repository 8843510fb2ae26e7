// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package population

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// states counts the sockets of a namespace by their state, as /proc/<pid>/net/tcp has it.
func states(t testing.TB, pid int) map[string]int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	require.NoError(t, err)
	got := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		got[strings.Fields(line)[3]]++
	}
	delete(got, "st") // the heading
	return got
}

func TestPopulation(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	for sockets, want := range map[int]map[string]int{
		0:  {},
		1:  {"0A": 1},
		2:  {"0A": 2},
		45: {"0A": 1, "01": 44},
	} {
		p, err := New(3, sockets)
		require.NoError(t, err)
		require.Len(t, p.Namespaces, 3)
		inodes := map[uint64]bool{}
		for _, n := range p.Namespaces {
			var stat unix.Stat_t
			require.NoError(t, unix.Stat(fmt.Sprintf("/proc/%d/ns/net", n.PID), &stat))
			assert.Equal(t, stat.Ino, n.Inode)
			inodes[n.Inode] = true
			assert.Equal(t, want, states(t, n.PID), "%d sockets", sockets)
			for fd := 3; fd < 3+sockets; fd++ { // others may be inherited
				target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.PID, fd))
				require.NoError(t, err)
				assert.Contains(t, target, "socket:")
			}
		}
		assert.Len(t, inodes, 3, "namespaces of their own")
		require.NoError(t, p.Close())
		for _, n := range p.Namespaces {
			assert.ErrorIs(t, unix.Kill(n.PID, 0), unix.ESRCH, "process %d", n.PID)
		}
	}
}

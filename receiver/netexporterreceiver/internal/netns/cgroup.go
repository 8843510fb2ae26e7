// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bufio"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// cgroupPause is the least time between two looks at all cgroups.
	cgroupPause = time.Second
	// maxCgroups bounds those that are known. A node with 1,000 pods has some 5,000.
	maxCgroups = 1 << 16
)

// Cgroups knows to which container and pod a cgroup (version 2) belongs. It reads nothing until it is
// asked, and then only for a cgroup that it has not met. It may be used by several goroutines.
type Cgroups struct {
	dir string // empty if there are none
	now func() time.Time

	mu     sync.Mutex
	owners map[uint64]Owner // by id; zero for those of no container
	looked time.Time
}

// NewCgroups looks for cgroups below root, the host's root directory.
func NewCgroups(root string) *Cgroups {
	return &Cgroups{dir: cgroupDir(root), now: time.Now, owners: map[uint64]Owner{}}
}

// cgroupDir returns where systemd mounts cgroups of version 2 below root: alone, or beside those of version 1. It returns
// an empty string if there are none.
func cgroupDir(root string) string {
	for _, dir := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"} {
		dir = filepath.Join(root, dir)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir
		}
	}
	return ""
}

// cgroupNamespace returns where the cgroup namespace (version 2) of this process begins, empty on the host and where
// that cannot be told. Paths in /proc/<pid>/cgroup begin there, cgroup_namespaces(7); in a container that is the container's
// own cgroup, so that of a process in the same pod they do not tell which pod that is.
func cgroupNamespace(root string) string {
	dir := cgroupDir(root)
	f, err := os.Open(filepath.Join(root, "proc/self/cgroup"))
	if err != nil || dir == "" {
		return ""
	}
	defer f.Close()
	shown := "/"
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		if path, ok := strings.CutPrefix(scanner.Text(), "0::"); ok {
			shown = path
		}
	}
	pid := strconv.Itoa(os.Getpid())
	if hasProcess(filepath.Join(dir, shown), pid) {
		return ""
	}
	begin := ""
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil: // it has just been removed
			return nil
		case d.IsDir() && hasProcess(path, pid):
			begin = strings.TrimSuffix(strings.TrimPrefix(path, dir), shown)
			return fs.SkipAll
		}
		return nil
	})
	return begin
}

// hasProcess tells whether a process is in the cgroup of a directory.
func hasProcess(dir, pid string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && slices.Contains(strings.Fields(string(raw)), pid)
}

// Owner returns the owner of a cgroup by its id, which is the inode number of its directory and never
// used again. It returns the zero Owner for one of no container, and for one that is gone.
func (c *Cgroups) Owner(id uint64) Owner {
	if c.dir == "" {
		return Owner{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	owner, known := c.owners[id]
	if known || c.now().Sub(c.looked) < cgroupPause {
		return owner
	}
	if len(c.owners) >= maxCgroups {
		clear(c.owners) // mostly of such that are gone
	}
	c.look("/")
	c.looked = c.now()
	owner = c.owners[id]
	c.owners[id] = owner // even if it was not found: it will not come back
	return owner
}

// look takes note of a cgroup and all below it. What cannot be read has just been removed.
func (c *Cgroups) look(path string) {
	dir := filepath.Join(c.dir, path)
	info, err := os.Stat(dir)
	if err != nil || len(c.owners) >= maxCgroups {
		return
	}
	c.owners[info.Sys().(*syscall.Stat_t).Ino] = ownerOf(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			c.look(filepath.Join(path, e.Name()))
		}
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/procfs"
)

// proc reads namespaces from /proc, for kernels that cannot run the pass. It sees only namespaces
// that have a process, and knows no cookies.
type proc struct {
	root       string
	counters   []Counter
	wantsTasks bool
}

// NewProc returns a Source that reads the files of procRoot, /proc of the host: several files a
// namespace and a process each time.
func NewProc(procRoot string, counters []Counter) Source { return newProc(procRoot, counters) }

func newProc(root string, counters []Counter) *proc {
	return &proc{root, counters, wantsTasks(counters)}
}

func wantsTasks(counters []Counter) bool {
	return slices.ContainsFunc(counters, func(c Counter) bool { return c.Tasks != nil })
}

func (p *proc) inode(path string) (uint32, error) { return Inode(filepath.Join(p.root, path)) }

// Inode returns the inode number of the network namespace that a file leads to, as /proc/<pid>/ns/net does.
func Inode(path string) (uint32, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return inodeOf(info), nil
}

// inodeOf returns the inode number of a file; those of namespaces have 32 bits (struct ns_common).
func inodeOf(info os.FileInfo) uint32 { return uint32(info.Sys().(*syscall.Stat_t).Ino) }

// Tasks lists processes with the inode of their namespace. Those that end meanwhile are left out.
func (p *proc) Tasks(tasks []Task) ([]Task, error) {
	dir, err := os.Open(p.root)
	if err != nil {
		return tasks, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return tasks, fmt.Errorf("list processes: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		inode, err := p.inode(filepath.Join(name, "ns", "net"))
		if err != nil {
			continue
		}
		start, err := p.startTime(name)
		if err != nil {
			continue
		}
		task := Task{NetNS: ID{Inode: inode}, TGID: pid, Start: start}
		if p.wantsTasks {
			if task.Usage, err = p.usage(name); err != nil {
				continue
			}
		}
		tasks = append(tasks, task)
	}
	return tasks, nil
}

// usage reads /proc/<pid>/fd and /proc/<pid>/io.
func (p *proc) usage(pid string) (Usage, error) {
	files, err := os.ReadDir(filepath.Join(p.root, pid, "fd"))
	if err != nil {
		return Usage{}, err
	}
	u := Usage{FDs: uint64(len(files))}
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(p.root, pid, "fd", f.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			u.Sockets++
		}
	}
	io, err := os.ReadFile(filepath.Join(p.root, pid, "io"))
	if errors.Is(err, os.ErrNotExist) {
		return u, nil // a kernel without CONFIG_TASK_IO_ACCOUNTING
	}
	if err != nil {
		return u, err
	}
	values := procfs.ParseIO(io)
	u.IO = IO{values["syscr"], values["syscw"], values["read_bytes"], values["write_bytes"]}
	return u, nil
}

// startTime returns field 22 of /proc/<pid>/stat, clock ticks since boot, proc_pid_stat(5).
func (p *proc) startTime(pid string) (uint64, error) {
	raw, err := os.ReadFile(filepath.Join(p.root, pid, "stat"))
	if err != nil {
		return 0, err
	}
	return parseStartTime(raw)
}

func parseStartTime(stat []byte) (uint64, error) {
	// The command, field 2, may hold spaces and parentheses.
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	const startTime = 22 - 3 // fields[0] is field 3
	if end < 0 || len(fields) <= startTime {
		return 0, fmt.Errorf("parse stat: malformed line %q", stat)
	}
	return strconv.ParseUint(string(fields[startTime]), 10, 64)
}

// Rows reads the counters of each namespace through one of its processes.
func (p *proc) Rows(rows []Row) ([]Row, error) {
	tasks, err := p.Tasks(nil)
	if err != nil {
		return rows, err
	}
	seen := map[uint32]bool{}
	var errs []error
	for _, t := range tasks {
		if seen[t.NetNS.Inode] {
			continue
		}
		dir := filepath.Join(p.root, strconv.Itoa(t.TGID))
		mib, err := procfs.ReadMIB(os.DirFS(dir))
		// The process may have ended, or its number may be another's by now.
		if inode, statErr := p.inode(filepath.Join(strconv.Itoa(t.TGID), "ns", "net")); statErr != nil || inode != t.NetNS.Inode {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read counters of %s: %w", t.NetNS, err))
			continue
		}
		seen[t.NetNS.Inode] = true
		row := nextRow(&rows, len(p.counters))
		row.ID, row.Links, row.Conntrack, row.Untracked = t.NetNS, false, false, false
		for i, c := range p.counters {
			row.Values[i] = 0
			for _, name := range c.Proc {
				row.Values[i] += mib[name]
			}
		}
	}
	return rows, errors.Join(errs...)
}

// Serves is false for counters of sockets: /proc/net/tcp walks the hash table of the whole host for
// each namespace, about 4 ms each time. A MIB counter that the kernel lacks reads as 0.
func (p *proc) Serves() []bool {
	serves := make([]bool, len(p.counters))
	for i, c := range p.counters {
		serves[i] = c.Sockets == nil && c.Listeners == nil
	}
	return serves
}

// Host returns the namespace of the first process, or the own one where that may not be looked at.
func (p *proc) Host() (ID, error) {
	for _, pid := range []string{"1", "self"} {
		if inode, err := p.inode(filepath.Join(pid, "ns", "net")); err == nil {
			return ID{Inode: inode}, nil
		}
	}
	return ID{}, fmt.Errorf("no process in %s shows its network namespace", p.root)
}

func (p *proc) Hooks() []kernel.Hook {
	slow := errors.New("/proc/net/tcp takes milliseconds for each namespace")
	return []kernel.Hook{
		{Name: HookNamespaces, Variant: "procfs"},
		{Name: HookSockets, Variant: kernel.NoVariant, Err: slow},
		{Name: HookListeners, Variant: kernel.NoVariant, Err: slow},
		{Name: HookTasks, Variant: "procfs"},
	}
}

func (p *proc) Close() error { return nil }

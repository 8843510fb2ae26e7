// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/procfs"
)

// MIBPrefixes are the anonymous enums whose members index the kernel's counters; a kernel.Query
// needs them for NewWalk.
func MIBPrefixes() []string { return []string{"TCP_MIB_", "UDP_MIB_", "LINUX_MIB_"} }

// walk reads all namespaces by programs that walk the kernel's own lists (bpf/netns.bpf.c).
type walk struct {
	kernel *kernel.Kernel
	proc   *proc
	// What takes each counter from a record; nil for what the kernel does not have and for counters
	// of tasks.
	read   []func(*bpf.NetnsNetnsRecord, *bpf.NetnsTcpTotals) uint64
	wanted []Counter

	object   *kernel.Object
	capacity uint32
	// What a pass leaves of each namespace in the maps, and where it is copied to.
	recordMemory, totalMemory *ebpf.Memory
	records                   []bpf.NetnsNetnsRecord
	totals                    []bpf.NetnsTcpTotals
	// nets are the keys of the map slots.
	nets map[uint64]bool
}

// Hooks of bpf/netns.bpf.c that are not reported under their own name.
const (
	hookSetup = "setup"
	hookWalk  = "walk"
)

// initialCapacity is the number of namespaces that there is room for at first.
const initialCapacity = 256

// NewWalk returns a Source that reads every namespace of the host, those without a process too, in
// one pass within the kernel. procRoot is where the host's /proc is. It fails where the kernel
// cannot run the pass.
func NewWalk(k *kernel.Kernel, procRoot string, counters []Counter) (Source, error) {
	w := &walk{kernel: k, proc: newProc(procRoot, counters), wanted: counters, capacity: initialCapacity}
	for _, c := range counters {
		w.read = append(w.read, reader(k, c))
	}
	if err := w.open(); err != nil {
		return nil, err
	}
	// The kernel's own BTF cannot be wrong.
	if !k.Source.Own {
		if err := w.check(); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", kernel.ErrWrongBTF, err), w.Close())
		}
	}
	return w, nil
}

// check compares what a pass reads of the own namespace with what the kernel says by other means. With BTF of another kernel it
// would read other fields.
func (w *walk) check() error {
	inode, err := w.proc.inode(filepath.Join("self", "ns", "net"))
	if err != nil {
		return err
	}
	told := func() (procfs.MIB, error) { return procfs.ReadMIB(os.DirFS(filepath.Join(w.proc.root, "self"))) }
	before, err := told()
	if err != nil {
		return err
	}
	rows, err := w.Rows(nil)
	if err != nil {
		return err
	}
	after, err := told()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rows, func(r Row) bool { return r.ID.Inode == inode })
	if i < 0 {
		return fmt.Errorf("of %d network namespaces that it finds none is the own one", len(rows))
	}
	for j, c := range w.wanted {
		least, most := uint64(0), uint64(0)
		for _, name := range c.Proc {
			least, most = least+before[name], most+after[name]
		}
		// What is a level may have been anywhere in between.
		if got := rows[i].Values[j]; w.read[j] != nil && c.MIB != "" && least <= most && !isLevel(c.MIB) && (got < least || got > most) {
			return fmt.Errorf("%s of the own network namespace is %d, and between %d and %d in /proc", c.MIB, got, least, most)
		}
	}
	return nil
}

// isLevel tells whether a MIB counter may fall.
func isLevel(mib string) bool { return mib == "TCP_MIB_CURRESTAB" || mib == "TCP_MIB_MAXCONN" }

// reader returns what takes a counter from a record, nil if this kernel does not have it.
func reader(k *kernel.Kernel, c Counter) func(*bpf.NetnsNetnsRecord, *bpf.NetnsTcpTotals) uint64 {
	switch {
	case c.Sockets != nil:
		return func(_ *bpf.NetnsNetnsRecord, t *bpf.NetnsTcpTotals) uint64 {
			return c.Sockets(&Sockets{t.Sockets.Established, t.Sockets.TimeWait, t.Sockets.TxQueue, t.Sockets.RxQueue})
		}
	case c.Listeners != nil:
		return func(_ *bpf.NetnsNetnsRecord, t *bpf.NetnsTcpTotals) uint64 {
			return c.Listeners(&Listeners{t.Listeners.Sockets, t.Listeners.Queue, t.Listeners.Limit, t.Listeners.Full})
		}
	case c.MIB == "":
		return nil // not the kernel's pass to read
	}
	index, ok := k.Value(c.MIB)
	if !ok {
		return nil
	}
	var r bpf.NetnsNetnsRecord
	prefix := c.MIB[:strings.Index(c.MIB, "MIB_")+len("MIB_")]
	switch {
	case prefix == "TCP_MIB_" && index < uint64(len(r.Tcp)):
		return func(r *bpf.NetnsNetnsRecord, _ *bpf.NetnsTcpTotals) uint64 { return r.Tcp[index] }
	case prefix == "UDP_MIB_" && index < uint64(len(r.Udp)):
		return func(r *bpf.NetnsNetnsRecord, _ *bpf.NetnsTcpTotals) uint64 { return r.Udp[index] + r.Udp6[index] }
	case prefix == "LINUX_MIB_" && index < uint64(len(r.LinuxMib)):
		return func(r *bpf.NetnsNetnsRecord, _ *bpf.NetnsTcpTotals) uint64 { return r.LinuxMib[index] }
	}
	return nil
}

func (w *walk) open() (err error) {
	spec, err := bpf.LoadNetns()
	if err != nil {
		return fmt.Errorf("load netns: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	var tables [4096]struct{} // MAX_CPUS of bpf/netns.bpf.c
	if cpus > len(tables) {
		return fmt.Errorf("load netns: %d possible CPUs are more than %d", cpus, len(tables))
	}
	spec.Maps[bpf.NetnsMapRecords].MaxEntries = w.capacity
	spec.Maps[bpf.NetnsMapTotals].MaxEntries = w.capacity
	spec.Maps[bpf.NetnsMapSlots].MaxEntries = 2 * w.capacity // those of the pass before are deleted after this one
	if err := errors.Join(
		spec.Variables[bpf.NetnsVarCountSockets].Set(w.wantsSockets() || w.wantsListeners()),
		spec.Variables[bpf.NetnsVarCountFds].Set(w.proc.wantsTasks),
		spec.Variables[bpf.NetnsVarCountIo].Set(w.proc.wantsTasks),
		spec.Variables[bpf.NetnsVarPossibleCpus].Set(uint32(cpus)),
		spec.Variables[bpf.NetnsVarMaxRecords].Set(w.capacity),
	); err != nil {
		return fmt.Errorf("tune netns: %w", err)
	}
	object, err := w.kernel.Load(spec)
	if err != nil {
		return fmt.Errorf("load netns: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, object.Close())
		}
	}()
	for _, h := range object.Hooks {
		if h.Variant == kernel.NoVariant && (h.Name == hookSetup || h.Name == hookWalk) {
			return fmt.Errorf("load netns: hook %s: %w", h.Name, h.Err)
		}
	}
	if err := run(object, hookSetup, nil); err != nil {
		return err
	}
	records, err := object.Maps[bpf.NetnsMapRecords].Memory()
	if err != nil {
		return fmt.Errorf("map netns records: %w", err)
	}
	totals, err := object.Maps[bpf.NetnsMapTotals].Memory()
	if err != nil {
		return fmt.Errorf("map netns totals: %w", err)
	}
	w.object, w.recordMemory, w.totalMemory = object, records, totals
	w.records = make([]bpf.NetnsNetnsRecord, w.capacity)
	w.totals = make([]bpf.NetnsTcpTotals, w.capacity)
	w.nets = map[uint64]bool{}
	return nil
}

func (w *walk) wantsSockets() bool {
	return slices.ContainsFunc(w.wanted, func(c Counter) bool { return c.Sockets != nil })
}

func (w *walk) wantsListeners() bool {
	return slices.ContainsFunc(w.wanted, func(c Counter) bool { return c.Listeners != nil })
}

// run runs the program of a hook with the given arguments, nil for none.
func run(object *kernel.Object, hook string, args any) error {
	status, err := object.Program(hook).Run(&ebpf.RunOptions{Context: args})
	if err != nil {
		return fmt.Errorf("run %s: %w", hook, err)
	}
	if status != 0 {
		return fmt.Errorf("run %s: it returned %d", hook, status)
	}
	return nil
}

// Rows runs the pass; if there are more namespaces than room, it makes room and runs it again.
func (w *walk) Rows(rows []Row) ([]Row, error) {
	for {
		if err := run(w.object, hookWalk, nil); err != nil {
			return rows, err
		}
		var found, skipped uint32
		if err := errors.Join(
			w.object.Variables[bpf.NetnsVarFound].Get(&found),
			w.object.Variables[bpf.NetnsVarSkipped].Get(&skipped),
		); err != nil {
			return rows, fmt.Errorf("read netns: %w", err)
		}
		if skipped == 0 {
			return w.rows(rows, w.records[:found], w.totals[:found])
		}
		if err := w.grow(found); err != nil {
			return rows, err
		}
	}
}

// grow replaces the programs and their map by larger ones, with room for churn.
func (w *walk) grow(found uint32) error {
	old := w.object
	for w.capacity < found+found/4 {
		w.capacity *= 2
	}
	if err := w.open(); err != nil {
		return fmt.Errorf("make room for %d network namespaces: %w", found, err)
	}
	return old.Close()
}

func (w *walk) rows(rows []Row, records []bpf.NetnsNetnsRecord, totals []bpf.NetnsTcpTotals) ([]Row, error) {
	if len(records) == 0 {
		return rows, nil
	}
	if err := readAll(w.recordMemory, records); err != nil {
		return rows, err
	}
	sockets := w.wantsSockets() && w.object.Program(HookSockets) != nil
	listeners := w.wantsListeners() && w.object.Program(HookListeners) != nil
	if sockets || listeners {
		err := w.forgetNets(records)
		if sockets {
			err = errors.Join(err, w.countSockets(records))
		}
		if listeners { // in one table for all
			err = errors.Join(err, w.walkTable(HookListeners, records[0].Hashinfo, records[0].Lhash2Size))
		}
		if err = errors.Join(err, readAll(w.totalMemory, totals)); err != nil {
			return rows, err
		}
	}
	for i := range records {
		r := &records[i]
		row := nextRow(&rows, len(w.read))
		row.ID, row.Links, row.Conntrack = ID{r.Id.Cookie, r.Id.Inode}, false, false
		row.Deviceless, row.Untracked = r.HasDevices == 0, r.MayTrack == 0
		for j, read := range w.read {
			if read != nil {
				row.Values[j] = read(r, &totals[i])
			}
		}
	}
	return rows, nil
}

// readAll copies the first elements of an array map, which must not be none.
func readAll[T any](from *ebpf.Memory, to []T) error {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&to[0])), int(unsafe.Sizeof(to[0]))*len(to))
	if _, err := from.ReadAt(raw, 0); err != nil {
		return fmt.Errorf("read what a pass has left: %w", err)
	}
	return nil
}

// forgetNets deletes from the map slots the namespaces that the last walk did not meet.
func (w *walk) forgetNets(records []bpf.NetnsNetnsRecord) error {
	gone := w.nets
	w.nets = make(map[uint64]bool, len(records))
	for i := range records {
		delete(gone, records[i].Net)
		w.nets[records[i].Net] = true
	}
	for net := range gone {
		if err := w.object.Maps[bpf.NetnsMapSlots].Delete(net); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a network namespace: %w", err)
		}
	}
	return nil
}

// countSockets adds the TCP sockets to the records within the kernel. Namespaces share a hash table
// unless net.ipv4.tcp_child_ehash_entries gave them their own.
func (w *walk) countSockets(records []bpf.NetnsNetnsRecord) error {
	seen := map[uint64]bool{}
	for i := range records {
		r := &records[i]
		if seen[r.Hashinfo] {
			continue
		}
		seen[r.Hashinfo] = true
		if err := w.walkTable(HookSockets, r.Hashinfo, r.EhashSize); err != nil {
			return err
		}
	}
	return nil
}

// walkTable runs the program of a hook until it has walked all buckets of a hash table.
func (w *walk) walkTable(hook string, hashinfo uint64, buckets uint32) error {
	args := bpf.NetnsSocketsArgs{Hashinfo: hashinfo}
	for args.First < uint64(buckets) {
		if err := run(w.object, hook, &args); err != nil {
			return err
		}
		var next uint32
		if err := w.object.Variables[bpf.NetnsVarNextBucket].Get(&next); err != nil {
			return fmt.Errorf("read netns: %w", err)
		}
		if uint64(next) <= args.First {
			return nil // the table has gone with its namespace
		}
		args.First = uint64(next)
	}
	return nil
}

// nextRow extends rows by one, with the values of an earlier use of that row if it had any.
func nextRow(rows *[]Row, values int) *Row {
	n := len(*rows)
	if n < cap(*rows) {
		*rows = (*rows)[:n+1]
	} else {
		*rows = append(*rows, Row{})
	}
	row := &(*rows)[n]
	if len(row.Values) != values {
		row.Values = make([]uint64, values)
	}
	return row
}

func (w *walk) Serves() []bool {
	serves := make([]bool, len(w.read))
	for i, read := range w.read {
		switch c := w.wanted[i]; {
		case c.Sockets != nil:
			serves[i] = w.object.Program(HookSockets) != nil
		case c.Listeners != nil:
			serves[i] = w.object.Program(HookListeners) != nil
		default:
			serves[i] = c.MIB == "" || read != nil
		}
	}
	return serves
}

// Tasks reads the task iterator, or /proc where it does not run.
func (w *walk) Tasks(tasks []Task) ([]Task, error) {
	program := w.object.Program(HookTasks)
	if program == nil {
		return w.proc.Tasks(tasks)
	}
	it, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return tasks, fmt.Errorf("attach task iterator: %w", err)
	}
	defer it.Close()
	file, err := it.Open()
	if err != nil {
		return tasks, fmt.Errorf("open task iterator: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(file)
	if err != nil {
		return tasks, fmt.Errorf("read task iterator: %w", err)
	}
	return decodeTasks(tasks, raw)
}

// decodeTasks decodes what the task iterator has written: records of struct task_record.
func decodeTasks(tasks []Task, raw []byte) ([]Task, error) {
	const size = int(unsafe.Sizeof(bpf.NetnsTaskRecord{}))
	if len(raw)%size != 0 {
		return tasks, fmt.Errorf("decode tasks: %d bytes are no multiple of %d", len(raw), size)
	}
	var rec bpf.NetnsTaskRecord
	for ; len(raw) > 0; raw = raw[size:] {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&rec)), size), raw)
		tasks = append(tasks, Task{
			NetNS: ID{rec.Netns.Cookie, rec.Netns.Inode},
			TGID:  int(rec.Tgid),
			Start: rec.StartNs,
			Usage: Usage{rec.Fds, rec.Sockets, IO{rec.ReadCalls, rec.WriteCalls, rec.ReadBytes, rec.WriteBytes}},
		})
	}
	return tasks, nil
}

// Host returns the namespace of the host's first process, or, where that may not be looked at, the
// one that the kernel booted with.
func (w *walk) Host() (ID, error) {
	var initial bpf.NetnsNetnsId
	if err := w.object.Variables[bpf.NetnsVarInitial].Get(&initial); err != nil {
		return ID{}, fmt.Errorf("read netns: %w", err)
	}
	if initial.Inode == 0 { // before the first pass
		if _, err := w.Rows(nil); err != nil {
			return ID{}, err
		}
		if err := w.object.Variables[bpf.NetnsVarInitial].Get(&initial); err != nil {
			return ID{}, fmt.Errorf("read netns: %w", err)
		}
	}
	id := ID{initial.Cookie, initial.Inode}
	inode, err := w.proc.inode(filepath.Join("1", "ns", "net"))
	if err != nil || inode == id.Inode {
		return id, nil
	}
	return ID{Inode: inode}, nil
}

func (w *walk) Hooks() []kernel.Hook {
	var hooks []kernel.Hook
	for _, h := range w.object.Hooks {
		switch h.Name {
		case hookWalk:
			h.Name = HookNamespaces
		case HookTasks:
			if h.Variant == kernel.NoVariant {
				h.Variant = "procfs"
			}
		case HookSockets, HookListeners:
		default:
			continue
		}
		hooks = append(hooks, h)
	}
	return hooks
}

func (w *walk) Close() error { return w.object.Close() }

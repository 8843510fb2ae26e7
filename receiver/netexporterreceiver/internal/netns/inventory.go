// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/monotonic"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
)

const (
	// tombstone is how long a namespace that is gone is still known, so that its last events are
	// told whose they were.
	tombstone = time.Minute
	// ownerTries is how often the owner of a namespace is looked for while its processes stay the
	// same: a runtime moves a process into its cgroup only after it has started it.
	ownerTries = 5
	// ownerReads bounds the processes of a namespace that are looked at each time.
	ownerReads = 16
	// ownerPause is the least time between two looks at all processes for the sake of the events of one
	// namespace. Of many that begin at once each is looked for at its first event.
	ownerPause = 250 * time.Millisecond
	// A look at all processes for the sake of an event takes a millisecond of a CPU, or with thousands of processes
	// tens of them. All looks together may take one part in lookShare of one, and what was saved up, up to lookBurst.
	lookShare = 20
	lookBurst = 250 * time.Millisecond
)

// Inventory knows who lives in the network namespaces. It alone uses its source, and may be used by
// several goroutines.
type Inventory struct {
	source   Source
	procRoot string
	nameDir  string // /run/netns
	// cgroupBegin is where the cgroup namespace of this process begins.
	cgroupBegin string
	now         func() time.Time
	used        func() time.Duration // CPU time of the calling thread

	mu       sync.Mutex
	entries  map[ID]*entry
	names    map[uint32]string // by inode
	namesAge time.Time         // modification time of nameDir
	tasks    []Task
	counters []Counter
	io       map[taskID]IO // of the processes at the last pass
	netlink  *nslink.Reader
	diag     *nslink.Reader // of sockets, nil if the source serves them
	want     nslink.Want
	own      uint32           // inode of the namespace that this process is in
	missing  map[ID]time.Time // what Lookup has looked for in vain
	updated  time.Time        // when the last pass was
	// lookTime is what looks for the sake of events may take yet, as of lookAsOf.
	lookTime time.Duration
	lookAsOf time.Time
}

type entry struct {
	Namespace
	seen time.Time // when the last pass met it
	// How often its processes were asked whose they are, and how often of it for the sake of an event.
	tries, asked int
	askAfter     time.Time // not before is the next time for the sake of an event
	ownerTask    taskID    // the process that told
	// What the processes were when tries was 0.
	firstTask taskID
	taskCount int
	// io is what the processes of the namespace have read and written, those that have ended and
	// those before the first pass included. What a process does after its last pass is not seen.
	io IO
	// tracked is true if connection tracking has been on.
	tracked bool
	// conntrack is what the connection tracking of the namespace has counted.
	conntrack monotonic.PerCPU
}

// taskID is a process for as long as the host runs.
type taskID struct {
	tgid  int
	start uint64
}

func (t Task) id() taskID { return taskID{t.TGID, t.Start} }

// NewInventory returns an empty inventory of what source reads; root is the host's root directory
// as this process sees it.
// It fills in the counters of tasks among those that the source was asked for.
func NewInventory(source Source, root string, counters []Counter) *Inventory {
	return &Inventory{
		source:      source,
		procRoot:    filepath.Join(root, "proc"),
		nameDir:     filepath.Join(root, "run", "netns"),
		cgroupBegin: cgroupNamespace(root),
		now:         time.Now,
		used:        threadTime,
		entries:     map[ID]*entry{},
		missing:     map[ID]time.Time{},
		counters:    counters,
		io:          map[taskID]IO{},
	}
}

// Use makes the inventory read another source, for other counters. What it knows of the namespaces stays, and so does what
// they have counted. ReadNetlink and ReadSockets are called anew.
func (v *Inventory) Use(source Source, counters []Counter) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !wantsTasks(v.counters) {
		// What processes have done was not followed: it begins with what those do that are there.
		for _, e := range v.entries {
			e.io = IO{}
		}
		v.io = map[taskID]IO{}
	}
	v.source, v.counters, v.want, v.diag = source, counters, nslink.Want{}, nil
}

// ReadNetlink makes the inventory fill in the counters of interfaces and connection tracking, too,
// of the namespaces that something leads into.
func (v *Inventory) ReadNetlink(r *nslink.Reader) error {
	own, err := newProc(v.procRoot, nil).inode(filepath.Join("self", "ns", "net"))
	if err != nil {
		return fmt.Errorf("find the own network namespace: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.netlink, v.own, v.want = r, own, nslink.Want{}
	for _, c := range v.counters {
		v.want.Links = v.want.Links || c.Links != nil
		v.want.Conntrack = v.want.Conntrack || c.Conntrack != nil
	}
	return nil
}

// StopNetlink makes the inventory leave interfaces and connection tracking alone.
func (v *Inventory) StopNetlink() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.want = nslink.Want{}
}

// Pass reads all namespaces with their counters, appending one row each to rows, and brings the
// inventory up to date. The rows are complete even if it returns an error, unless they are nil.
func (v *Inventory) Pass(rows []Row) ([]Row, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	rows, err := v.source.Rows(rows)
	if len(rows) == 0 {
		return nil, err
	}
	err = errors.Join(err, v.update(rows))
	return rows, errors.Join(err, v.readNetlink(rows), v.readSockets(rows))
}

// readNetlink enters each namespace that has a name or a process, and something to read.
func (v *Inventory) readNetlink(rows []Row) error {
	if v.want == (nslink.Want{}) {
		return nil
	}
	pids := make(map[ID]int, len(v.entries))
	for _, t := range v.tasks {
		if pids[t.NetNS] == 0 {
			pids[t.NetNS] = t.TGID
		}
	}
	// A dump of connection tracking costs as much as all the rest: only where it can be on.
	var tracked, untracked netlinkPass
	for i := range rows {
		row := &rows[i]
		e, pid := v.entries[row.ID], pids[row.ID]
		e.tracked = e.tracked || !row.Untracked // what it has counted stays
		switch {
		case e.tracked && v.want.Conntrack:
			t := v.target(row.ID, pid)
			t.Counted = &e.conntrack
			tracked.add(t, row)
		case row.Deviceless:
			v.fillNetlink(row, nslink.Stats{Links: nslink.LinkStats{Present: true}}, nslink.Want{Links: true})
		default:
			untracked.add(v.target(row.ID, pid), row)
		}
	}
	return errors.Join(
		v.readWithin(tracked, v.want),
		v.readWithin(untracked, nslink.Want{Links: v.want.Links}),
	)
}

// target returns what leads into a namespace, nothing if it has neither a name nor a process.
func (v *Inventory) target(id ID, pid int) nslink.Target {
	t := nslink.Target{Inode: id.Inode}
	switch name := v.names[id.Inode]; {
	case id.Inode == v.own:
		t.Path = filepath.Join(v.procRoot, "self", "ns", "net")
	case name != "":
		t.Path = filepath.Join(v.nameDir, name)
	case pid != 0:
		t.Path = filepath.Join(v.procRoot, strconv.Itoa(pid), "ns", "net")
	}
	return t
}

// netlinkPass is namespaces of which the same is read.
type netlinkPass struct {
	targets []nslink.Target
	rows    []*Row
}

func (p *netlinkPass) add(t nslink.Target, row *Row) {
	if t.Path != "" {
		p.targets, p.rows = append(p.targets, t), append(p.rows, row)
	}
}

func (v *Inventory) readWithin(p netlinkPass, want nslink.Want) error {
	if len(p.targets) == 0 || want == (nslink.Want{}) {
		return nil
	}
	return v.netlink.Read(p.targets, want, func(i int, s nslink.Stats) { v.fillNetlink(p.rows[i], s, want) })
}

// fillNetlink fills in what was read of what was asked for. Where connection tracking has never been
// on its counters are 0.
func (v *Inventory) fillNetlink(row *Row, s nslink.Stats, asked nslink.Want) {
	row.Links, row.Conntrack = s.Links.Present, s.Conntrack.Present || v.want.Conntrack && !asked.Conntrack
	for j, c := range v.counters {
		switch {
		case c.Links != nil:
			row.Values[j] = c.Links(&s.Links)
		case c.Conntrack != nil:
			row.Values[j] = c.Conntrack(&s.Conntrack)
		}
	}
}

func (v *Inventory) update(rows []Row) error {
	now := v.now()
	v.updated = now
	host, hostErr := v.source.Host()
	nameErr := v.readNames()
	var taskErr error
	v.tasks, taskErr = v.source.Tasks(v.tasks[:0])
	byNetNS := map[ID][]Task{}
	for _, t := range v.tasks {
		byNetNS[t.NetNS] = append(byNetNS[t.NetNS], t)
	}
	done := v.ioSince()
	for i := range rows {
		row := &rows[i]
		e := v.entries[row.ID]
		if e == nil {
			e = &entry{Namespace: Namespace{ID: row.ID}}
			v.entries[row.ID] = e
		}
		e.seen = now
		e.Host = row.ID.Inode == host.Inode && host.Inode != 0
		e.Name = v.names[row.ID.Inode]
		if !e.Host {
			v.findOwner(e, byNetNS[row.ID])
		}
		e.io.add(done[row.ID])
		v.fillUsage(row, e, byNetNS[row.ID])
	}
	for id, e := range v.entries {
		if now.Sub(e.seen) > tombstone {
			delete(v.entries, id)
		}
	}
	for id, since := range v.missing {
		if now.Sub(since) > tombstone {
			delete(v.missing, id)
		}
	}
	return errors.Join(hostErr, nameErr, taskErr)
}

// ioSince returns what the processes of each namespace have read and written since the last pass. A
// process that has begun since has done all of it since.
func (v *Inventory) ioSince() map[ID]IO {
	done := map[ID]IO{}
	now := make(map[taskID]IO, len(v.tasks))
	for _, t := range v.tasks {
		if t.Usage == (Usage{}) {
			continue
		}
		sum := done[t.NetNS]
		sum.add(t.Usage.IO.sub(v.io[t.id()]))
		done[t.NetNS] = sum
		now[t.id()] = t.Usage.IO
	}
	v.io = now
	return done
}

// fillUsage fills the counters of tasks in.
func (v *Inventory) fillUsage(row *Row, e *entry, tasks []Task) {
	var usage Usage
	for _, t := range tasks {
		usage.FDs += t.Usage.FDs
		usage.Sockets += t.Usage.Sockets
	}
	usage.IO = e.io
	for i, c := range v.counters {
		if c.Tasks != nil {
			row.Values[i] = c.Tasks(&usage)
		}
	}
}

// findOwner asks the processes of a namespace, oldest first, whose they are. A pod is final; but without a cookie only as
// long as the process lives that told: the namespace may be another that got the same inode.
func (v *Inventory) findOwner(e *entry, tasks []Task) {
	told := slices.ContainsFunc(tasks, func(t Task) bool { return t.id() == e.ownerTask })
	if len(tasks) == 0 || e.PodUID != "" && (e.Cookie != 0 || told) {
		return
	}
	slices.SortFunc(tasks, byAge)
	// A container alone may be the one that the node is: where Kubernetes runs in Docker, all is in it from the beginning.
	if tasks[0].id() != e.firstTask || e.Owner == (Owner{}) && len(tasks) != e.taskCount {
		e.firstTask, e.taskCount, e.tries = tasks[0].id(), len(tasks), 0
	}
	if e.tries == ownerTries {
		return
	}
	e.tries++
	if e.Cookie == 0 && !told {
		e.Owner = Owner{}
	}
	for _, t := range tasks[:min(len(tasks), ownerReads)] {
		owner, err := v.readOwner(t.TGID)
		if err != nil {
			continue // it has ended
		}
		if owner.PodUID != "" || e.Owner == (Owner{}) && owner != (Owner{}) {
			e.Owner, e.ownerTask = owner, t.id()
		}
		if e.PodUID != "" {
			return
		}
	}
}

func (v *Inventory) readOwner(pid int) (Owner, error) {
	f, err := os.Open(filepath.Join(v.procRoot, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return Owner{}, err
	}
	defer f.Close()
	return parseOwner(f, v.cgroupBegin)
}

// readNames lists the files on which namespaces are mounted, as ip-netns(8) and CNI make them, if
// the directory has changed.
func (v *Inventory) readNames() error {
	info, err := os.Stat(v.nameDir)
	if errors.Is(err, os.ErrNotExist) {
		v.names = nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("list named network namespaces: %w", err)
	}
	// A mount on a file does not touch the directory, and it follows the file's creation: look
	// again for a while.
	if v.names != nil && info.ModTime().Equal(v.namesAge) && v.now().Sub(v.namesAge) > tombstone {
		return nil
	}
	files, err := os.ReadDir(v.nameDir)
	if err != nil {
		return fmt.Errorf("list named network namespaces: %w", err)
	}
	v.names, v.namesAge = make(map[uint32]string, len(files)), info.ModTime()
	for _, f := range files {
		info, err := os.Stat(filepath.Join(v.nameDir, f.Name()))
		if err != nil {
			continue // it has just been deleted
		}
		v.names[inodeOf(info)] = f.Name()
	}
	return nil
}

// Inhabited is a namespace and the processes in it, oldest first.
type Inhabited struct {
	Namespace
	Tasks []Task
}

// Namespaces returns the namespaces that the last pass met, in the order of their ids. If that is longer ago than maxAge, it
// makes a pass without counters itself.
func (v *Inventory) Namespaces(maxAge time.Duration) ([]Inhabited, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	if v.now().Sub(v.updated) > maxAge {
		var rows []Row
		if rows, err = v.source.Rows(nil); err == nil {
			err = v.update(rows)
		}
	}
	byNetNS := map[ID][]Task{}
	for _, t := range v.tasks {
		byNetNS[t.NetNS] = append(byNetNS[t.NetNS], t)
	}
	all := make([]Inhabited, 0, len(v.entries))
	for id, e := range v.entries {
		if !e.seen.Equal(v.updated) {
			continue
		}
		slices.SortFunc(byNetNS[id], byAge)
		all = append(all, Inhabited{e.Namespace, byNetNS[id]})
	}
	slices.SortFunc(all, func(a, b Inhabited) int {
		return cmp.Or(cmp.Compare(a.Cookie, b.Cookie), cmp.Compare(a.Inode, b.Inode))
	})
	return all, err
}

func byAge(a, b Task) int { return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.TGID, b.TGID)) }

// Known tells whether a namespace is there or has been until a minute ago.
func (v *Inventory) Known(id ID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.entries[id] != nil
}

// Namespace returns what the last pass has found out about a namespace.
func (v *Inventory) Namespace(id ID) Namespace {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.entries[id]; e != nil {
		return e.Namespace
	}
	return Namespace{ID: id}
}

// Lookup returns what is known of the namespace of an event, which may be gone for up to a minute. The events of a
// new namespace come before the next pass: Lookup makes one, once for each namespace. One that the last
// pass met before its first process came is looked at again, a few times. Both happen within the time that looks
// for the sake of events may take.
func (v *Inventory) Lookup(id ID) (Namespace, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e := v.entries[id]; e != nil {
		if !e.Host && e.Owner == (Owner{}) && e.asked < ownerTries && !v.now().Before(e.askAfter) {
			v.look(func() { v.askAgain(e) })
		}
		return e.Namespace, true
	}
	if _, inVain := v.missing[id]; inVain || id == (ID{}) {
		return Namespace{ID: id}, false
	}
	v.look(func() {
		if rows, err := v.source.Rows(nil); err == nil {
			// What else fails here fails, and is reported, in the next pass too.
			_ = v.update(rows)
		}
		if v.entries[id] == nil {
			v.missing[id] = v.now()
		}
	})
	if e := v.entries[id]; e != nil {
		return e.Namespace, true
	}
	return Namespace{ID: id}, false
}

// look calls f, which looks at processes for the sake of an event, if there is time for that.
func (v *Inventory) look(f func()) {
	begin := v.now()
	v.lookTime = min(lookBurst, v.lookTime+begin.Sub(v.lookAsOf)/lookShare)
	v.lookAsOf = begin
	if v.lookTime <= 0 {
		return
	}
	// Not what it takes by the clock: a busy node would have the fewest names, for want of looks that others delay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := v.used()
	f()
	v.lookTime -= v.used() - before
}

func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // since Linux 2.6.12
	return time.Duration(t.Nano())
}

// askAgain looks at all processes for those of one namespace, and at the names: a pass may have come between the making of a
// namespace and its naming.
func (v *Inventory) askAgain(e *entry) {
	e.asked++
	e.askAfter = v.now().Add(ownerPause)
	if v.readNames() == nil {
		e.Name = v.names[e.ID.Inode]
	}
	tasks, err := v.source.Tasks(nil)
	if err != nil {
		return // and the next pass reports it
	}
	v.findOwner(e, slices.DeleteFunc(tasks, func(t Task) bool { return t.NetNS != e.ID }))
}

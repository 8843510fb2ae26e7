// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package netns knows the network namespaces of the host: which there are, their counters, who
// lives in them.
package netns

import (
	"fmt"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
)

// ID identifies a network namespace. The inode number is what users see and what the kernel
// reuses; the cookie is never reused, and 0 on kernels before 5.12. The zero ID is no namespace.
type ID struct {
	Cookie uint64
	Inode  uint32
}

func (id ID) String() string { return fmt.Sprintf("netns %d (cookie %d)", id.Inode, id.Cookie) }

// Namespace is what is known of a network namespace.
type Namespace struct {
	ID
	// Host is true for the namespace of the host.
	Host bool
	// Name is its file's name in /run/netns, empty if it has none there.
	Name string
	// Owner is the container and pod that its processes belong to.
	Owner
}

// Counter tells where a counter of a namespace is. Exactly one of MIB, Sockets, Listeners, Tasks,
// Links and Conntrack is set.
type Counter struct {
	// MIB is the member of the kernel's enum that indexes it: TCP_MIB_*, UDP_MIB_* or LINUX_MIB_*
	// (include/uapi/linux/snmp.h). A UDP_MIB_* is the sum of IPv4 and IPv6.
	MIB string
	// Proc are the names of a MIB counter in /proc/<pid>/net: snmp, netstat ("TcpExt.ListenDrops")
	// and snmp6 ("Udp6NoPorts"). Their sum is the counter.
	Proc []string
	// Sockets takes it from the TCP sockets of the namespace.
	Sockets func(*Sockets) uint64
	// Listeners takes it from the listening TCP sockets of the namespace.
	Listeners func(*Listeners) uint64
	// Tasks takes it from the processes in the namespace.
	Tasks func(*Usage) uint64
	// Links takes it from the interfaces of the namespace.
	Links func(*nslink.LinkStats) uint64
	// Conntrack takes it from the connection tracking of the namespace.
	Conntrack func(*nslink.ConntrackStats) uint64
}

// Sockets sums up the TCP sockets of a namespace, IPv4 and IPv6.
type Sockets struct {
	Established, TimeWait uint64
	// Bytes in the queues of established connections.
	TxQueue, RxQueue uint64
}

// Listeners sums up the listening TCP sockets of a namespace, IPv4 and IPv6.
type Listeners struct {
	Sockets uint64
	// Connections in their accept queues, and how many there may be: the kernel refuses a connection
	// only once a queue is longer than its limit.
	AcceptQueue, Limit uint64
	// Sockets whose queue takes no more connections.
	Full uint64
}

// Usage is what processes have and have done.
type Usage struct {
	// Open file descriptors, and those of them that are sockets.
	FDs, Sockets uint64
	IO           IO
}

// IO is what processes have read and written since they began, as /proc/<pid>/io tells: threads
// that have ended included.
type IO struct {
	ReadCalls, WriteCalls uint64
	// Bytes that storage was asked for.
	ReadBytes, WriteBytes uint64
}

func (u *IO) add(v IO) {
	u.ReadCalls += v.ReadCalls
	u.WriteCalls += v.WriteCalls
	u.ReadBytes += v.ReadBytes
	u.WriteBytes += v.WriteBytes
}

// sub returns what has been done since before.
func (u IO) sub(before IO) IO {
	return IO{
		u.ReadCalls - before.ReadCalls, u.WriteCalls - before.WriteCalls,
		u.ReadBytes - before.ReadBytes, u.WriteBytes - before.WriteBytes,
	}
}

// Row is one namespace with the counters that were asked for, in that order.
type Row struct {
	ID     ID
	Values []uint64
	// Links and Conntrack are false if those could not be read: nothing leads into a namespace that
	// has neither a process nor a name.
	Links, Conntrack bool
	// Deviceless is true if the namespace is known to have no network device other than lo.
	Deviceless bool
	// NoSockets is true if the sockets were to be read within the namespace, and could not be.
	NoSockets bool
	// Untracked is true if connection tracking is known to be off in the namespace.
	Untracked bool
}

// Task is a process, or a thread that is in another network namespace than its process.
type Task struct {
	NetNS ID
	TGID  int
	// Start orders tasks by age; its unit depends on the source.
	Start uint64
	// Usage is that of the process; a thread has none.
	Usage Usage
}

// Source reads the namespaces of the host.
type Source interface {
	// Rows appends one row for every namespace to rows, whose values it may reuse. Counters of
	// tasks are left for who reads the tasks.
	Rows(rows []Row) ([]Row, error)
	// Serves tells for each counter that was asked for whether it can be had on this kernel.
	Serves() []bool
	// Tasks appends all tasks to tasks.
	Tasks(tasks []Task) ([]Task, error)
	// Host returns the namespace of the host.
	Host() (ID, error)
	// Hooks returns the mechanisms behind the rows, the counters of sockets and the tasks, as hooks
	// HookNamespaces, HookSockets, HookListeners and HookTasks.
	Hooks() []kernel.Hook
	Close() error
}

// The hooks of a Source, and that of what an Inventory reads within namespaces.
const (
	HookNamespaces = "namespaces"
	HookSockets    = "sockets"
	HookListeners  = "listeners"
	HookTasks      = "tasks"
	HookNetlink    = "netlink"
)

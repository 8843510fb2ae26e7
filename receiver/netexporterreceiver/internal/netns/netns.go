// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package netns knows the network namespaces of the host: which there are, their counters, who
// lives in them.
package netns

import "fmt"

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

// Counter names a counter of a namespace in both places where the kernel keeps it.
type Counter struct {
	// MIB is the member of the kernel's enum that indexes it: TCP_MIB_*, UDP_MIB_* or LINUX_MIB_*
	// (include/uapi/linux/snmp.h). A UDP_MIB_* is the sum of IPv4 and IPv6.
	MIB string
	// Proc are its names in /proc/<pid>/net: snmp, netstat ("TcpExt.ListenDrops") and snmp6
	// ("Udp6NoPorts"). Their sum is the counter.
	Proc []string
}

// Row is one namespace with the counters that were asked for, in that order.
type Row struct {
	ID     ID
	Values []uint64
}

// Task is a process, or a thread that is in another network namespace than its process.
type Task struct {
	NetNS ID
	TGID  int
	// Start orders tasks by age; its unit depends on the source.
	Start uint64
}

// Source reads the namespaces of the host.
type Source interface {
	// Rows appends one row for every namespace to rows, whose values it may reuse.
	Rows(rows []Row) ([]Row, error)
	// Serves tells for each counter that was asked for whether this kernel has it.
	Serves() []bool
	// Tasks appends all tasks to tasks.
	Tasks(tasks []Task) ([]Task, error)
	// Host returns the namespace of the host.
	Host() (ID, error)
	// Variants returns the mechanism behind Rows and that behind Tasks.
	Variants() (rows, tasks string)
	Close() error
}

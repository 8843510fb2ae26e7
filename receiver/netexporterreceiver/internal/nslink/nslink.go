// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package nslink reads what only a socket inside a network namespace can tell: the statistics of
// its interfaces (rtnetlink) and of its connection tracking (ctnetlink), and its TCP sockets
// (sock_diag).
package nslink

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/monotonic"
)

const (
	// maxErrors bounds the errors that a pass spells out.
	maxErrors = 8
	// askAgain is how long a kernel that has no ctnetlink is not asked again: each time the kernel
	// looks for a module.
	askAgain = time.Minute
)

var errClosed = errors.New("nslink: the reader is closed")

// Target is a network namespace to read.
type Target struct {
	// Inode of the namespace. What Path leads to is left alone if it has another one, because by
	// now the process is another or the name has been given to another namespace.
	Inode uint32
	// Path of a file of the namespace: <root>/proc/<pid>/ns/net or <root>/run/netns/<name>.
	Path string
	// Counted holds what the connection tracking of the namespace has counted up to the last pass, and
	// is brought up to date; nil if there is no other pass.
	Counted *monotonic.PerCPU
}

// Want is what to read.
type Want struct {
	Links     bool
	Conntrack bool
	// Sockets costs a walk of the hash tables of the whole host for each namespace and IP version.
	Sockets bool
}

// LinkStats sums up the interfaces of a namespace, the loopback interface left out (struct
// rtnl_link_stats64 of include/uapi/linux/if_link.h). As in /proc/net/dev, RxDropped holds what the
// devices themselves missed too (dev_seq_printf_stats() of net/core/net-procfs.c).
type LinkStats struct {
	RxBytes, TxBytes     uint64
	RxPackets, TxPackets uint64
	RxErrors, TxErrors   uint64
	RxDropped, TxDropped uint64
	// Present is true if they were asked for and read.
	Present bool
}

// ConntrackStats is the connection tracking of a namespace (enum ctattr_stats_cpu and
// ctattr_stats_global of include/uapi/linux/netfilter/nfnetlink_conntrack.h). All but Entries are
// sums over the CPUs, each of which counts to 2^32 and wraps: Target.Counted makes them sums that never
// fall. What a kernel does not count is 0:
// Ignore on later ones, and everything in a namespace that does not track connections.
type ConntrackStats struct {
	Entries       uint64
	Found         uint64
	Insert        uint64
	InsertFailed  uint64
	Invalid       uint64
	Ignore        uint64
	Drop          uint64
	EarlyDrop     uint64
	SearchRestart uint64
	// Present is true if they were asked for and read; it is false if the kernel has no ctnetlink.
	Present bool

	counted *monotonic.PerCPU
}

// SocketStats sums up the TCP sockets of a namespace, IPv4 and IPv6.
type SocketStats struct {
	Established, TimeWait uint64
	// Bytes in the queues of established connections.
	TxQueue, RxQueue uint64
	// Sockets that listen, the connections in their accept queues, how many there may be, and sockets
	// whose queue takes no more.
	Listening, AcceptQueue, AcceptLimit, AcceptFull uint64
	// Present is true if they were asked for and read; it is false if the kernel has no tcp_diag.
	Present bool
}

// Stats is what was read of a namespace.
type Stats struct {
	Links     LinkStats
	Conntrack ConntrackStats
	Sockets   SocketStats
}

// PermissionError says which capability a pass lacks. It wraps the kernel's error, so that it is
// fs.ErrPermission too.
type PermissionError struct {
	Operation  string
	Capability string // CAP_SYS_ADMIN and the like
	Err        error
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("%s: %v (it takes %s)", e.Operation, e.Err, e.Capability)
}

func (e *PermissionError) Unwrap() error { return e.Err }

// Reader reads namespaces. It is for one goroutine at a time. Between passes it keeps nothing of
// other namespaces: they would live as long as a file, a socket or a thread does in them.
type Reader struct {
	thread      *thread // nil if the last one is lost, or after Close
	closed      bool
	socket      socket
	path        []byte
	stat        unix.Stat_t
	read        []indexed
	noConntrack time.Time // when the kernel was found to have no ctnetlink
}

type indexed struct {
	target int
	stats  Stats
}

// New returns a Reader, which has an OS thread of its own until it is closed.
func New() (*Reader, error) {
	t, err := startThread()
	if err != nil {
		return nil, err
	}
	return &Reader{thread: t}, nil
}

// Read reads the targets and then calls visit, on the caller's goroutine and in their order, with
// the index and the statistics of each that could be read. Targets that are gone or have become
// another namespace are passed over silently. The error, which leaves visit's other calls complete,
// joins a bounded number of errors; a *PermissionError is among them if a capability is missing.
func (r *Reader) Read(targets []Target, want Want, visit func(i int, s Stats)) error {
	if r.closed {
		return errClosed
	}
	if r.thread == nil {
		t, err := startThread()
		if err != nil {
			return err
		}
		r.thread = t
	}
	r.read = r.read[:0]
	var failed failures
	lost := r.thread.do(func() (left bool) {
		for i := range targets {
			t := &targets[i]
			if entered, err := r.enter(t); !entered {
				failed.add(t, err)
				continue
			}
			left = true
			s, err := r.ask(want, t.Counted)
			failed.add(t, err)
			r.read = append(r.read, indexed{i, s})
		}
		return left
	})
	if lost != nil {
		r.thread = nil
	}
	for i := range r.read {
		visit(r.read[i].target, r.read[i].stats)
	}
	return failed.join(lost)
}

// Close gives the thread back. Closing again does nothing.
func (r *Reader) Close() error {
	if r.thread != nil {
		r.thread.stop()
	}
	r.thread, r.closed = nil, true
	return nil
}

// enter takes the thread into the namespace of a target. It returns false without an error if that
// is gone.
func (r *Reader) enter(t *Target) (bool, error) {
	r.path = append(append(r.path[:0], t.Path...), 0)
	fd, err := open(r.path)
	if err != nil {
		return false, r.openError(err)
	}
	// Nothing but the thread keeps the namespace from here on.
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &r.stat); err != nil {
		return false, fmt.Errorf("stat: %w", err)
	}
	if r.stat.Ino != uint64(t.Inode) {
		return false, nil
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return false, permission("setns", "CAP_SYS_ADMIN", err)
	}
	return true, nil
}

// openError returns nil if a namespace could not be opened because it is gone.
func (r *Reader) openError(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH):
		return nil
	case errors.Is(err, unix.EACCES):
		// proc_ns_get_link() of fs/proc/namespaces.c says the same of a process that has just gone.
		path := string(r.path[:len(r.path)-1])
		if gone := unix.Lstat(path, &r.stat); errors.Is(gone, unix.ENOENT) || errors.Is(gone, unix.ESRCH) {
			return nil
		}
	}
	return permission("open", "CAP_SYS_PTRACE", err)
}

// ask reads the namespace that the thread is in.
func (r *Reader) ask(want Want, counted *monotonic.PerCPU) (s Stats, err error) {
	if want.Links {
		answer, linksErr := r.socket.ask(unix.NETLINK_ROUTE, linksRequest, Stats{})
		if linksErr == nil {
			s.Links = answer.Links
			s.Links.Present = true
		} else {
			err = fmt.Errorf("read interfaces: %w", linksErr)
		}
	}
	if want.Conntrack && (r.noConntrack.IsZero() || time.Since(r.noConntrack) > askAgain) {
		r.noConntrack = time.Time{}
		empty := Stats{Conntrack: ConntrackStats{counted: counted}}
		answer, conntrackErr := r.socket.ask(unix.NETLINK_NETFILTER, conntrackRequest, empty)
		switch {
		case conntrackErr == nil:
			s.Conntrack = answer.Conntrack
			s.Conntrack.Present, s.Conntrack.counted = true, nil
		case isUnsupported(conntrackErr):
			r.noConntrack = time.Now()
		default:
			err = errors.Join(err, permission("read connection tracking", "CAP_NET_ADMIN", conntrackErr))
		}
	}
	if want.Sockets {
		sockets, socketsErr := r.askSockets()
		switch {
		case socketsErr == nil:
			s.Sockets = sockets
			s.Sockets.Present = true
		case !isUnsupported(socketsErr):
			err = errors.Join(err, permission("read sockets", "CAP_NET_ADMIN", socketsErr))
		}
	}
	return s, err
}

// askSockets reads the sockets of one IP version after the other: the kernel does one dump at a time.
func (r *Reader) askSockets() (SocketStats, error) {
	answer, err := r.socket.ask(unix.NETLINK_SOCK_DIAG, socketsRequest4, Stats{})
	if err == nil {
		answer, err = r.socket.ask(unix.NETLINK_SOCK_DIAG, socketsRequest6, *answer)
	}
	if err != nil {
		return SocketStats{}, err
	}
	return answer.Sockets, nil
}

// isUnsupported tells whether the kernel lacks a netlink family or a subsystem of one: EINVAL from
// NETLINK_NETFILTER (nfnetlink_rcv_msg() of net/netfilter/nfnetlink.c), ENOENT from
// NETLINK_SOCK_DIAG (inet_diag_lock_handler() of net/ipv4/inet_diag.c).
func isUnsupported(err error) bool {
	for _, errno := range [...]unix.Errno{
		unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOENT,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// permission says which capability an operation needs, if that is why it failed.
func permission(operation, capability string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &PermissionError{operation, capability, err}
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// failures are the errors of a pass.
type failures struct {
	errs []error
	more int
}

func (f *failures) add(t *Target, err error) {
	switch {
	case err == nil:
	case len(f.errs) < maxErrors:
		f.errs = append(f.errs, fmt.Errorf("network namespace %d (%s): %w", t.Inode, t.Path, err))
	default:
		f.more++
	}
}

func (f *failures) join(other error) error {
	if f.more > 0 {
		f.errs = append(f.errs, fmt.Errorf("%d more network namespaces could not be read", f.more))
	}
	return errors.Join(append(f.errs, other)...)
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Device is the name of the veth end in either namespace of a Pair.
	Device = "nxt0"
	// Timeout bounds every wait. It is far beyond what any of them takes, for the sake of emulated machines.
	Timeout = 30 * time.Second

	netnsDir     = "/run/netns"
	pollInterval = time.Millisecond
)

// Family is an IP version.
type Family int

// The families. Their values are the IP version numbers.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families returns both families, for tests that range over them.
func Families() []Family { return []Family{IPv4, IPv6} }

// String returns "ipv4" or "ipv6", the values of the attribute network.type.
func (f Family) String() string { return fmt.Sprintf("ipv%d", int(f)) }

// network returns the name that package net has for a transport of this family, say "tcp6".
func (f Family) network(transport string) string { return fmt.Sprintf("%s%d", transport, int(f)) }

// T is what the package needs of a test, and *[testing.T] has. Fatal, Fatalf, Skip and Skipf do not return.
type T interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Failed() bool
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Skipf(format string, args ...any)
}

// Namespace is a network namespace.
type Namespace struct {
	// Name is the one that `ip netns` shows; a private namespace, which has none, is called after its role.
	Name string
	// Inode is that of the nsfs file, the number in /proc/<pid>/ns/net.
	Inode uint64
	// Cookie is SO_NETNS_COOKIE; 0 on kernels without it (before 5.14).
	Cookie uint64
	// Addresses holds the address of Device by family; a namespace of NewNamespace has none.
	Addresses map[Family]netip.Addr

	handle *os.File
}

// Pair is two namespaces, each other's only neighbor.
type Pair struct {
	// A is the client and the sender of datagrams in every stimulus, B the server and receiver.
	A, B *Namespace
}

// NewNamespace makes a namespace with nothing but lo, which is up.
func NewNamespace(t T) *Namespace {
	t.Helper()
	n := add(t, fmt.Sprintf("nxt%dn%08x", os.Getpid(), rand.Uint32()))[0]
	n.configure(t, upLoopback)
	return n
}

// New makes two namespaces joined by a veth pair: 10.77.0.1/24 and fd77::1/64 are A's, 10.77.0.2 and fd77::2 B's. Both
// families carry packets both ways when it returns, and no counter of TCP or UDP has moved.
func New(t T) *Pair {
	t.Helper()
	name := fmt.Sprintf("nxt%dn%08x", os.Getpid(), rand.Uint32())
	both := add(t, name+"a", name+"b")
	return join(t, both[0], both[1])
}

// NewPrivate is New without names: the namespaces are gone with this process, however that ends, and nothing outside them
// is touched. It needs no program.
func NewPrivate(t T) *Pair {
	t.Helper()
	requireIPv6(t)
	return join(t, unnamed(t, "a"), unnamed(t, "b"))
}

// join joins two namespaces by a veth pair.
func join(t T, a, b *Namespace) *Pair {
	t.Helper()
	p := &Pair{A: a, B: b}
	a.configure(t, func() error {
		// The indexes differ because the kernel takes a second over the carrier of a veth end whose peer has the same one.
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: Device, Index: 10},
			PeerName:      Device,
			PeerNamespace: netlink.NsFd(b.handle.Fd()),
		})
	})
	for i, n := range []*Namespace{a, b} {
		n.Addresses = map[Family]netip.Addr{
			IPv4: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}),
			IPv6: netip.AddrFrom16([16]byte{0xfd, 0x77, 15: byte(i + 1)}),
		}
		n.configure(t, upLoopback, n.upDevice)
	}
	p.warmUp(t)
	return p
}

func upLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func (n *Namespace) upDevice() error {
	device, err := netlink.LinkByName(Device)
	if err != nil {
		return err
	}
	// No link-local address: no duplicate address detection and no router solicitations of its own accord.
	const none = 1 // IN6_ADDR_GEN_MODE_NONE of include/uapi/linux/if_link.h
	if err := netlink.LinkSetIP6AddrGenMode(device, none); err != nil {
		return err
	}
	for family, bits := range map[Family]int{IPv4: 24, IPv6: 64} {
		address := n.Addresses[family].AsSlice()
		err := netlink.AddrAdd(device, &netlink.Addr{
			IPNet: &net.IPNet{IP: address, Mask: net.CIDRMask(bits, 8*len(address))},
			Flags: unix.IFA_F_NODAD,
		})
		if err != nil {
			return fmt.Errorf("add address %s: %w", n.Addresses[family], err)
		}
	}
	return netlink.LinkSetUp(device)
}

// add makes the named namespaces and removes them when the test ends.
func add(t T, names ...string) []*Namespace {
	t.Helper()
	ip := iproute2(t)
	t.Cleanup(func() {
		for _, name := range names {
			if out, err := exec.Command(ip, "netns", "delete", name).CombinedOutput(); err != nil && !t.Failed() {
				t.Errorf("delete network namespace %s: %v: %s", name, err, out)
			}
		}
	})
	namespaces := make([]*Namespace, len(names))
	for i, name := range names {
		if out, err := exec.Command(ip, "netns", "add", name).CombinedOutput(); err != nil {
			t.Fatalf("add network namespace %s: %v: %s", name, err, out)
		}
		namespaces[i] = open(t, name, filepath.Join(netnsDir, name))
	}
	return namespaces
}

// unnamed makes a namespace that lives until the test ends, and no longer than this process.
func unnamed(t T, role string) *Namespace {
	t.Helper()
	made := make(chan string)
	release := make(chan struct{})
	defer close(release)
	go unshare(made, release)
	path := <-made
	if path == "" {
		t.Skip("may not make network namespaces: it takes CAP_SYS_ADMIN")
	}
	return open(t, role, path)
}

// unshare moves a thread to a new namespace, sends the path of that, empty if it may not make one, and ends the thread
// when it is released.
func unshare(made chan<- string, release <-chan struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// As in enter.
		defer runtime.UnlockOSThread()
		go unshare(made, release)
		<-release
		return
	}
	// Never unlocked: the thread ends with the goroutine.
	path := fmt.Sprintf("/proc/%d/task/%d/ns/net", unix.Getpid(), unix.Gettid())
	if unix.Unshare(unix.CLONE_NEWNET) != nil {
		path = ""
	}
	made <- path
	<-release
}

// open opens a namespace by a path to it.
func open(t T, name, path string) *Namespace {
	t.Helper()
	handle, err := os.Open(path)
	if err != nil {
		t.Fatalf("open network namespace %s: %v", name, err)
	}
	t.Cleanup(func() { _ = handle.Close() })
	n := &Namespace{Name: name, handle: handle}
	if err := n.identify(); err != nil {
		t.Fatalf("identify network namespace %s: %v", name, err)
	}
	return n
}

func (n *Namespace) identify() error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(n.handle.Fd()), &stat); err != nil {
		return err
	}
	n.Inode = stat.Ino
	var err error
	if e := n.do(func() { n.Cookie, err = cookie() }); e != nil {
		return e
	}
	return err
}

// cookie returns the cookie of the thread's namespace, 0 if the kernel has none.
func cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer closeFD(fd)
	value, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	return value, err
}

// Do runs f on a thread that is in the namespace, and returns when f has. What f opens stays in the namespace; a
// goroutine that f starts is not in it. f may end the test, as it could without Do.
func (n *Namespace) Do(t T, f func()) {
	t.Helper()
	returned := false
	if err := n.do(func() { f(); returned = true }); err != nil {
		t.Fatal(err)
	}
	if !returned {
		runtime.Goexit() // f called FailNow or SkipNow: end the goroutine that they were meant for too
	}
}

// do runs f on a thread of its own that has entered the namespace. f runs at most once, and not at all on an error.
func (n *Namespace) do(f func()) error {
	done := make(chan error, 1)
	go n.enter(f, done)
	return <-done
}

// enter runs f in the namespace and sends the error, or nil once f has ended.
func (n *Namespace) enter(f func(), done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The first thread's namespace is what others see as the process's own: leave it alone and hold it meanwhile,
		// so that the next goroutine gets another thread.
		defer runtime.UnlockOSThread()
		done <- n.do(f)
		return
	}
	var err error
	defer func() { done <- err }()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		err = fmt.Errorf("open the thread's own network namespace: %w", err)
		return
	}
	defer func() { _ = home.Close() }()
	if err = unix.Setns(int(n.handle.Fd()), unix.CLONE_NEWNET); err != nil {
		err = fmt.Errorf("enter network namespace %s: %w", n.Name, err)
		return
	}
	defer func() {
		// A thread that cannot go home stays locked, and so ends with this goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	f()
}

// configure runs steps in the namespace.
func (n *Namespace) configure(t T, steps ...func() error) {
	t.Helper()
	n.Do(t, func() {
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatalf("configure network namespace %s: %v", n.Name, err)
			}
		}
	})
}

// requireIPv6 skips the test where the kernel has none.
func requireIPv6(t T) {
	t.Helper()
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skipf("needs a kernel with IPv6: %v", err)
	}
}

// iproute2 returns the path of the `ip` program. Busybox's, which knows no namespaces, often comes first in PATH.
func iproute2(t T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	requireIPv6(t)
	for _, name := range []string{"ip", "/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if out, err := exec.Command(path, "-V").Output(); err == nil && strings.Contains(string(out), "iproute2") {
			return path
		}
	}
	t.Skip("needs the ip program of iproute2")
	return ""
}

// warmUp returns once a packet of each family has come through each way: the devices transmit (a veth end waits for its
// carrier asynchronously) and the neighbors are resolved. The packets are of an experimental protocol.
func (p *Pair) warmUp(t T) {
	t.Helper()
	for _, n := range []*Namespace{p.A, p.B} {
		n.Do(t, func() {
			Wait(t, Device+" of "+n.Name+" to be running", func() bool {
				device, err := net.InterfaceByName(Device)
				return err == nil && device.Flags&net.FlagRunning != 0
			})
		})
	}
	for _, family := range Families() {
		p.exchange(t, family, p.A, p.B)
		p.exchange(t, family, p.B, p.A)
	}
}

// exchange sends packets until one arrives.
func (p *Pair) exchange(t T, family Family, from, to *Namespace) {
	t.Helper()
	const experimental = 253 // RFC 3692
	sender := from.raw(t, family, experimental)
	defer closeFD(sender)
	receiver := to.raw(t, family, experimental)
	defer closeFD(receiver)
	wait := unix.Timeval{Sec: 1} // only the first packet can be lost
	if err := unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatalf("set receive timeout of raw socket: %v", err)
	}
	destination := sockaddr(netip.AddrPortFrom(to.Addresses[family], 0))
	Wait(t, fmt.Sprintf("an %s packet from %s to %s", family, from.Name, to.Name), func() bool {
		if err := unix.Sendto(sender, []byte("warm up"), 0, destination); err != nil {
			t.Fatalf("send to %s: %v", to.Addresses[family], err)
		}
		_, _, err := unix.Recvfrom(receiver, make([]byte, 128), 0)
		return err == nil
	})
}

// Wait polls until the condition holds, and fails the test if it does not within Timeout.
func Wait(t T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Timeout); !condition(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", Timeout, what)
		}
	}
}

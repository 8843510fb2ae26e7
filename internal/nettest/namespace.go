// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
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
	"testing"
	"time"

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

// Namespace is a network namespace with a name under /run/netns.
type Namespace struct {
	// Name is the one that `ip netns` shows.
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
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	ip := iproute2(t)
	name := fmt.Sprintf("nxt%dn%08x", os.Getpid(), rand.Uint32())
	n := add(t, ip, name)[0]
	n.configure(t, ip, "link set lo up")
	return n
}

// New makes two namespaces joined by a veth pair: 10.77.0.1/24 and fd77::1/64 are A's, 10.77.0.2 and fd77::2 B's. Both
// families carry packets both ways when it returns, and no counter of TCP or UDP has moved.
func New(t testing.TB) *Pair {
	t.Helper()
	ip := iproute2(t)
	name := fmt.Sprintf("nxt%dn%08x", os.Getpid(), rand.Uint32())
	both := add(t, ip, name+"a", name+"b")
	p := &Pair{A: both[0], B: both[1]}
	// The indexes differ because the kernel takes a second over the carrier of a veth end whose peer has the same one.
	run(t, ip, fmt.Sprintf("link add %s index 10 netns %s type veth peer name %s netns %s", Device, p.A.Name, Device, p.B.Name))
	for i, n := range both {
		n.Addresses = map[Family]netip.Addr{
			IPv4: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}),
			IPv6: netip.AddrFrom16([16]byte{0xfd, 0x77, 15: byte(i + 1)}),
		}
		n.configure(t, ip,
			"link set lo up",
			// No link-local address: no duplicate address detection and no router solicitations of its own accord.
			"link set "+Device+" addrgenmode none",
			"addr add "+n.Addresses[IPv4].String()+"/24 dev "+Device,
			"addr add "+n.Addresses[IPv6].String()+"/64 dev "+Device+" nodad",
			"link set "+Device+" up")
	}
	p.warmUp(t)
	return p
}

// add makes the named namespaces and removes them when the test ends.
func add(t testing.TB, ip string, names ...string) []*Namespace {
	t.Helper()
	t.Cleanup(func() {
		for _, name := range names {
			if out, err := exec.Command(ip, "netns", "delete", name).CombinedOutput(); err != nil && !t.Failed() {
				t.Errorf("delete network namespace %s: %v: %s", name, err, out)
			}
		}
	})
	commands := make([]string, len(names))
	for i, name := range names {
		commands[i] = "netns add " + name
	}
	run(t, ip, commands...)
	namespaces := make([]*Namespace, len(names))
	for i, name := range names {
		n, err := open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.handle.Close() })
		namespaces[i] = n
	}
	return namespaces
}

// open reads the identity of a namespace that exists.
func open(name string) (*Namespace, error) {
	handle, err := os.Open(filepath.Join(netnsDir, name))
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	n := &Namespace{Name: name, handle: handle}
	if err := n.identify(); err != nil {
		_ = handle.Close()
		return nil, fmt.Errorf("identify network namespace %s: %w", name, err)
	}
	return n, nil
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
func (n *Namespace) Do(t testing.TB, f func()) {
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

// configure runs commands of `ip` in the namespace.
func (n *Namespace) configure(t testing.TB, ip string, commands ...string) {
	t.Helper()
	n.Do(t, func() { run(t, ip, commands...) })
}

// run runs commands of `ip` in the thread's namespace, all by one process.
func run(t testing.TB, ip string, commands ...string) {
	t.Helper()
	cmd := exec.Command(ip, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", ip, commands, err, out)
	}
}

// iproute2 returns the path of the `ip` program. Busybox's, which knows no namespaces, often comes first in PATH.
func iproute2(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skipf("needs a kernel with IPv6: %v", err)
	}
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
func (p *Pair) warmUp(t testing.TB) {
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
func (p *Pair) exchange(t testing.TB, family Family, from, to *Namespace) {
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
func Wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Timeout); !condition(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", Timeout, what)
		}
	}
}

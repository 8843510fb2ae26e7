// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package nslink

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func target(n *nettest.Namespace) Target {
	return Target{Inode: uint32(n.Inode), Path: filepath.Join("/run/netns", n.Name)}
}

func targets(namespaces ...*nettest.Namespace) []Target {
	t := make([]Target, len(namespaces))
	for i, n := range namespaces {
		t[i] = target(n)
	}
	return t
}

func newReader(t testing.TB) *Reader {
	t.Helper()
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func everything() Want { return Want{Links: true, Conntrack: true} }

// read reads targets, each of which must be visited in turn.
func read(t testing.TB, r *Reader, targets []Target, want Want) []Stats {
	t.Helper()
	var all []Stats
	err := r.Read(targets, want, func(i int, s Stats) {
		if i != len(all) {
			t.Errorf("target %d was visited after %d others", i, len(all))
		}
		all = append(all, s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(targets) {
		t.Fatalf("read %d of %d namespaces", len(all), len(targets))
	}
	return all
}

func readOne(t testing.TB, n *nettest.Namespace, want Want) Stats {
	t.Helper()
	return read(t, newReader(t), targets(n), want)[0]
}

// devices sums up /proc/net/dev in the namespace, lo left out, and checks that lo has index 1.
func devices(t testing.TB, n *nettest.Namespace) LinkStats {
	t.Helper()
	l := LinkStats{Present: true}
	n.Do(t, func() {
		data, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			name, rest, ok := strings.Cut(line, ":")
			if !ok || strings.TrimSpace(name) == "lo" {
				continue
			}
			fields := strings.Fields(rest)
			for i, counter := range map[int]*uint64{
				0: &l.RxBytes, 1: &l.RxPackets, 2: &l.RxErrors, 3: &l.RxDropped,
				8: &l.TxBytes, 9: &l.TxPackets, 10: &l.TxErrors, 11: &l.TxDropped,
			} {
				value, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				*counter += value
			}
		}
	})
	return l
}

// send sends datagrams of 1000 bytes from A to B.
func send(t testing.TB, p *nettest.Pair, family nettest.Family, datagrams int) {
	t.Helper()
	server := p.B.ListenUDP(t, family)
	client := p.A.DialUDP(t, server.LocalAddr().(*net.UDPAddr).AddrPort())
	for range datagrams {
		if _, err := client.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 2000)); err != nil {
			t.Fatal(err)
		}
	}
}

// sendUnknown sends frames of a protocol that nobody has registered, which B drops.
func sendUnknown(t testing.TB, p *nettest.Pair, frames int) {
	t.Helper()
	p.A.Do(t, func() {
		device, err := net.InterfaceByName(nettest.Device)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		const experimental = 0xb588 // ETH_P_802_EX1 in network order
		to := &unix.SockaddrLinklayer{Protocol: experimental, Ifindex: device.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
		for range frames {
			if err := unix.Sendto(fd, make([]byte, 60), 0, to); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLinksEqualProc(t *testing.T) {
	p := nettest.New(t)
	for _, family := range nettest.Families() {
		send(t, p, family, 20)
	}
	sendUnknown(t, p, 7)
	for _, n := range []*nettest.Namespace{p.A, p.B} {
		var got, want LinkStats
		// A segment of the neighbor discovery may be on its way.
		nettest.Wait(t, "equal counters of "+n.Name, func() bool {
			want = devices(t, n)
			got = readOne(t, n, Want{Links: true}).Links
			return got == want && want == devices(t, n)
		})
		if got.TxBytes+got.RxBytes < 40_000 || got.TxPackets+got.RxPackets < 40 {
			t.Errorf("%s: got %+v after 40 datagrams of 1000 bytes", n.Name, got)
		}
	}
	if got := readOne(t, p.B, Want{Links: true}).Links; got.RxDropped < 7 || got.RxPackets < 47 {
		t.Errorf("got %+v after 7 dropped frames", got)
	}
}

func TestLoopbackIsLeftOut(t *testing.T) {
	n := nettest.NewNamespace(t)
	n.Do(t, func() {
		lo, err := net.InterfaceByName("lo")
		if err != nil || lo.Index != loopbackIndex {
			t.Errorf("lo is %+v, %v", lo, err)
		}
		conn, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	})
	if got, want := readOne(t, n, Want{Links: true}), (Stats{Links: LinkStats{Present: true}}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestManyLinks makes the answer larger than one datagram.
func TestManyLinks(t *testing.T) {
	p := nettest.New(t)
	const devicesEach = 150
	var commands strings.Builder
	for i := range devicesEach {
		fmt.Fprintf(&commands, "link add v%d type veth peer name w%d\nlink set v%d up\nlink set w%d up\n", i, i, i, i)
	}
	program(t, p.B, commands.String(), "ip", "-batch", "-")
	send(t, p, nettest.IPv4, 3)
	var got, want LinkStats
	nettest.Wait(t, "equal counters", func() bool {
		want = devices(t, p.B)
		got = readOne(t, p.B, Want{Links: true}).Links
		return got == want
	})
	if got.TxPackets <= devicesEach {
		t.Errorf("got %+v of %d devices", got, 2*devicesEach)
	}
}

// TestSmallBuffer has the first answer truncated.
func TestSmallBuffer(t *testing.T) {
	p := nettest.New(t)
	send(t, p, nettest.IPv4, 3)
	r := newReader(t)
	r.socket.buffer = make([]byte, 64)
	got := read(t, r, targets(p.B), Want{Links: true})[0].Links
	if !got.Present || got.RxPackets < 3 || len(r.socket.buffer) <= 64 {
		t.Errorf("got %+v with a buffer of %d bytes", got, len(r.socket.buffer))
	}
}

// program runs a program in a namespace and returns its standard output; the test is skipped where
// there is no such program.
func program(t testing.TB, n *nettest.Namespace, stdin, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is missing: %v", name, err)
	}
	var out []byte
	n.Do(t, func() {
		cmd := exec.Command(path, args...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Stderr = new(strings.Builder)
		if out, err = cmd.Output(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, cmd.Stderr)
		}
	})
	return string(out)
}

// conntrackTool is what conntrack(8) says of a namespace.
func conntrackTool(t testing.TB, n *nettest.Namespace) ConntrackStats {
	t.Helper()
	c := ConntrackStats{Present: true}
	var err error
	if c.Entries, err = strconv.ParseUint(strings.TrimSpace(program(t, n, "", "conntrack", "-C")), 10, 64); err != nil {
		t.Fatal(err)
	}
	for field := range strings.FieldsSeq(program(t, n, "", "conntrack", "-S")) {
		name, text, _ := strings.Cut(field, "=")
		counter := map[string]*uint64{
			"found": &c.Found, "insert": &c.Insert, "insert_failed": &c.InsertFailed, "invalid": &c.Invalid,
			"ignore": &c.Ignore, "drop": &c.Drop, "early_drop": &c.EarlyDrop, "search_restart": &c.SearchRestart,
		}[name]
		if counter == nil {
			continue
		}
		value, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		*counter += value
	}
	return c
}

func TestConntrackEqualsTool(t *testing.T) {
	p := nettest.New(t)
	if got, want := readOne(t, p.A, everything()).Conntrack, (ConntrackStats{Present: true}); got != want {
		t.Errorf("without tracking: got %+v, want %+v", got, want)
	}
	program(t, p.B, "table inet t { chain c { type filter hook input priority 0; ct state new counter; }; }", "nft", "-f", "-")
	const flows = 5
	for _, family := range nettest.Families() {
		for range flows {
			send(t, p, family, 1)
		}
	}
	server := netip.AddrPortFrom(p.B.Addresses[nettest.IPv4], 9)
	p.A.SendSegment(t, nettest.Segment{
		Source: netip.AddrPortFrom(p.A.Addresses[nettest.IPv4], 4711), Destination: server, Flags: nettest.RST,
	})
	program(t, p.B, "", "conntrack", "-I", "-p", "udp", "-t", "60",
		"-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", "1", "--dport", "2")
	var got, want ConntrackStats
	// Entries may expire, and the segment takes its time.
	nettest.Wait(t, "equal statistics, one packet being invalid", func() bool {
		want = conntrackTool(t, p.B)
		got = readOne(t, p.B, everything()).Conntrack
		return got == want && got.Invalid > 0
	})
	if got.Entries < 2*flows+1 || got.Insert == 0 {
		t.Errorf("got %+v after %d flows", got, 2*flows+1)
	}
	if other := readOne(t, p.A, everything()).Conntrack; other.Entries != 0 {
		t.Errorf("got %+v of a namespace that does not track", other)
	}
}

func TestWantIsAllThatIsRead(t *testing.T) {
	n := nettest.NewNamespace(t)
	for _, want := range []Want{{}, {Links: true}, {Conntrack: true}} {
		s := readOne(t, n, want)
		if s.Links.Present != want.Links || s.Conntrack.Present != want.Conntrack {
			t.Errorf("got %+v for %+v", s, want)
		}
	}
}

func TestTargetsThatAreGone(t *testing.T) {
	n := nettest.NewNamespace(t)
	pid := n.Hold(t)
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	list := []Target{
		{Inode: uint32(n.Inode), Path: "/run/netns/nxt-no-such-name"},
		{Inode: uint32(n.Inode), Path: fmt.Sprintf("/proc/%d/ns/net", gone.Process.Pid)},
		{Inode: uint32(n.Inode) + 1, Path: target(n).Path},
		{Inode: uint32(n.Inode), Path: "/proc/self/ns/net"},
		{Inode: uint32(n.Inode), Path: fmt.Sprintf("/proc/%d/ns/net", pid)},
		target(n),
	}
	var visited []int
	if err := newReader(t).Read(list, everything(), func(i int, _ Stats) { visited = append(visited, i) }); err != nil {
		t.Error(err)
	}
	if want := []int{4, 5}; !slices.Equal(visited, want) {
		t.Errorf("visited %v, want %v", visited, want)
	}
}

// TestErrorsAreBounded has targets that are no namespaces, with one that is between them.
func TestErrorsAreBounded(t *testing.T) {
	n := nettest.NewNamespace(t)
	var list []Target
	for i := range 2*maxErrors + 1 {
		path := filepath.Join(t.TempDir(), strconv.Itoa(i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		list = append(list, Target{Inode: uint32(stat.Ino), Path: path})
	}
	list[maxErrors] = target(n)
	visits := 0
	err := newReader(t).Read(list, everything(), func(i int, _ Stats) {
		if visits++; i != maxErrors {
			t.Errorf("visited %d", i)
		}
	})
	if visits != 1 {
		t.Errorf("%d visits", visits)
	}
	if !errors.Is(err, unix.EINVAL) || strings.Count(err.Error(), "\n") != maxErrors || !strings.HasPrefix(lastLine(err), fmt.Sprintf("%d more ", maxErrors)) {
		t.Errorf("got %v", err)
	}
}

func lastLine(err error) string {
	lines := strings.Split(err.Error(), "\n")
	return lines[len(lines)-1]
}

// TestNoCtnetlink pretends that the kernel was found to have none.
func TestNoCtnetlink(t *testing.T) {
	n := nettest.NewNamespace(t)
	r := newReader(t)
	r.noConntrack = time.Now()
	if s := read(t, r, targets(n, n), everything()); s[0].Conntrack.Present || s[1].Conntrack.Present || !s[1].Links.Present {
		t.Errorf("asked all the same: %+v", s)
	}
	r.noConntrack = time.Now().Add(-2 * askAgain)
	if s := read(t, r, targets(n), everything()); !s[0].Conntrack.Present {
		t.Errorf("never asked again: %+v", s)
	}
	if !r.noConntrack.IsZero() {
		t.Error("what was found out is not forgotten")
	}
}

// onThrowawayThread runs f on a thread that ends after it.
func onThrowawayThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

func TestMissingCapabilities(t *testing.T) {
	n := nettest.NewNamespace(t)
	for _, test := range []struct {
		name       string
		capability int
		run        func(r *Reader) error
		want       string
	}{
		{"setns", unix.CAP_SYS_ADMIN, func(r *Reader) error {
			list := targets(n)
			_, err := r.enter(&list[0])
			return err
		}, "CAP_SYS_ADMIN"},
		{"conntrack", unix.CAP_NET_ADMIN, func(r *Reader) error {
			s, err := r.ask(everything(), nil)
			if !s.Links.Present || s.Conntrack.Present {
				t.Errorf("conntrack: got %+v", s)
			}
			return err
		}, "CAP_NET_ADMIN"},
	} {
		var err error
		onThrowawayThread(func() {
			if err = dropCapability(test.capability); err == nil {
				err = test.run(new(Reader))
			}
		})
		permission, ok := errors.AsType[*PermissionError](err)
		if !ok || permission.Capability != test.want || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}

// TestLostThread has a thread that cannot go home, and so must not be used for anything else.
func TestLostThread(t *testing.T) {
	n := nettest.NewNamespace(t)
	r := newReader(t)
	lost := r.thread
	if err := lost.do(func() bool { return unix.Dup3(0, lost.home, unix.O_CLOEXEC) == nil }); err == nil {
		t.Fatal("home without a file of it")
	}
	if _, open := <-lost.result; open {
		t.Fatal("the thread goes on")
	}
	r.thread = nil
	read(t, r, targets(n), everything())
}

func TestClose(t *testing.T) {
	r := newReader(t)
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := r.Read(nil, everything(), nil); !errors.Is(err, errClosed) {
		t.Errorf("read after close: got %v", err)
	}
}

// dropCapability takes a capability from the calling thread alone.
func dropCapability(capability int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[capability/32].Effective &^= 1 << (capability % 32)
	return unix.Capset(&header, &data[0])
}

func TestOpenErrors(t *testing.T) {
	for _, test := range []struct {
		path string
		err  error
		want string
	}{
		{"/proc/self", unix.ENOENT, ""},
		{"/proc/self", unix.ESRCH, ""},
		{"/proc/no-such-process", unix.EACCES, ""},
		{"/proc/self", unix.EACCES, "open: permission denied (it takes CAP_SYS_PTRACE)"},
		{"/proc/self", unix.EMFILE, "open: too many open files"},
	} {
		r := Reader{path: append([]byte(test.path), 0)}
		if err := r.openError(test.err); test.want == "" && err != nil || test.want != "" && (err == nil || err.Error() != test.want) {
			t.Errorf("%s, %v: got %v", test.path, test.err, err)
		}
	}
}

func readlink(t testing.TB, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// files returns the number of open files.
func files(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNothingIsHeld looks for what a pass could leave behind: files, threads in other namespaces,
// and namespaces that live on.
func TestNothingIsHeld(t *testing.T) {
	own := readlink(t, "/proc/self/ns/net")
	p := nettest.New(t)
	pid := p.B.Hold(t)
	list := append(targets(p.A, p.B), Target{Inode: uint32(p.B.Inode), Path: fmt.Sprintf("/proc/%d/ns/net", pid)})
	r := newReader(t)
	read(t, r, list, everything())
	before := files(t)
	for range 50 {
		read(t, r, list, everything())
	}
	if after := files(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
	nettest.Wait(t, "all threads to be in the own namespace", func() bool {
		threads, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			if inode, err := os.Readlink(thread); err == nil && inode != own {
				return false
			}
		}
		return true
	})
	if now := readlink(t, "/proc/self/ns/net"); now != own {
		t.Errorf("the process is in %s, was in %s", now, own)
	}
}

// TestMainThreadStays starts threads until the main thread would have been among them.
func TestMainThreadStays(t *testing.T) {
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() {
			th, err := startThread()
			if err != nil {
				t.Error(err)
				return
			}
			defer th.stop()
			if err := th.do(func() bool {
				if unix.Gettid() == unix.Getpid() {
					t.Error("got the main thread")
				}
				return false
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// ip runs commands of iproute2.
func ip(commands string) error {
	cmd := exec.Command("ip", "-force", "-batch", "-")
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -batch: %w: %s", err, out)
	}
	return nil
}

// population makes namespaces and returns them with what removes them again.
func population(t testing.TB, label string, size int) (list []Target, remove string) {
	t.Helper()
	var add, del strings.Builder
	for i := range size {
		name := fmt.Sprintf("nxt%d%s%d", os.Getpid(), label, i)
		list = append(list, Target{Path: filepath.Join("/run/netns", name)})
		fmt.Fprintf(&add, "netns add %s\n", name)
		fmt.Fprintf(&del, "netns delete %s\n", name)
	}
	remove = del.String()
	t.Cleanup(func() {
		if t.Failed() {
			_ = ip(remove) // as far as they are still there
		}
	})
	if err := ip(add.String()); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		var stat unix.Stat_t
		if err := unix.Stat(list[i].Path, &stat); err != nil {
			t.Fatal(err)
		}
		list[i].Inode = uint32(stat.Ino)
	}
	return list, remove
}

// TestChurn reads namespaces while they go.
func TestChurn(t *testing.T) {
	nettest.NewNamespace(t) // skips without the means
	const each, rounds = 50, 4
	r := newReader(t)
	before := files(t)
	visits, passes := 0, 0
	for round := range rounds {
		list, remove := population(t, fmt.Sprintf("c%dn", round), each)
		list = append(list, list...) // twice, so that one pass may see both
		removed := make(chan error, 1)
		pass := func() {
			passes++
			err := r.Read(list, everything(), func(i int, s Stats) {
				visits++
				if s != (Stats{Links: LinkStats{Present: true}, Conntrack: ConntrackStats{Present: true}}) {
					t.Errorf("%s: got %+v", list[i].Path, s)
				}
			})
			if err != nil {
				t.Error(err)
			}
		}
		pass()
		go func() { removed <- ip(remove) }()
		for done := false; !done; {
			select {
			case err := <-removed:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			default:
				pass()
			}
		}
		visited := visits
		if pass(); visits != visited {
			t.Errorf("visited %d namespaces after they were removed", visits-visited)
		}
	}
	if after := files(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
	t.Logf("%d visits in %d passes", visits, passes)
	if visits < 2*each*rounds {
		t.Errorf("%d visits", visits)
	}
}

// BenchmarkRead reads namespaces that have a device each, as pods do.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			if size > 100 && testing.Short() {
				b.Skip("takes long to set up")
			}
			hub := nettest.NewNamespace(b)
			list, remove := population(b, "b", size)
			b.Cleanup(func() {
				if err := ip(remove); err != nil {
					b.Error(err)
				}
			})
			var devices strings.Builder
			for i, t := range list {
				fmt.Fprintf(&devices, "link add eth0 netns %s type veth peer name v%d netns %s\n", filepath.Base(t.Path), i, hub.Name)
			}
			if err := ip(devices.String()); err != nil {
				b.Fatal(err)
			}
			for _, part := range []struct {
				name string
				want Want
			}{
				{"enter", Want{}},
				{"links", Want{Links: true}},
				{"conntrack", Want{Conntrack: true}},
				{"both", everything()},
			} {
				b.Run(part.name, func(b *testing.B) { benchmarkRead(b, list, part.want) })
			}
		})
	}
}

func benchmarkRead(b *testing.B, list []Target, want Want) {
	r := newReader(b)
	visits := 0
	var before, after unix.Rusage
	var memory [2]runtime.MemStats
	b.ReportAllocs()
	runtime.ReadMemStats(&memory[0])
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := r.Read(list, want, func(int, Stats) { visits++ }); err != nil {
			b.Fatal(err)
		}
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	runtime.ReadMemStats(&memory[1])
	if visits != b.N*len(list) {
		b.Fatalf("%d visits in %d passes", visits, b.N)
	}
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(visits), "ns/namespace")
	b.ReportMetric(float64(cpu)/float64(visits), "cpu-ns/namespace")
	b.ReportMetric(float64(memory[1].Mallocs-memory[0].Mallocs)/float64(visits), "allocs/namespace")
}

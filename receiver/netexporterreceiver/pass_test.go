// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
)

// procSockets sums up /proc/net/tcp and tcp6 of a namespace as the metrics are documented.
func procSockets(t testing.TB, n *nettest.Namespace) (s series) {
	s = series{"tcpestablishedconn": 0, "tcptimewaitconn": 0, "tcptxqueue": 0, "tcprxqueue": 0}
	n.Do(t, func() {
		for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			f, err := os.Open(file)
			require.NoError(t, err)
			scanner := bufio.NewScanner(f)
			scanner.Scan() // the heading
			for scanner.Scan() {
				fields := strings.Fields(scanner.Text())
				switch fields[3] {
				case "01":
					var tx, rx int64
					_, err := fmt.Sscanf(fields[4], "%x:%x", &tx, &rx)
					require.NoError(t, err)
					s["tcpestablishedconn"]++
					s["tcptxqueue"] += tx
					s["tcprxqueue"] += rx
				case "06":
					s["tcptimewaitconn"]++
				}
			}
			require.NoError(t, f.Close())
		}
	})
	return s
}

func TestSocketsEqualProc(t *testing.T) {
	r := start(t, nil)
	p := r.pair(t)
	for _, f := range nettest.Families() {
		for i := range 7 {
			client, server := p.ConnectTCP(t, f)
			switch i {
			case 0: // unread data in B
				_, err := client.Write(make([]byte, 1000))
				require.NoError(t, err)
			case 1: // more than B takes stays in A
				require.NoError(t, server.SetReadBuffer(4096))
				sendUntilFull(t, client)
			case 2: // TIME_WAIT in A
				require.NoError(t, client.Close())
				require.NoError(t, server.Close())
			}
		}
		p.OrphanInFinWait2(t, f) // which the kernel keeps as it does TIME_WAIT
	}
	for _, n := range []*nettest.Namespace{p.A, p.B} {
		var want, got series
		nettest.Wait(t, "the sockets to be at rest", func() bool {
			want = procSockets(t, n)
			got = r.pass(t)[n.Inode]
			return assert.ObjectsAreEqual(want, procSockets(t, n))
		})
		for name, value := range want {
			assert.Equal(t, value, got["inspector_pod_tcpsummary"+name], "%s of %s", name, n.Name)
		}
		assert.GreaterOrEqual(t, want["tcpestablishedconn"], int64(12))
		assert.EqualValues(t, want["tcpestablishedconn"], ssCount(t, n, "established"))
		assert.EqualValues(t, want["tcptimewaitconn"], ssCount(t, n, "time-wait"))
	}
	assert.Positive(t, procSockets(t, p.A)["tcptimewaitconn"])
	assert.Positive(t, procSockets(t, p.A)["tcptxqueue"])
	assert.GreaterOrEqual(t, procSockets(t, p.B)["tcprxqueue"], int64(2000))
}

// ssCount returns how many TCP sockets of a namespace ss finds in a state.
func ssCount(t testing.TB, n *nettest.Namespace, state string) (sockets int) {
	ss, err := exec.LookPath("ss")
	if err != nil {
		t.Skip("needs the ss program of iproute2")
	}
	n.Do(t, func() {
		out, err := exec.Command(ss, "-H", "-tn", "state", state).Output()
		require.NoError(t, err)
		sockets = strings.Count(string(out), "\n")
	})
	return sockets
}

// sendUntilFull writes until the socket takes no more.
func sendUntilFull(t testing.TB, c *net.TCPConn) {
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	data := make([]byte, 64<<10)
	require.NoError(t, raw.Write(func(fd uintptr) bool {
		for {
			if _, err = syscall.Write(int(fd), data); err != nil {
				return true
			}
		}
	}))
	require.ErrorIs(t, err, unix.EAGAIN)
}

// A table of its own (net.ipv4.tcp_child_ehash_entries) does not hide the sockets of a namespace.
func TestSocketsInATableOfTheirOwn(t *testing.T) {
	requireRoot(t)
	const sysctl = "/proc/sys/net/ipv4/tcp_child_ehash_entries"
	before, err := os.ReadFile(sysctl)
	if os.IsNotExist(err) {
		t.Skip("this kernel has one table for all namespaces (before 6.1)")
	}
	require.NoError(t, err)
	if err := os.WriteFile(sysctl, []byte("1024"), 0o644); err != nil {
		t.Skip("the table of child namespaces cannot be set here: ", err)
	}
	defer func() { require.NoError(t, os.WriteFile(sysctl, before, 0o644)) }()
	r := start(t, nil)
	p := r.pair(t)
	for _, f := range nettest.Families() {
		p.ConnectTCP(t, f)
	}
	got := r.pass(t)
	assert.EqualValues(t, 2, got[p.A.Inode]["inspector_pod_tcpsummarytcpestablishedconn"])
	assert.EqualValues(t, 2, got[p.B.Inode]["inspector_pod_tcpsummarytcpestablishedconn"])
}

// procUsage reads what /proc tells of a process.
func procUsage(t testing.TB, pid int) (fds, sockets int64, io series) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	require.NoError(t, err)
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(dir, "fd", f.Name()))
		if os.IsNotExist(err) {
			continue // closed meanwhile: the process is not at rest
		}
		require.NoError(t, err)
		fds++
		if strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "io"))
	require.NoError(t, err)
	io = series{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		io[name], err = strconv.ParseInt(value, 10, 64)
		require.NoError(t, err)
	}
	return fds, sockets, io
}

// threadReads is what a thread of the worker reads before it ends.
const threadReads = 1000

// TestWorker is no test but a process for TestUsageEqualsProc: with files, a socket, and a thread
// that has ended.
func TestWorker(t *testing.T) {
	if os.Getenv("NETEXPORTER_TEST_WORKER") == "" {
		t.Skip("not a test: a process that TestUsageEqualsProc starts")
	}
	for range 20 {
		f, err := os.Open("/dev/zero")
		require.NoError(t, err)
		defer f.Close()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	// Files that are no sockets though one has the inode of a socket.
	dir := t.TempDir()
	u, err := net.Listen("unix", filepath.Join(dir, "socket"))
	require.NoError(t, err)
	defer u.Close()
	for _, path := range []string{filepath.Join(dir, "socket"), dir, dir} {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(fd)
	}
	tid := os.Getpid()
	for tid == os.Getpid() { // the first thread does not end
		done := make(chan int)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			zero, err := os.Open("/dev/zero")
			if err == nil {
				defer zero.Close()
				var b [1]byte
				for range threadReads {
					_, _ = zero.Read(b[:])
				}
			}
			done <- unix.Gettid()
		}()
		tid = <-done
	}
	nettest.Wait(t, "the thread to end", func() bool { return unix.Tgkill(os.Getpid(), tid, 0) == unix.ESRCH })
	fmt.Println("ready")
	var b [1]byte
	_, _ = os.Stdin.Read(b[:])
}

func TestUsageEqualsProc(t *testing.T) {
	r := start(t, nil)
	n := nettest.NewNamespace(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	worker := exec.Command(exe, "-test.run=^TestWorker$")
	worker.Env = append(os.Environ(), "NETEXPORTER_TEST_WORKER=1")
	worker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := worker.StdinPipe()
	require.NoError(t, err)
	stdout, err := worker.StdoutPipe()
	require.NoError(t, err)
	n.Do(t, func() { err = worker.Start() })
	require.NoError(t, err)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)

	var (
		got          series
		fds, sockets int64
		io           series
	)
	nettest.Wait(t, "the process to be at rest", func() bool {
		fds, sockets, io = procUsage(t, worker.Process.Pid)
		got = r.pass(t)[n.Inode]
		fdsAfter, socketsAfter, ioAfter := procUsage(t, worker.Process.Pid)
		return fds == fdsAfter && sockets == socketsAfter && assert.ObjectsAreEqual(io, ioAfter)
	})
	assert.Equal(t, fds, got["inspector_pod_fdopenfd"])
	assert.GreaterOrEqual(t, fds, int64(20))
	assert.Equal(t, sockets, got["inspector_pod_fdopensocket"])
	assert.Positive(t, sockets)
	assert.Equal(t, io["syscr"], got["inspector_pod_ioioreadsyscall"])
	assert.Equal(t, io["syscw"], got["inspector_pod_ioiowritesyscall"])
	assert.Equal(t, io["read_bytes"], got["inspector_pod_ioioreadbytes"])
	assert.Equal(t, io["write_bytes"], got["inspector_pod_ioiowritebytes"])
	assert.Equal(t, io["write_bytes"], got["inspector_pod_ioiowritebyres"])
	assert.GreaterOrEqual(t, io["syscr"], int64(threadReads))

	// A counter does not go back when the process ends.
	require.NoError(t, stdin.Close())
	require.NoError(t, worker.Wait())
	if !r.agent.walks(t) {
		return // and with it goes the namespace
	}
	after := r.pass(t)[n.Inode]
	assert.Zero(t, after["inspector_pod_fdopenfd"])
	assert.GreaterOrEqual(t, after["inspector_pod_ioioreadsyscall"], got["inspector_pod_ioioreadsyscall"])
}

// procLinks sums up /proc/net/dev of a namespace but loopback.
func procLinks(t testing.TB, n *nettest.Namespace) series {
	s := series{}
	n.Do(t, func() {
		raw, err := os.ReadFile("/proc/thread-self/net/dev")
		require.NoError(t, err)
		for line := range strings.Lines(string(raw)) {
			name, rest, ok := strings.Cut(line, ":")
			if !ok || strings.TrimSpace(name) == "lo" {
				continue
			}
			fields := strings.Fields(rest)
			for name, column := range map[string]int{
				"rxbytes": 0, "rxpackets": 1, "rxerrors": 2, "rxdropped": 3,
				"txbytes": 8, "txpackets": 9, "txerrors": 10, "txdropped": 11,
			} {
				value, err := strconv.ParseInt(fields[column], 10, 64)
				require.NoError(t, err)
				s[name] += value
			}
		}
	})
	return s
}

func TestLinksEqualProc(t *testing.T) {
	r := start(t, nil)
	p := r.pair(t)
	for _, f := range nettest.Families() {
		p.UDPDelivered(t, f, 20)
		p.CloseWithUnreadData(t, f)
	}
	for _, n := range []*nettest.Namespace{p.A, p.B} {
		var want, got series
		nettest.Wait(t, "the link to be at rest", func() bool {
			want = procLinks(t, n)
			got = r.pass(t)[n.Inode]
			return assert.ObjectsAreEqual(want, procLinks(t, n))
		})
		require.Positive(t, want["rxbytes"])
		for name, value := range want {
			assert.Equal(t, value, got["inspector_pod_netdev"+name], "%s of %s", name, n.Name)
		}
	}
}

// A namespace into which nothing leads has no interface counters rather than wrong ones.
func TestNothingLeadsIntoTheNamespace(t *testing.T) {
	r := start(t, nil)
	r.needsWalk(t)        // /proc does not lead to it
	n := nettest.New(t).B // which has a device: one without has nothing to be read
	f := n.HideName(t)
	got := r.pass(t)[n.Inode]
	require.NotNil(t, got, "a namespace without a process and without a name is found all the same")
	assert.Contains(t, got, "inspector_pod_udpnoports")
	assert.NotContains(t, got, "inspector_pod_netdevrxbytes")
	assert.NotContains(t, got, "inspector_pod_conntrackentries")
	f()
	assert.Contains(t, r.pass(t)[n.Inode], "inspector_pod_netdevrxbytes")
}

// procConntrack sums up what /proc tells of the connection tracking of a namespace, nil if it tells nothing.
func procConntrack(t testing.TB, n *nettest.Namespace) (s series) {
	n.Do(t, func() {
		raw, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		if os.IsNotExist(err) {
			return // a kernel without CONFIG_NF_CONNTRACK_PROCFS
		}
		require.NoError(t, err)
		s = series{}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		names := strings.Fields(lines[0])
		for cpu, line := range lines[1:] {
			for i, field := range strings.Fields(line) {
				value, err := strconv.ParseInt(field, 16, 64)
				require.NoError(t, err)
				name := strings.ReplaceAll(names[i], "_", "")
				if name != "entries" || cpu == 0 { // which each line repeats
					s[name] += value
				}
			}
		}
	})
	return s
}

func TestConntrackEqualsProc(t *testing.T) {
	r := start(t, nil)
	p := r.pair(t)
	p.TrackConnections(t)
	for _, f := range nettest.Families() {
		p.ConnectTCP(t, f)
		p.UDPToClosedPort(t, f, 3, false)
		p.StraySegment(t, f)
	}
	var got, want series
	nettest.Wait(t, "connection tracking to be at rest", func() bool {
		want = procConntrack(t, p.B)
		got = r.pass(t)[p.B.Inode]
		return assert.ObjectsAreEqual(want, procConntrack(t, p.B))
	})
	if want == nil {
		t.Skip("this kernel does not show the statistics of connection tracking in /proc")
	}
	for _, name := range []string{"entries", "found", "insert", "invalid", "ignore", "insertfailed", "drop", "earlydrop", "searchrestart"} {
		value, ok := got["inspector_pod_conntrack"+name]
		assert.True(t, ok, "%s is not served", name)
		assert.Equal(t, want[name], value, name)
	}
	assert.Positive(t, want["entries"])
	assert.GreaterOrEqual(t, want["invalid"], int64(2))
	a := r.pass(t)[p.A.Inode]
	assert.Contains(t, a, "inspector_pod_conntrackentries")
	assert.Zero(t, a["inspector_pod_conntrackentries"], "nothing is tracked there")
}

// Facts of the node are served once, for the host and for the node, and for no other namespace.
func TestNodeFacts(t *testing.T) {
	r := start(t, nil)
	n := nettest.NewNamespace(t)
	softnet := func() (processed int64) {
		raw, err := os.ReadFile("/proc/net/softnet_stat")
		require.NoError(t, err)
		for line := range strings.Lines(string(raw)) {
			v, err := strconv.ParseInt(strings.Fields(line)[0], 16, 64)
			require.NoError(t, err)
			processed += v
		}
		return processed
	}
	before := softnet()
	got := r.pass(t)
	after := softnet()
	host := got[r.hostInode(t)]
	for _, s := range []series{got[0], host} {
		prefix := "inspector_pod_"
		if _, ok := s[prefix+"softnetprocessed"]; !ok {
			prefix = "inspector_node_"
		}
		assert.GreaterOrEqual(t, s[prefix+"softnetprocessed"], before)
		assert.LessOrEqual(t, s[prefix+"softnetprocessed"], after)
		assert.Contains(t, s, prefix+"softnetdropped")
		assert.Contains(t, s, prefix+"softnettimesqueeze")
		assert.GreaterOrEqual(t, s[prefix+"slabtcpslabobjnum"], s[prefix+"slabtcpslabobjactive"])
		assert.GreaterOrEqual(t, s[prefix+"slabtcpslabobjsize"], int64(1000), "struct tcp_sock has some 2 kB")
		assert.Positive(t, s[prefix+"slabtcpslabobjperslab"])
		assert.Positive(t, s[prefix+"slabtcpslabpagesperslab"])
	}
	for name := range got[n.Inode] {
		assert.NotContains(t, name, "softnet")
		assert.NotContains(t, name, "slab")
	}
}

// hostInode returns the inode of the host's namespace.
func (r *rig) hostInode(t testing.TB) uint64 {
	id, err := r.agent.running.source.Host()
	require.NoError(t, err)
	return uint64(id.Inode)
}

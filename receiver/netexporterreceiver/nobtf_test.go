// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/internal/nettest"
)

// withoutBTF is set in the process that TestWithoutBTF starts.
const withoutBTF = "NETEXPORTER_TEST_WITHOUT_BTF"

// Where there is no BTF the numbers are the same: those tests that compare them with what the kernel says pass all
// the same, in a process that finds none.
func TestWithoutBTF(t *testing.T) {
	requireRoot(t)
	if os.Getenv(withoutBTF) != "" {
		t.Skip("not a test there: it started this process")
	}
	tests := []string{
		"TestTellsWhatIsLostWithoutBTF", "TestEveryCounterEqualsProc", "TestSocketsEqualProc", "TestListenQueues",
		"TestUsageEqualsProc", "TestLinksEqualProc", "TestConntrackEqualsProc", "TestNodeFacts", "TestMaxSeries", "TestSelfTest", "TestEntitiesOfNamespaces",
	}
	runElsewhere(t, withoutBTF, hideBTF, tests)
}

// runElsewhere runs tests in a process of which the environment has a variable set, where prepare has changed the mounts.
func runElsewhere(t *testing.T, variable string, prepare func() error, tests []string) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	run := exec.Command(exe, "-test.v", "-test.run=^("+strings.Join(tests, "|")+")$")
	run.Env = append(os.Environ(), variable+"=1")
	run.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out []byte
	onOwnThread(func() {
		if err = prepare(); err == nil {
			out, err = run.CombinedOutput()
		}
	})
	require.NoError(t, err, "%s", out)
	for _, name := range tests {
		assert.Contains(t, string(out), "--- PASS: "+name+" (", "%s", out)
	}
}

// btfOfFile is set in the process that TestBTFOfFile starts.
const btfOfFile = "NETEXPORTER_TEST_BTF_OF_FILE"

// With BTF from a file alone, among files of other kernels, counters and events are the same.
func TestBTFOfFile(t *testing.T) {
	requireRoot(t)
	if os.Getenv(btfOfFile) != "" || os.Getenv(withoutBTF) != "" {
		t.Skip("not a test there: it started this process")
	}
	own, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		t.Skipf("the kernel has no BTF of its own: %v", err)
	}
	if err := os.Mkdir("/boot", 0o755); err == nil { // something to mount on
		t.Cleanup(func() { require.NoError(t, os.Remove("/boot")) })
	} else {
		require.ErrorIs(t, err, os.ErrExist)
	}
	release, err := kernel.Release()
	require.NoError(t, err)
	prepare := func() error {
		if err := hideBTF(); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", "/boot", "tmpfs", 0, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
		return errors.Join(
			os.WriteFile("/boot/vmlinux-"+release, []byte("\x1f\x8b\x08\x00 a compressed kernel"), 0o644),
			os.WriteFile("/boot/vmlinux", own, 0o644),
		)
	}
	runElsewhere(t, btfOfFile, prepare, []string{
		"TestTellsWhichFileIsUsed", "TestEveryCounterEqualsProc", "TestSocketsEqualProc", "TestListenQueues", "TestKeptAcrossRestart",
	})
}

func TestTellsWhichFileIsUsed(t *testing.T) {
	if os.Getenv(btfOfFile) == "" {
		t.Skip("not a test by itself: TestBTFOfFile runs it")
	}
	r := start(t, nil)
	assert.Equal(t, map[string]int64{"//boot/vmlinux/functions": 1}, r.self(t, "otelcol_netexporter.btf", "path", "proof"))
	p := r.pair(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	require.Eventually(t, func() bool { return len(r.events(p.B)) == 1 }, time.Minute, time.Millisecond)
	assert.Equal(t, "PACKETLOSS", r.events(p.B)[0].EventName())
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the first thread does not end: another one, while this holds it
			onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// hideBTF hides each BTF of the running kernel from the thread and the processes that it starts.
func hideBTF() error {
	release, err := kernel.Release()
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// What is unmounted outside goes here, too, or its namespaces would live on.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for {
		source, err := kernel.FindBTF("/", release)
		if errors.Is(err, kernel.ErrNoBTF) {
			return nil
		}
		if err != nil {
			return err
		}
		if source.Own {
			err = unix.Mount("tmpfs", filepath.Dir(source.Path), "tmpfs", 0, "")
		} else {
			err = unix.Mount("/dev/null", source.Path, "", unix.MS_BIND, "")
		}
		if err != nil {
			return os.NewSyscallError("mount", err)
		}
	}
}

// What is absent is told: in the log, and in the metrics of the agent itself.
func TestTellsWhatIsLostWithoutBTF(t *testing.T) {
	if os.Getenv(withoutBTF) == "" {
		t.Skip("not a test by itself: TestWithoutBTF runs it")
	}
	log, lines := observer.New(zapcore.WarnLevel)
	r, err := startAs(t, nil, func(a *agent) { a.set.Logger = zap.New(log) })
	require.NoError(t, err)
	assert.Len(t, lines.FilterMessageSnippet("Running without BTF").All(), 1)
	lost := map[string]bool{} // what takes programs
	for _, d := range r.agent.definitions() {
		if d.Spec != nil {
			lost[d.Name] = true
		}
	}
	for _, line := range lines.FilterMessage("Probe does not run").All() {
		assert.True(t, lost[line.ContextMap()["probe"].(string)], "%v", line.ContextMap())
		assert.Contains(t, line.ContextMap()["error"], "BTF")
	}
	assert.Len(t, lines.FilterMessage("Probe does not run").All(), len(lost))
	for _, d := range r.agent.definitions() {
		up, ok := r.self(t, "otelcol_netexporter.probe.up", "probe")["/"+d.Name]
		assert.True(t, ok, d.Name)
		assert.Equal(t, !lost[d.Name], up == 1, d.Name)
	}
	hooks := r.self(t, "otelcol_netexporter.probe.hook", "probe", "hook", "variant")
	for _, id := range []string{
		"/netns/namespaces/procfs", "/netns/tasks/procfs", "/netns/sockets/sock_diag", "/netns/listeners/sock_diag",
		"/tcp/namespaces/procfs", "/tcpsummary/sockets/sock_diag", "/tcplisten/listeners/sock_diag", "/conntrack/netlink/setns",
	} {
		assert.EqualValues(t, 1, hooks[id], "%s in %v", id, hooks)
	}

	// Of each namespace all is served but what those probes count.
	p := r.pair(t)
	got := r.pass(t)[p.B.Inode]
	for _, d := range r.agent.definitions() {
		for _, c := range d.Counters {
			for _, name := range metricNames(t, c) {
				assert.Contains(t, got, name)
			}
		}
	}
	for name := range got {
		for probe := range lost {
			assert.NotContains(t, name, probe)
		}
	}
}

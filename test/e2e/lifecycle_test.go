// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

func TestShippedConfigurationIsValid(t *testing.T) {
	p := agenttest.Run(t, nil, agenttest.Program(t, "netexporter"), "validate", "--config", agenttest.ShippedConfig)
	assert.Zero(t, p.ExitCode(t))
}

// What is shipped runs as it is: the documented ports.
func TestShippedPorts(t *testing.T) {
	for _, port := range []int{9102, 8888, 13133, 19102} {
		if !agenttest.IsFree(port) {
			t.Skipf("needs the ports 9102, 8888, 13133 and 19102 of loopback; somebody listens on %d", port)
		}
	}
	a := startWith(t, nil, 9102, 8888, "--config", agenttest.ShippedConfig)
	assert.NotEmpty(t, a.page(t).values)
	for _, probe := range []string{"tcp", "tcpext", "udp", "packetloss", "tcpreset"} {
		assert.InDelta(t, 1, a.own(t, fmt.Sprintf("otelcol_netexporter_probe_up{probe=%q}", probe)), 0, probe)
		assert.Regexp(t, `Probe runs\b.*"probe": "`+probe+`", "`, a.Stderr.String(), "the log says which variant runs")
	}
	_, err := agenttest.Get("http://" + agenttest.Loopback(13133))
	require.NoError(t, err, "the health check")
	list := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), "list", "probe")
	assert.Zero(t, list.ExitCode(t), "the event stream, which inspector finds by itself")
}

// Without root the agent says what it lacks, in a sentence.
func TestWithoutPrivileges(t *testing.T) {
	var become func(*exec.Cmd)
	if os.Geteuid() == 0 {
		become = asNobody(t)
	}
	p := agenttest.Run(t, become, agenttest.Program(t, "netexporter"), "--config", agenttest.ShippedConfig, "--config", "yaml:"+agenttest.PortsConfig(agenttest.FreePorts(t, agenttest.Ports)))

	assert.Positive(t, p.ExitCode(t))
	message := p.Stderr.String()
	for _, capability := range []string{"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"} {
		assert.Contains(t, message, capability)
	}
	assert.NotContains(t, message, "goroutine ")
	assert.NotContains(t, message, "\n\t", "a stack trace of the log")
	last := message[strings.LastIndex(strings.TrimSpace(message), "\n")+1:]
	assert.Regexp(t, `^Error: .*missing capabilities: CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE; run as root`, last)
	assert.Empty(t, p.Stdout.String())
}

// What it asks for, and no more, is enough to run as anybody.
func TestLeastPrivileges(t *testing.T) {
	agenttest.RequireRoot(t)
	ports := agenttest.FreePorts(t, agenttest.Ports)
	a := startWith(t, asNobody(t, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE, unix.CAP_SYSLOG),
		ports[0], ports[1], "--config", agenttest.ShippedConfig, "--config", "yaml:"+agenttest.PortsConfig(ports))
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	a.flush(t)
	lines := a.events("netns=" + p.B.Name)
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "location=__udp4_lib_rcv+0x", "CAP_SYSLOG shows functions")
}

// asNobody makes a command of the agent run as the user nobody with some capabilities. It runs a copy, as nobody may not
// be able to reach the repository.
func asNobody(t testing.TB, capabilities ...uintptr) func(*exec.Cmd) {
	t.Helper()
	const nobody = 65534
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	copied := func(path string, mode os.FileMode) string {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		to := filepath.Join(dir, filepath.Base(path))
		require.NoError(t, os.WriteFile(to, data, mode))
		return to
	}
	return func(cmd *exec.Cmd) {
		cmd.Path = copied(cmd.Path, 0o755)
		for i, arg := range cmd.Args {
			if arg == agenttest.ShippedConfig {
				cmd.Args[i] = copied(arg, 0o644)
			}
		}
		cmd.Dir = dir
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		cmd.SysProcAttr.AmbientCaps = capabilities
	}
}

// SIGHUP applies a changed configuration, every time, to what it concerns alone, and SIGTERM leaves nothing behind.
func TestReloadAndStop(t *testing.T) {
	change := agenttest.WriteFile(t, "change.yaml", "")
	a := start(t, change)
	first := a.kernelObjects(t)
	require.NotEmpty(t, first)

	for _, tt := range []struct {
		config string
		resets bool
	}{
		{"receivers: {netexporter: {probes: {tcpreset: {enabled: false}}}}", false},
		{"", true},
	} {
		require.NoError(t, os.WriteFile(change, []byte(tt.config), 0o644))
		a.Signal(t, syscall.SIGHUP)
		agenttest.Wait(t, "the agent to run again", func() bool {
			text, err := agenttest.Get(a.Self)
			return err == nil && strings.Contains(text, `otelcol_netexporter_probe_up{probe="packetloss"} 1`) &&
				strings.Contains(text, `probe="tcpreset"`) == tt.resets
		})
		p := nettest.New(t)
		p.ConnectClosedPort(t, nettest.IPv4)
		agenttest.Wait(t, "the reset to be on the page", func() bool {
			values := a.page(t).of(p.B)
			_, counted := values[`inspector_pod_tcpreset{reason="NO_SOCKET",type="TCPRESET_NOSOCK"}`]
			return values["inspector_pod_tcpoutrsts"] == 1 && counted == tt.resets
		})
		now := a.kernelObjects(t)
		kept := 0
		for object := range first {
			if now[object] {
				kept++
				continue
			}
			agenttest.Wait(t, "the kernel to free "+object.String()+" of the probe that ended", func() bool { return !object.exists(t) })
		}
		assert.Greater(t, kept, len(first)/2, "what does not concern tcpreset stays")
		assert.Less(t, kept, len(first))
	}

	last := a.kernelObjects(t)
	assert.Len(t, last, len(first))
	a.Stop(t)
	for object := range last {
		agenttest.Wait(t, "the kernel to free "+object.String(), func() bool { return !object.exists(t) })
	}
}

// kernelObject is a BPF object: its kind is "prog", "map" or "link". Ids are not reused for a long time.
type kernelObject struct {
	kind string
	id   uint32
}

func (o kernelObject) String() string { return fmt.Sprintf("%s %d", o.kind, o.id) }

var objectID = regexp.MustCompile(`(?m)^(prog|map|link)_id:\s*([0-9]+)$`)

// kernelObjects returns the BPF objects that the agent has open.
func (a agent) kernelObjects(t testing.TB) map[kernelObject]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fdinfo", a.Cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	objects := map[kernelObject]bool{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		for _, m := range objectID.FindAllStringSubmatch(string(data), -1) {
			id, err := strconv.ParseUint(m[2], 10, 32)
			require.NoError(t, err)
			objects[kernelObject{m[1], uint32(id)}] = true
		}
	}
	return objects
}

// exists asks the kernel whether it has such an object.
func (o kernelObject) exists(t testing.TB) bool {
	t.Helper()
	command := map[string]uintptr{
		"prog": unix.BPF_PROG_GET_FD_BY_ID,
		"map":  unix.BPF_MAP_GET_FD_BY_ID,
		"link": unix.BPF_LINK_GET_FD_BY_ID,
	}[o.kind]
	attr := struct{ id, nextID, openFlags uint32 }{id: o.id} // union bpf_attr of include/uapi/linux/bpf.h
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno == unix.ENOENT {
		return false
	}
	require.Zero(t, errno, "look for %s", o)
	require.NoError(t, unix.Close(int(fd)))
	return true
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

const kernelBTF = "/sys/kernel/btf/vmlinux"

func TestBTFDiscover(t *testing.T) {
	for name, args := range map[string][]string{
		"the host":             {"btf", "discover"},
		"an empty root":        {"btf", "discover", "--root", t.TempDir()},
		"the host, said aloud": {"btf", "discover", "--root", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			p := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), args...)
			code := p.ExitCode(t)
			if _, err := os.Stat(kernelBTF); err != nil && code != 0 {
				assert.Contains(t, p.Stderr.String(), "CONFIG_DEBUG_INFO_BTF", "it says what to install")
				t.Skipf("the kernel has no BTF of its own: %v", err)
			}
			require.Zero(t, code)
			path := strings.TrimSuffix(p.Stdout.String(), "\n")
			assert.FileExists(t, path)
			if _, err := os.Stat(kernelBTF); err == nil {
				assert.Equal(t, kernelBTF, path)
			}
		})
	}
}

// hideBTF returns what makes a command run where the kernel does not show its BTF.
func hideBTF(t *testing.T) func(*exec.Cmd) {
	unshare := agenttest.SystemProgram(t, "unshare")
	return func(cmd *exec.Cmd) {
		hide := []string{unshare, "--mount", "sh", "-c", `mount -t tmpfs none "$0" && exec "$@"`, filepath.Dir(kernelBTF)}
		cmd.Path, cmd.Args = unshare, append(hide, cmd.Args...)
	}
}

// Where there is none it fails, and says what to install, and why a file does not serve.
func TestBTFDiscoverNothing(t *testing.T) {
	agenttest.RequireRoot(t)
	if _, err := os.Stat(filepath.Dir(kernelBTF)); err != nil {
		t.Skipf("the kernel has no BTF to hide: %v", err)
	}
	hide, root := hideBTF(t), t.TempDir()
	boot := filepath.Join(root, "boot")
	require.NoError(t, os.Mkdir(boot, 0o755))
	own, err := os.ReadFile(kernelBTF)
	require.NoError(t, err)
	discover := func() *agenttest.Process {
		return agenttest.Run(t, hide, agenttest.Program(t, "inspector"), "btf", "discover", "--root", root)
	}

	file := filepath.Join(boot, "vmlinux")
	require.NoError(t, os.WriteFile(file, []byte("\x1f\x8b\x08\x00 a compressed kernel"), 0o644))
	p := discover()
	assert.Equal(t, 1, p.ExitCode(t))
	assert.Empty(t, p.Stdout.String())
	for _, want := range []string{"CONFIG_DEBUG_INFO_BTF", "/boot/vmlinux-", file + " is neither raw BTF nor an uncompressed vmlinux"} {
		assert.Contains(t, p.Stderr.String(), want)
	}

	require.NoError(t, os.WriteFile(file, own, 0o644))
	p = discover()
	assert.Zero(t, p.ExitCode(t))
	assert.Equal(t, file+"\n", p.Stdout.String())
	assert.Contains(t, p.Stderr.String(), "the functions that the file describes are the kernel's")
}

// The agent runs with BTF of a file below its root, passes a file of another kernel over, and its metrics say which one it is.
func TestBTFOfFile(t *testing.T) {
	agenttest.RequireRoot(t)
	own, err := os.ReadFile(kernelBTF)
	if err != nil {
		t.Skipf("the kernel has no BTF to hide: %v", err)
	}
	hide, root := hideBTF(t), t.TempDir()
	for _, dir := range []string{"etc", "proc", "run", "sys"} {
		require.NoError(t, os.Symlink("/"+dir, filepath.Join(root, dir)))
	}
	require.NoError(t, os.Mkdir(filepath.Join(root, "boot"), 0o755))
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	release := unix.ByteSliceToString(name.Release[:])
	require.NoError(t, os.WriteFile(filepath.Join(root, "boot", "vmlinux-"+release), []byte("not BTF"), 0o644))
	file := filepath.Join(root, "boot", "vmlinux")
	require.NoError(t, os.WriteFile(file, own, 0o644))

	ports := agenttest.FreePorts(t, agenttest.Ports)
	a := startWith(t, hide, ports[0], ports[1], "--config", agenttest.ShippedConfig, "--config", "yaml:"+agenttest.PortsConfig(ports),
		"--config", "yaml:{receivers: {netexporter: {root_path: "+root+"}}, processors: {k8spod: {root_path: "+root+"}}}")
	assert.InDelta(t, 1, a.own(t, fmt.Sprintf(`otelcol_netexporter_btf{path=%q,proof="functions"}`, file)), 0)
	p := nettest.New(t)
	for _, f := range nettest.Families() {
		reset := p.ConnectClosedPort(t, f) // named namespaces are mounts, which an agent in a mount namespace of its own does not see
		line := fmt.Sprintf("type=TCPRESET_NOSOCK protocol=TCP saddr=%s sport=%d daddr=%s dport=%d\n",
			reset.Destination.Addr(), reset.Destination.Port(), reset.Source.Addr(), reset.Source.Port())
		agenttest.Wait(t, line, func() bool { return strings.Contains(a.Stdout.String(), line) })
	}

	assert.InDelta(t, 1, start(t).own(t, fmt.Sprintf(`otelcol_netexporter_btf{path=%q,proof="own"}`, kernelBTF)), 0)
}

func TestBTFDiscoverJSON(t *testing.T) {
	if _, err := os.Stat(kernelBTF); err != nil {
		t.Skipf("the kernel has no BTF of its own: %v", err)
	}
	p := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), "btf", "discover", "--json")
	require.Zero(t, p.ExitCode(t))
	var got map[string]string
	require.NoError(t, json.Unmarshal([]byte(p.Stdout.String()), &got))
	assert.Equal(t, kernelBTF, got["path"])
	assert.Equal(t, "own", got["proof"])
	assert.NotEmpty(t, got["release"])
}

// verdicts runs the self-test and returns what it says of each probe; all hooks of a probe must agree.
func verdicts(t *testing.T, prepare func(*exec.Cmd), args ...string) (byProbe map[string]string, code int) {
	t.Helper()
	p := agenttest.Run(t, prepare, agenttest.Program(t, "inspector"), append([]string{"selftest", "--json", "--timeout=10m"}, args...)...)
	code = p.ExitCode(t)
	var results []struct{ Probe, Hook, Variant, Verdict, Reason string }
	require.NoError(t, json.Unmarshal([]byte(p.Stdout.String()), &results), "%s%s", p.Stdout.String(), p.Stderr.String())
	byProbe = map[string]string{}
	for _, r := range results {
		t.Logf("%+v", r)
		if byProbe[r.Probe] == "" || r.Verdict != "ok" {
			byProbe[r.Probe] = r.Verdict
		}
	}
	return byProbe, code
}

func TestInspectorSelftest(t *testing.T) {
	agenttest.RequireRoot(t)
	byProbe, code := verdicts(t, nil)
	assert.Zero(t, code)
	for _, probe := range []string{"packetloss", "tcp", "udp", "fd"} {
		assert.Equal(t, "ok", byProbe[probe], probe)
	}
	for probe, verdict := range byProbe {
		assert.NotEqual(t, "failed", verdict, probe)
	}

	p := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), "selftest", "udp")
	assert.Zero(t, p.ExitCode(t))
	assert.Regexp(t, `(?m)^PROBE +HOOK +VARIANT +VERDICT +REASON$`, p.Stdout.String())
	assert.Regexp(t, `(?m)^udp +namespaces +\w+ +ok *$`, p.Stdout.String())

	p = agenttest.Run(t, nil, agenttest.Program(t, "inspector"), "selftest", "no-such-probe")
	assert.Positive(t, p.ExitCode(t))
	assert.Contains(t, p.Stderr.String(), "no-such-probe")
}

// It does not need to be root, and says so of what it may not do.
func TestInspectorSelftestAsNobody(t *testing.T) {
	agenttest.RequireRoot(t)
	all := []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE, unix.CAP_SYSLOG, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}
	byProbe, code := verdicts(t, asNobody(t, all...), "udp", "packetloss")
	assert.Zero(t, code)
	assert.Equal(t, map[string]string{"udp": "ok", "packetloss": "ok"}, byProbe)

	byProbe, code = verdicts(t, asNobody(t, all[:4]...), "udp", "packetloss")
	assert.Equal(t, 1, code, "nothing could be tested")
	assert.Equal(t, map[string]string{"udp": "untested", "packetloss": "untested"}, byProbe)

	p := agenttest.Run(t, asNobody(t), agenttest.Program(t, "inspector"), "selftest")
	assert.Positive(t, p.ExitCode(t))
	assert.Contains(t, p.Stderr.String(), "missing capabilities: CAP_BPF")
}

func TestInspectorHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"btf", "--help"}, {"btf", "discover", "--help"}, {"selftest", "--help"}} {
		p := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), args...)
		assert.Zero(t, p.ExitCode(t), args)
		assert.Contains(t, p.Stdout.String(), "Usage:", args)
	}
}

func TestInspectorRefusesNonsense(t *testing.T) {
	p := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), "no-such-command")
	assert.Positive(t, p.ExitCode(t))
	assert.Contains(t, p.Stderr.String(), "no-such-command")
}

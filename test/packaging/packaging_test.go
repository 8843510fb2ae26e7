// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package packaging installs what `make package` made into a directory of its own, and runs what is in it with the privileges
// that the systemd unit gives and no others.
package packaging

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// nobody is a user without rights.
const nobody = 65534

const unitPath = "usr/lib/systemd/system/netexporter.service"

// made returns a file of dist, for this machine.
func made(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../../dist", pattern))
	require.NoError(t, err)
	if len(files) != 1 {
		t.Skipf("needs what `make package` makes, and `make release` for what lists it: found %d of %s", len(files), pattern)
	}
	path, err := filepath.Abs(files[0])
	require.NoError(t, err)
	return path
}

// output runs a program and returns what it writes.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}

func TestDeb(t *testing.T) {
	agenttest.RequireRoot(t)
	deb := made(t, "*_"+runtime.GOARCH+".deb")
	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644))
	dpkg := func(args ...string) string {
		return output(t, agenttest.SystemProgram(t, "dpkg"), append([]string{"--root=" + root, "--force-script-chrootless"}, args...)...)
	}

	dpkg("--install", deb)
	assert.Contains(t, dpkg("--status", "netexporter"), "Status: install ok installed")
	t.Run("runs", func(t *testing.T) { runs(t, root) })

	config := filepath.Join(root, "etc/netexporter/config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("# the administrator's\n"), 0o644))
	dpkg("--force-confold", "--install", deb)
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	assert.Equal(t, "# the administrator's\n", string(text), "after an upgrade")

	dpkg("--purge", "netexporter")
	for _, path := range []string{"usr/bin/netexporter", "etc/netexporter/config.yaml", unitPath} {
		assert.NoFileExists(t, filepath.Join(root, path))
	}
}

func TestRPM(t *testing.T) {
	agenttest.RequireRoot(t)
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	rpm, program := made(t, "*."+arch+".rpm"), agenttest.SystemProgram(t, "rpm")
	assert.Contains(t, output(t, program, "--query", "--package", "--configfiles", rpm), "/etc/netexporter/config.yaml")
	root := t.TempDir()
	output(t, program, "--root", root, "--initdb")
	// Without its scripts: there is no shell in the directory.
	output(t, program, "--root", root, "--install", "--noscripts", rpm)
	output(t, program, "--root", root, "--verify", "--nouser", "--nogroup", "netexporter")
	t.Run("runs", func(t *testing.T) { runs(t, root) })
	output(t, program, "--root", root, "--erase", "--noscripts", "netexporter")
	assert.NoFileExists(t, filepath.Join(root, "usr/bin/netexporter"))
}

// runs has the installed agent see a datagram to a closed port, as nobody with what the unit allows.
func runs(t *testing.T, root string) {
	unit, err := os.ReadFile(filepath.Join(root, unitPath))
	require.NoError(t, err)
	start := regexp.MustCompile(`(?m)^ExecStart=(\S+) --config (\S+)$`).FindStringSubmatch(string(unit))
	require.NotNil(t, start)
	for _, dir := range []string{root, filepath.Dir(root)} {
		require.NoError(t, os.Chmod(dir, 0o755)) // for nobody to get there
	}
	// What systemd makes of StateDirectory.
	state := filepath.Join(filepath.Dir(root), "state")
	require.NoError(t, os.Mkdir(state, 0o700))
	require.NoError(t, os.Chown(state, nobody, nobody))
	ports := agenttest.FreePorts(t, agenttest.Ports+1)
	agent := agenttest.StartWith(t, func(cmd *exec.Cmd) {
		// Nobody listens there.
		cmd.Env = append(os.Environ(), "NETEXPORTER_QUEUE="+state+"/queue", "LOKI_URL=http://"+agenttest.Loopback(ports[agenttest.Ports]))
		cmd.Path = filepath.Join(root, start[1])
		cmd.Dir = "/"
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		cmd.SysProcAttr.AmbientCaps = capabilities(t, string(unit))
	}, ports[0], ports[1], "--config", filepath.Join(root, start[2]), "--config", filepath.Join(root, "usr/share/netexporter/config/loki.yaml"), "--config", "yaml:"+agenttest.PortsConfig(ports))

	p := nettest.New(t)
	p.B.Hold(t)
	for _, f := range nettest.Families() {
		p.UDPToClosedPort(t, f, 1, true)
	}
	agenttest.Wait(t, "both datagrams in the metrics", func() bool {
		page, err := agenttest.Get(agent.Metrics)
		return err == nil && regexp.MustCompile(`(?m)^inspector_pod_udpnoports\{.*pod="`+p.B.Name+`"\} 2 `).MatchString(page)
	})
	agenttest.Wait(t, "an event with a function of the kernel", func() bool {
		return regexp.MustCompile(`(?m)^type=PACKETLOSS .*location=__udp[46]_lib_rcv\+0x.* netns=` + p.B.Name + `$`).MatchString(agent.Stdout.String())
	})
	assert.Positive(t, agent.Own(t, "otelcol_exporter_queue_size", `exporter="otlp_http/loki"`), "it waits on disk for Loki")
	// All that runs without an option does, and reads what it is about: devices of another namespace, and the slab caches.
	self, err := agenttest.Get(agent.Self)
	require.NoError(t, err)
	assert.NotRegexp(t, `(?m)^otelcol_netexporter_probe_up\{.*\} 0$`, self)
	page, err := agenttest.Get(agent.Metrics)
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^inspector_pod_netdevrxpackets\{.*pod="`+p.B.Name+`"\} [1-9]`, page, "CAP_SYS_ADMIN, CAP_NET_ADMIN")
	assert.Regexp(t, `(?m)^inspector_node_slabtcpslabobjnum\{`, page, "CAP_DAC_READ_SEARCH")

	assert.Contains(t, output(t, filepath.Join(root, "usr/bin/inspector"), "--help"), "selftest")
}

// capabilities are those of the unit, by the numbers of the kernel.
func capabilities(t *testing.T, unit string) (numbers []uintptr) {
	t.Helper()
	known := map[string]uintptr{
		"CAP_BPF": unix.CAP_BPF, "CAP_PERFMON": unix.CAP_PERFMON, "CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE, "CAP_SYSLOG": unix.CAP_SYSLOG,
		"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
		"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	}
	ambient := regexp.MustCompile(`(?m)^AmbientCapabilities=(.*)$`).FindStringSubmatch(unit)
	bounding := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(unit)
	require.NotNil(t, ambient)
	require.NotNil(t, bounding)
	assert.Equal(t, ambient[1], bounding[1])
	for name := range strings.FieldsSeq(ambient[1]) {
		number, found := known[name]
		require.True(t, found, name)
		assert.Regexp(t, `(?m)^# [A-Z_, ]*`+name+`\b[A-Z_, ]*: `, unit, "it says what it is for")
		numbers = append(numbers, number)
	}
	return numbers
}

// systemd understands the unit, and thinks it fenced in.
func TestUnit(t *testing.T) {
	program := agenttest.SystemProgram(t, "systemd-analyze")
	text, err := os.ReadFile("../../deploy/systemd/netexporter.service")
	require.NoError(t, err)
	// It wants the program to be there.
	unit := agenttest.WriteFile(t, "netexporter.service", strings.ReplaceAll(string(text), "/usr/bin/netexporter", agenttest.Program(t, "netexporter")))
	assert.Empty(t, output(t, program, "verify", "--recursive-errors=no", unit))
	output(t, program, "security", "--offline=true", "--threshold=40", unit)
}

// A release is whole: what is listed is there and as listed, and each program has its list of modules.
func TestRelease(t *testing.T) {
	sums := made(t, "SHA256SUMS")
	cmd := exec.Command("sha256sum", "--check", "--strict", sums)
	cmd.Dir = filepath.Dir(sums)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, arch := range []string{"amd64", "arm64"} {
		text, err := os.ReadFile(made(t, fmt.Sprintf("netexporter_*_%s.cdx.json", arch)))
		require.NoError(t, err)
		var bom struct {
			Components []struct{ Name, Version, PURL string }
		}
		require.NoError(t, json.Unmarshal(text, &bom))
		modules := map[string]string{}
		for _, c := range bom.Components {
			modules[c.Name] = c.Version
		}
		for _, name := range []string{"github.com/cilium/ebpf", "go.opentelemetry.io/collector/component"} {
			assert.NotEmpty(t, modules[name], name)
		}
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package agenttest runs programs for tests of the built agent: bin/netexporter with its shipped configuration, and the
// servers that it works with. The tests are in directories of test/: paths are relative to those.
package agenttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// ShippedConfig is what `make run` runs.
const ShippedConfig = "../../distribution/config/standalone.yaml"

const (
	timeout      = 3 * time.Minute // of every wait; far beyond what any of them takes
	pollInterval = 50 * time.Millisecond
)

// Program returns the path of a program that `make build` makes.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../bin", name))
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("bin/%s is not there: run `make build` first (%v)", name, err)
	}
	return path
}

// RequireRoot skips a test that runs the agent.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs the agent, makes network namespaces")
	}
}

// SystemProgram returns the path of a program of the system, and skips the test if there is none.
func SystemProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs the program %s (Debian: apt-get install prometheus)", name)
	}
	return path
}

// Wait polls until the condition holds, and fails the test if it does not within timeout.
func Wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !condition(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", timeout, what)
		}
	}
}

// FreePorts returns ports of loopback that nobody listens on. They are below those that the kernel gives to connections,
// so that nobody gets one by chance in the meantime, and no other test gets them before this one ends: an abstract socket
// (unix(7)) of that name is theirs.
func FreePorts(t testing.TB, count int) []int {
	t.Helper()
	ports := make([]int, 0, count)
	Wait(t, "free ports", func() bool {
		port := 20000 + rand.IntN(10000)
		claim, err := net.Listen("unix", fmt.Sprintf("@netexporter-test-port-%d", port))
		if err != nil {
			return false
		}
		if !IsFree(port) {
			_ = claim.Close()
			return false
		}
		t.Cleanup(func() { _ = claim.Close() })
		ports = append(ports, port)
		return len(ports) == count
	})
	return ports
}

// IsFree tells whether nobody listens on a port of loopback.
func IsFree(port int) bool {
	listener, err := net.Listen("tcp", Loopback(port))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// Loopback returns the address of a port of loopback.
func Loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Output collects what a process writes.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Process is a program that runs.
type Process struct {
	Cmd            *exec.Cmd
	Stdout, Stderr Output
	done           chan struct{} // closed once it has ended
}

// Run starts a program, which ends with the test at the latest. change may change the command before.
func Run(t testing.TB, change func(*exec.Cmd), name string, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.Cmd.Stdout, p.Cmd.Stderr = &p.Stdout, &p.Stderr
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if change != nil {
		change(p.Cmd)
	}
	require.NoError(t, p.Cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.Cmd.Wait() // ProcessState tells
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill()
		<-p.done
		if text := p.Stderr.String(); t.Failed() && text != "" {
			t.Logf("standard error of %s:\n%s", filepath.Base(name), text)
		}
	})
	return p
}

// Ended tells whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// ExitCode waits for the end of the process.
func (p *Process) ExitCode(t testing.TB) int {
	t.Helper()
	Wait(t, p.Cmd.Path+" to end", p.Ended)
	return p.Cmd.ProcessState.ExitCode()
}

// CPUTime returns the time that all threads of the program have had a CPU (clock_getcpuclockid(3)).
func (p *Process) CPUTime(t testing.TB) time.Duration {
	t.Helper()
	const schedClock = 2 // CPUCLOCK_SCHED of a process, include/linux/posix-timers.h
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(int32(^p.Cmd.Process.Pid<<3|schedClock), &ts))
	return time.Duration(ts.Nano())
}

// Memory returns the program's resident memory in bytes.
func (p *Process) Memory(t testing.TB) (bytes uint64) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Cmd.Process.Pid))
	require.NoError(t, err)
	var size, resident uint64
	_, err = fmt.Sscan(string(raw), &size, &resident)
	require.NoError(t, err)
	return resident * uint64(os.Getpagesize())
}

// Signal sends a signal to the process.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	require.NoError(t, p.Cmd.Process.Signal(s))
}

// Agent is bin/netexporter with the shipped configuration.
type Agent struct {
	*Process
	Metrics, Self string // URLs: the documented endpoint and the one about the agent itself
	Stream        string // address of the event stream, for agents of Start
	killed        bool
}

// Start runs the agent on free ports and returns once it has served a collection pass. files are configurations that are
// merged into the shipped one.
func Start(t testing.TB, files ...string) *Agent {
	t.Helper()
	ports := FreePorts(t, Ports)
	args := []string{"--config", ShippedConfig, "--config", "yaml:" + PortsConfig(ports)}
	for _, file := range files {
		args = append(args, "--config", file)
	}
	a := StartWith(t, nil, ports[0], ports[1], args...)
	a.Stream = Loopback(ports[3])
	return a
}

// Ports is how many PortsConfig needs.
const Ports = 4

// PortsConfig moves everything that the shipped configuration listens on.
func PortsConfig(ports []int) string {
	return fmt.Sprintf(`
exporters: {prometheus: {endpoint: "127.0.0.1:%d"}, eventstream: {endpoint: "127.0.0.1:%d"}}
extensions: {health_check: {endpoint: "127.0.0.1:%d"}}
service:
  telemetry:
    metrics:
      readers:
        - pull: {exporter: {prometheus: {host: 127.0.0.1, port: %d, without_scope_info: true, without_type_suffix: true, without_units: true}}}
`, ports[0], ports[3], ports[2], ports[1])
}

// StartWith runs the agent with arguments that make it serve the ports. change may change the command before.
func StartWith(t testing.TB, change func(*exec.Cmd), metricsPort, selfPort int, args ...string) *Agent {
	t.Helper()
	RequireRoot(t)
	a := &Agent{
		Process: Run(t, change, Program(t, "netexporter"), args...),
		Metrics: "http://" + Loopback(metricsPort) + "/metrics",
		Self:    "http://" + Loopback(selfPort) + "/metrics",
	}
	t.Cleanup(func() { a.Stop(t) })
	Wait(t, "the first collection pass", func() bool {
		if a.Ended() {
			t.Fatalf("the agent has ended: %v", a.Cmd.ProcessState)
		}
		text, err := Get(a.Metrics)
		return err == nil && strings.Contains(text, `pod="hostNetwork"`)
	})
	return a
}

// Stop ends the agent as an operator does. It is safe more than once.
func (a *Agent) Stop(t testing.TB) {
	t.Helper()
	if a.killed {
		return
	}
	if !a.Ended() {
		a.Signal(t, syscall.SIGTERM)
	}
	assert.Zero(t, a.ExitCode(t), "exit code after SIGTERM")
}

// Kill ends the agent as a fault does. It is safe more than once.
func (a *Agent) Kill(t testing.TB) {
	t.Helper()
	if a.killed {
		return
	}
	a.Signal(t, syscall.SIGKILL)
	<-a.done
	a.killed = true
}

// Own sums a metric about the agent itself over its series that have all the labels, as they are written there.
func (a *Agent) Own(t testing.TB, name string, labels ...string) (sum int) {
	t.Helper()
	text, err := Get(a.Self)
	require.NoError(t, err)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name+"{") || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(line, l) }) {
			continue
		}
		var value float64
		_, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value)
		require.NoError(t, err, line)
		sum += int(value)
	}
	return sum
}

// WriteFile writes a file into a directory of the test's and returns its path.
func WriteFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// Get returns the body of a page.
func Get(url string) (string, error) {
	client := http.Client{Timeout: 30 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

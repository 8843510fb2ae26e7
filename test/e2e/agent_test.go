// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

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

	"github.com/netexporter/netexporter/internal/nettest"
)

const (
	shippedConfig = "../../distribution/config/standalone.yaml"

	timeout      = 3 * time.Minute // of every wait; far beyond what any of them takes
	pollInterval = 50 * time.Millisecond
)

// program returns the path of a program that `make build` makes.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../bin", name))
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("bin/%s is not there: run `make build` first (%v)", name, err)
	}
	return path
}

// requireRoot skips a test that runs the agent.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs the agent, makes network namespaces")
	}
}

// systemProgram returns the path of a program of the system, and skips the test if there is none.
func systemProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs the program %s (Debian: apt-get install prometheus)", name)
	}
	return path
}

// wait polls until the condition holds, and fails the test if it does not within timeout.
func wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !condition(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", timeout, what)
		}
	}
}

// freePorts returns ports of loopback that nobody listens on. They are below those that the kernel gives to connections,
// so that nobody gets one by chance in the meantime.
func freePorts(t testing.TB, count int) []int {
	t.Helper()
	ports := make([]int, 0, count)
	wait(t, "free ports", func() bool {
		port := 20000 + rand.IntN(10000)
		if isFree(port) && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
		return len(ports) == count
	})
	return ports
}

func isFree(port int) bool {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// process is a program that runs.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr output
	done           chan struct{} // closed once it has ended
}

// run starts a program, which ends with the test at the latest. change may change the command before.
func run(t testing.TB, change func(*exec.Cmd), name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if change != nil {
		change(p.cmd)
	}
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // ProcessState tells
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if text := p.stderr.String(); t.Failed() && text != "" {
			t.Logf("standard error of %s:\n%s", filepath.Base(name), text)
		}
	})
	return p
}

// ended tells whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// exitCode waits for the end of the process.
func (p *process) exitCode(t testing.TB) int {
	t.Helper()
	wait(t, p.cmd.Path+" to end", p.ended)
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

// agent is bin/netexporter with the shipped configuration.
type agent struct {
	*process
	metrics, self string // URLs: the documented endpoint and the one about the agent itself
}

// start runs the agent on free ports and returns once it has served a collection pass. files are configurations that are
// merged into the shipped one.
func start(t testing.TB, files ...string) *agent {
	t.Helper()
	ports := freePorts(t, 3)
	args := []string{"--config", shippedConfig, "--config", "yaml:" + portsConfig(ports)}
	for _, file := range files {
		args = append(args, "--config", file)
	}
	return startWith(t, nil, ports[0], ports[1], args...)
}

// portsConfig moves everything that the shipped configuration listens on.
func portsConfig(ports []int) string {
	return fmt.Sprintf(`
exporters: {prometheus: {endpoint: "127.0.0.1:%d"}}
extensions: {health_check: {endpoint: "127.0.0.1:%d"}}
service:
  telemetry:
    metrics:
      readers:
        - pull: {exporter: {prometheus: {host: 127.0.0.1, port: %d, without_scope_info: true, without_type_suffix: true, without_units: true}}}
`, ports[0], ports[2], ports[1])
}

// startWith runs the agent with arguments that make it serve the ports. change may change the command before.
func startWith(t testing.TB, change func(*exec.Cmd), metricsPort, selfPort int, args ...string) *agent {
	t.Helper()
	requireRoot(t)
	a := &agent{
		process: run(t, change, program(t, "netexporter"), args...),
		metrics: "http://" + loopback(metricsPort) + "/metrics",
		self:    "http://" + loopback(selfPort) + "/metrics",
	}
	t.Cleanup(func() { a.stop(t) })
	wait(t, "the first collection pass", func() bool {
		if a.ended() {
			t.Fatalf("the agent has ended: %v", a.cmd.ProcessState)
		}
		text, err := get(a.metrics)
		return err == nil && strings.Contains(text, `pod="hostNetwork"`)
	})
	return a
}

// stop ends the agent as an operator does. It is safe more than once.
func (a *agent) stop(t testing.TB) {
	t.Helper()
	if !a.ended() {
		a.signal(t, syscall.SIGTERM)
	}
	assert.Zero(t, a.exitCode(t), "exit code after SIGTERM")
}

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// get returns the body of a page.
func get(url string) (string, error) {
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

// events returns the lines on standard output that tell of a namespace, by the ending that names its owner.
func (a *agent) events(ending string) []string {
	var lines []string
	for line := range strings.Lines(a.stdout.String()) {
		if line, whole := strings.CutSuffix(line, "\n"); whole && strings.HasSuffix(line, " "+ending) {
			lines = append(lines, line)
		}
	}
	return lines
}

// flush returns once all events so far are on standard output. Those of a probe come one after another, so it makes more
// of each kind, in a pair of namespaces that is nobody else's, until one has arrived: the rate limit may hold some back.
func (a *agent) flush(t testing.TB) {
	t.Helper()
	p := nettest.New(t)
	for event, cause := range map[string]func(){
		"PACKETLOSS":      func() { p.UDPToClosedPort(t, nettest.IPv4, 1, true) },
		"TCPRESET_NOSOCK": func() { p.ConnectClosedPort(t, nettest.IPv4) },
	} {
		wait(t, "a last "+event, func() bool {
			cause()
			return slices.ContainsFunc(a.events("netns="+p.B.Name), func(line string) bool {
				return strings.HasPrefix(line, "type="+event+" ")
			})
		})
	}
}

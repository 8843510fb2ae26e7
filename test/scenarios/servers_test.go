// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// With this in its environment the test program is a web server at an address; with a second word it is a reverse proxy
// to that URL. A server that is to be stopped or throttled must be a process of its own.
const serverVariable = "NETEXPORTER_TEST_SERVER"

func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv(serverVariable)); len(words) > 0 {
		var handler http.Handler = http.HandlerFunc(sink)
		if len(words) > 1 {
			backend, err := url.Parse(words[1])
			if err != nil {
				panic(err)
			}
			handler = httputil.NewSingleHostReverseProxy(backend)
		}
		fmt.Fprintln(os.Stderr, http.ListenAndServe(words[0], handler))
		os.Exit(1)
	}
	// The troubles of a round happen at once: they mostly wait.
	flag.Parse()
	if err := flag.Set("test.parallel", "64"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// sink reads what it is sent, and answers.
func sink(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "ok\n")
}

// serve runs a web server, or a reverse proxy if it has a backend, and returns once it answers in the clients' namespace.
func serve(t *testing.T, n, clients *nettest.Namespace, at netip.AddrPort, backend string) *agenttest.Process {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	var p *agenttest.Process
	n.Do(t, func() {
		p = agenttest.Run(t, func(cmd *exec.Cmd) {
			cmd.Env = append(os.Environ(), serverVariable+"="+at.String()+" "+backend)
		}, program)
	})
	agenttest.Wait(t, "the server to answer", func() bool {
		if p.Ended() {
			t.Fatalf("the server has ended: %v", p.Cmd.ProcessState)
		}
		return healthCheck(t.Context(), clients, at) == nil
	})
	return p
}

// healthCheck makes a request over a connection of its own.
func healthCheck(ctx context.Context, from *nettest.Namespace, at netip.AddrPort) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: from.DialContext}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/healthz", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// upload sends a request that has no end until the test ends.
func upload(t *testing.T, from *nettest.Namespace, at netip.AddrPort) {
	t.Helper()
	var conn net.Conn
	agenttest.Wait(t, "a connection to the proxy", func() (connected bool) {
		var err error
		conn, err = from.DialContext(t.Context(), "tcp", at.String())
		return err == nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := fmt.Fprintf(conn, "POST /upload HTTP/1.1\r\nHost: proxy\r\nContent-Length: %d\r\n\r\n", 1<<40)
		for data := make([]byte, 64<<10); err == nil; {
			_, err = conn.Write(data)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
}

// throttle lets a process have so much of each 100 ms of a CPU, by a cgroup of its own.
func throttle(t *testing.T, pid int, quota time.Duration) {
	t.Helper()
	const period = 100 * time.Millisecond
	root, file, value := "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota.Microseconds(), 10)
	if _, err := os.Stat(filepath.Join(root, file)); err != nil { // version 2
		root, file, value = "/sys/fs/cgroup", "cpu.max", fmt.Sprint(quota.Microseconds(), " ", period.Microseconds())
		_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+cpu"), 0o644) // what follows tells
	}
	group := filepath.Join(root, "netexporter-test-"+strconv.Itoa(pid))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("needs the CPU controller of cgroups: %v", err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
		agenttest.Wait(t, "the cgroup to be empty", func() bool { return os.Remove(group) == nil })
	})
	for name, text := range map[string]string{file: value, "cgroup.procs": strconv.Itoa(pid)} {
		require.NoError(t, os.WriteFile(filepath.Join(group, name), []byte(text), 0o644))
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// The documented form of a page, to the letter: labels in this order, a value, the time of the collection in
// milliseconds. What is of the node as a whole has the label node alone. Labels of the metric itself may follow.
var (
	commentLine = regexp.MustCompile(`^# (HELP (inspector_(?:pod|node)_[a-z0-9_]+) .+|TYPE (inspector_(?:pod|node)_[a-z0-9_]+) (?:counter|gauge))$`)
	sampleLine  = regexp.MustCompile(`^(inspector_(?:pod|node)_[a-z0-9_]+)\{(.*)\} ([0-9.]+(?:e\+[0-9]+)?) ([0-9]{13})$`)
	podLabels   = regexp.MustCompile(`^namespace="([^"\\]*)",netns="(ns[0-9]+|)",node="([^"\\]+)",pod="([^"\\]*)"((?:,[a-z_]+="[^"\\]*")*)$`)
	nodeLabels  = regexp.MustCompile(`^node="([^"\\]+)"((?:,[a-z_]+="[^"\\]*")*)$`)
)

// labels tell whose a series is; all but node are empty for one of the node as a whole.
type labels struct{ namespace, netns, node, pod string }

// page is a scrape of the documented endpoint: values by name, with the metric's own labels if it has any
// (`name{reason="X"}`), of each owner.
type page struct {
	// pass is when the last collection pass was. A page that is scraped meanwhile has values of the one before, too.
	pass   time.Time
	values map[labels]map[string]float64
}

// parsePage fails the test if a line is not in the documented form.
func parsePage(t testing.TB, text string) page {
	t.Helper()
	p := page{values: map[labels]map[string]float64{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if commentLine.MatchString(line) {
			continue
		}
		parts := sampleLine.FindStringSubmatch(line)
		if parts == nil {
			t.Fatalf("not in the documented form: %s", line)
		}
		name, value, ms := parts[1], parts[3], parts[4]
		var whose labels
		var own string
		if l := podLabels.FindStringSubmatch(parts[2]); l != nil {
			whose, own = labels{l[1], l[2], l[3], l[4]}, l[5]
		} else {
			l := nodeLabels.FindStringSubmatch(parts[2])
			if l == nil {
				t.Fatalf("labels are not in the documented form: %s", line)
			}
			whose, own = labels{node: l[1]}, l[2]
		}
		if own != "" {
			name += "{" + own[1:] + "}"
		}
		number, valueErr := strconv.ParseFloat(value, 64)
		unixMilli, timeErr := strconv.ParseInt(ms, 10, 64)
		if err := errors.Join(valueErr, timeErr); err != nil {
			t.Fatalf("parse %s: %v", line, err)
		}
		if at := time.UnixMilli(unixMilli); at.After(p.pass) {
			p.pass = at
		}
		if p.values[whose] == nil {
			p.values[whose] = map[string]float64{}
		}
		if _, twice := p.values[whose][name]; twice {
			t.Fatalf("twice: %s", line)
		}
		p.values[whose][name] = number
	}
	return p
}

// of returns the series of a named namespace, nil if it is not on the page. It looks for the name, which is used once,
// and not for the inode number, which the kernel reuses.
func (p page) of(n *nettest.Namespace) map[string]float64 {
	for whose, values := range p.values {
		if whose.namespace == "netns" && whose.pod == n.Name {
			return values
		}
	}
	return nil
}

func (a agent) page(t testing.TB) page {
	t.Helper()
	text, err := agenttest.Get(a.Metrics)
	require.NoError(t, err)
	return parsePage(t, text)
}

// nextPage returns a page of which all values were read after the call.
func (a agent) nextPage(t testing.TB) page {
	t.Helper()
	// The exporter has taken over a whole pass each time that this rises. The first pass may have begun before the call.
	taken := func() float64 {
		points, _ := a.find(t, `otelcol_exporter_sent_metric_points{exporter="prometheus"}`)
		return points
	}
	for range 2 {
		before := taken()
		agenttest.Wait(t, "a collection pass", func() bool { return taken() > before })
	}
	return a.page(t)
}

func TestExposition(t *testing.T) {
	p := nettest.New(t)
	id := moveToContainer(t, p.A.Hold(t))
	nameless := startNameless(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	a := start(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	p.ConnectClosedPort(t, nettest.IPv6)
	got := a.nextPage(t)

	text, err := agenttest.Get(a.Metrics)
	require.NoError(t, err)
	t.Logf("a page of %d bytes, %d namespaces", len(text), len(got.values))

	node := hostName(t)
	host := got.values[labels{"hostNetwork", "ns0", node, "hostNetwork"}]
	assert.Contains(t, host, "inspector_pod_udprcvbuferrors")
	for _, tt := range []struct {
		name string
		want labels
	}{
		{"named namespace", labels{"netns", fmt.Sprintf("ns%d", p.B.Inode), node, p.B.Name}},
		{"container", labels{"container", fmt.Sprintf("ns%d", p.A.Inode), node, id[:12]}},
		{"nobody known", labels{"", fmt.Sprintf("ns%d", nameless), node, ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Contains(t, slices.Collect(maps.Keys(got.values)), tt.want)
			assert.Subset(t, plainNames(host), plainNames(got.values[tt.want]), "the host has what any namespace has")
			for _, name := range []string{"tcpoutrsts", "tcpextlistendrops", "udpnoports", "packetloss_total"} {
				assert.Contains(t, got.values[tt.want], "inspector_pod_"+name)
			}
		})
	}
	values := got.of(p.B)
	assert.InDelta(t, 2, values[`inspector_pod_packetloss_by_reason{reason="NO_SOCKET"}`], 0, "a datagram and a SYN")
	assert.InDelta(t, 1, values[`inspector_pod_tcpreset{reason="NO_SOCKET",type="TCPRESET_NOSOCK"}`], 0)
	// Counted by the kernel since the namespace began, so before the agent, too.
	assert.InDelta(t, 2, values["inspector_pod_udpnoports"], 0)

	t.Run("event line of a container", func(t *testing.T) {
		a.flush(t)
		assert.Len(t, a.events("container="+id[:12]), 1, "TCP_RCV_RST_SYN of A")
	})
}

// plainNames returns the names of metrics that have no labels of their own.
func plainNames(values map[string]float64) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(values)), func(name string) bool { return strings.Contains(name, "{") })
}

func hostName(t testing.TB) string {
	t.Helper()
	if line, err := os.ReadFile("/etc/hostname"); err == nil && len(strings.TrimSpace(string(line))) > 0 {
		return strings.TrimSpace(string(line))
	}
	name, err := os.Hostname()
	require.NoError(t, err)
	return name
}

// moveToContainer puts a process into a cgroup as a container runtime makes them, until the end of the test, and returns
// the container's id.
func moveToContainer(t testing.TB, pid int) string {
	t.Helper()
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	id := hex.EncodeToString(raw)
	dir := filepath.Join(cgroupMount(t), "nxt-"+id+".scope")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("needs to make cgroups: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // only an empty cgroup can be removed
		agenttest.Wait(t, "the cgroup to be empty", func() bool { return os.Remove(dir) == nil })
	})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644))
	return id
}

// cgroupMount returns where the cgroups of version 2 are mounted.
func cgroupMount(t testing.TB) string {
	t.Helper()
	f, err := os.Open("/proc/self/mounts")
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	t.Skip("needs cgroups of version 2")
	return ""
}

// startNameless runs a process in a namespace that has no name, and returns the namespace's inode number.
func startNameless(t testing.TB) uint64 {
	t.Helper()
	p := agenttest.Run(t, func(cmd *exec.Cmd) { cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNET }, "sleep", "infinity")
	var stat syscall.Stat_t
	require.NoError(t, syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", p.Cmd.Process.Pid), &stat))
	return stat.Ino
}

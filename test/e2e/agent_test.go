// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// agent is bin/netexporter as it is shipped.
type agent struct{ *agenttest.Agent }

// start runs the agent on free ports, see [agenttest.Start]. It needs a probe that has a series of the host whatever happens, as udp.
func start(t testing.TB, files ...string) agent { return agent{agenttest.Start(t, files...)} }

func startWith(t testing.TB, change func(*exec.Cmd), metricsPort, selfPort int, args ...string) agent {
	return agent{agenttest.StartWith(t, change, metricsPort, selfPort, args...)}
}

// events returns the lines on standard output that tell of a namespace, by the ending that names its owner.
func (a agent) events(ending string) []string {
	var lines []string
	for line := range strings.Lines(a.Stdout.String()) {
		if line, whole := strings.CutSuffix(line, "\n"); whole && strings.HasSuffix(line, " "+ending) {
			lines = append(lines, line)
		}
	}
	return lines
}

// flush returns once all events so far are on standard output. Those of a probe come one after another, so it makes more
// of each kind, in a pair of namespaces that is nobody else's, until one has arrived: the rate limit may hold some back.
func (a agent) flush(t testing.TB) {
	t.Helper()
	p := nettest.New(t)
	for event, cause := range map[string]func(){
		"PACKETLOSS":      func() { p.UDPToClosedPort(t, nettest.IPv4, 1, true) },
		"TCPRESET_NOSOCK": func() { p.ConnectClosedPort(t, nettest.IPv4) },
	} {
		agenttest.Wait(t, "a last "+event, func() bool {
			cause()
			return slices.ContainsFunc(a.events("netns="+p.B.Name), func(line string) bool {
				return strings.HasPrefix(line, "type="+event+" ")
			})
		})
	}
}

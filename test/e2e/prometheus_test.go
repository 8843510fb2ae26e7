// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// A real Prometheus scrapes the endpoint and answers queries.
func TestPrometheusScrapes(t *testing.T) {
	agenttest.SystemProgram(t, "prometheus")
	a := start(t)
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv6, 3, true)

	target, err := url.Parse(a.Metrics)
	require.NoError(t, err)
	server := agenttest.StartPrometheus(t, fmt.Sprintf(`
scrape_configs:
  - job_name: netexporter
    scrape_interval: 5s
    static_configs: [{targets: [%q]}]
`, target.Host))
	agenttest.Wait(t, "the target to be up", func() bool {
		up := server.Query(t, `up{job="netexporter"}`)
		return len(up) == 1 && up[0].Value() == 1
	})
	expr := fmt.Sprintf("inspector_pod_udpnoports{pod=%q}", p.B.Name)
	var got []agenttest.Series
	agenttest.Wait(t, "the answer to "+expr, func() bool {
		got = server.Query(t, expr)
		return len(got) == 1 && got[0].Value() == 3
	})
	assert.Equal(t, map[string]string{
		"__name__": "inspector_pod_udpnoports", "job": "netexporter", "instance": target.Host,
		"namespace": "netns", "netns": fmt.Sprintf("ns%d", p.B.Inode), "node": hostName(t), "pod": p.B.Name,
	}, got[0].Metric)
}

// promtool understands the page, and whatever it would have otherwise is explained in docs/prometheus.md.
func TestPromtoolComplaints(t *testing.T) {
	promtool := agenttest.SystemProgram(t, "promtool")
	a := start(t)
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	p.ConnectClosedPort(t, nettest.IPv4)
	var text string
	agenttest.Wait(t, "metrics with labels of their own to be on the page", func() bool {
		var err error
		text, err = agenttest.Get(a.Metrics)
		require.NoError(t, err)
		return strings.Contains(text, "\ninspector_pod_tcpreset{") && strings.Contains(text, "\ninspector_pod_packetloss_by_reason{")
	})

	cmd := exec.Command(promtool, "check", "metrics")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &errs
	err := cmd.Run()
	complaints := strings.TrimSpace(out.String() + errs.String())
	if complaints == "" {
		require.NoError(t, err)
		return
	}
	const lint = 3 // exit code of promtool for complaints, where 1 is a page that cannot be parsed
	require.Equal(t, lint, cmd.ProcessState.ExitCode(), complaints)
	explained := firstColumn(t, documentSection(t, "prometheus.md", "promtool"))
	for line := range strings.Lines(complaints) {
		name, complaint, _ := strings.Cut(strings.TrimSpace(line), " ")
		assert.True(t, strings.HasPrefix(name, "inspector_"), line)
		assert.Contains(t, explained, complaint, "docs/prometheus.md does not explain: %s", line)
	}
}

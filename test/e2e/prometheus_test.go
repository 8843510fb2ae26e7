// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/nettest"
)

// A real Prometheus scrapes the endpoint and answers queries.
func TestPrometheusScrapes(t *testing.T) {
	prometheus := systemProgram(t, "prometheus")
	a := start(t)
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv6, 3, true)

	target, err := url.Parse(a.metrics)
	require.NoError(t, err)
	config := writeFile(t, "prometheus.yml", fmt.Sprintf(`
scrape_configs:
  - job_name: netexporter
    scrape_interval: 5s
    static_configs: [{targets: [%q]}]
`, target.Host))
	port := freePorts(t, 1)[0]
	server := run(t, nil, prometheus, "--config.file="+config, "--storage.tsdb.path="+t.TempDir(),
		"--web.listen-address="+loopback(port), "--log.level=warn")
	query := func(expr string) []vectorSample {
		if server.ended() {
			t.Fatalf("prometheus has ended: %v", server.cmd.ProcessState)
		}
		return queryPrometheus(t, port, expr)
	}

	wait(t, "the target to be up", func() bool {
		up := query(`up{job="netexporter"}`)
		return len(up) == 1 && up[0].value() == "1"
	})
	expr := fmt.Sprintf("inspector_pod_udpnoports{pod=%q}", p.B.Name)
	var got []vectorSample
	wait(t, "the answer to "+expr, func() bool {
		got = query(expr)
		return len(got) == 1 && got[0].value() == "3"
	})
	assert.Equal(t, map[string]string{
		"__name__": "inspector_pod_udpnoports", "job": "netexporter", "instance": target.Host,
		"namespace": "netns", "netns": fmt.Sprintf("ns%d", p.B.Inode), "node": hostName(t), "pod": p.B.Name,
	}, got[0].Metric)
}

// vectorSample is an element of the answer to an instant query.
type vectorSample struct {
	Metric map[string]string
	Value  [2]any // time, value as text
}

func (s vectorSample) value() string { return fmt.Sprint(s.Value[1]) }

// queryPrometheus returns the answer to an instant query, nil while the server is not ready.
func queryPrometheus(t testing.TB, port int, expr string) []vectorSample {
	t.Helper()
	text, err := get("http://" + loopback(port) + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil
	}
	var answer struct {
		Status string
		Data   struct{ Result []vectorSample }
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer), text)
	require.Equal(t, "success", answer.Status, text)
	return answer.Data.Result
}

// promtool understands the page, and whatever it would have otherwise is explained in docs/prometheus.md.
func TestPromtoolComplaints(t *testing.T) {
	promtool := systemProgram(t, "promtool")
	a := start(t)
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	p.ConnectClosedPort(t, nettest.IPv4)
	var text string
	wait(t, "metrics with labels of their own to be on the page", func() bool {
		var err error
		text, err = get(a.metrics)
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

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
)

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// document returns a file of docs/.
func document(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	require.NoError(t, err)
	return string(text)
}

// documentSection returns what is below a heading of second order.
func documentSection(t testing.TB, name, heading string) string {
	t.Helper()
	_, section, found := strings.Cut(document(t, name), "\n## "+heading+"\n")
	require.True(t, found, "docs/%s has no section %s", name, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

// firstColumn returns the code in the first column of the tables of a section.
func firstColumn(t testing.TB, section string) []string {
	t.Helper()
	var cells []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` +\\|").FindAllStringSubmatch(section, -1) {
		cells = append(cells, m[1])
	}
	require.NotEmpty(t, cells)
	return cells
}

// What the documents say to configure is accepted, on top of what is shipped.
func TestDocumentedConfigurations(t *testing.T) {
	blocks := yamlBlock.FindAllStringSubmatch(document(t, "configuration.md"), -1)
	require.NotEmpty(t, blocks)
	for i, block := range blocks {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			file := agenttest.WriteFile(t, "documented.yaml", block[1])
			p := agenttest.Run(t, nil, agenttest.Program(t, "netexporter"), "validate", "--config", agenttest.ShippedConfig, "--config", file)
			assert.Zero(t, p.ExitCode(t), "%s\n%s", block[1], p.Stderr.String())
		})
	}
}

func TestDocumentedScrapeConfiguration(t *testing.T) {
	promtool := agenttest.SystemProgram(t, "promtool")
	blocks := yamlBlock.FindAllStringSubmatch(document(t, "prometheus.md"), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		out, err := exec.Command(promtool, "check", "config", agenttest.WriteFile(t, "prometheus.yml", block[1])).CombinedOutput()
		assert.NoError(t, err, "%s\n%s", block[1], out)
	}
}

// The agent runs the probes that the documents list and no other; those of latency only if they are asked for.
func TestDocumentedProbes(t *testing.T) {
	tried := func(a agent) (probes []string) {
		text, err := agenttest.Get(a.Self)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^otelcol_netexporter_probe_up\{probe="(\w+)"\}`).FindAllStringSubmatch(text, -1) {
			if m[1] != "netns" { // the collection pass itself
				probes = append(probes, m[1])
			}
		}
		return probes
	}
	always := firstColumn(t, documentSection(t, "metrics.md", "Probes"))
	latency := firstColumn(t, documentSection(t, "metrics.md", "Probes of latency"))
	t.Run("by default", func(t *testing.T) {
		assert.ElementsMatch(t, always, tried(start(t)))
	})
	t.Run("asked for", func(t *testing.T) {
		config := "receivers: {netexporter: {probes: {" + strings.Join(latency, ": , ") + ": }}}"
		assert.ElementsMatch(t, append(latency, always...), tried(start(t, agenttest.WriteFile(t, "latency.yaml", config))))
	})
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
)

const document = "../../docs/troubleshooting.md"

var write = flag.Bool("write", false, "write what a run of TestTroubles showed into docs/troubleshooting.md and docs/pictures")

// place is where the document has the output of a run.
func place(name string) *regexp.Regexp {
	return regexp.MustCompile("(?s)(<!-- run: " + regexp.QuoteMeta(name) + " -->\n```\n)(.*?)(```\n)")
}

// tell returns what the agent says of the trouble: lines of its page, then lines of events.
func (a actors) tell(t *testing.T, agent *agenttest.Agent) string {
	t.Helper()
	if a.shows == nil {
		return ""
	}
	page, err := agenttest.Get(agent.Metrics)
	require.NoError(t, err)
	who := a.B
	if a.shows.client {
		who = a.A
	}
	var text strings.Builder
	for _, name := range a.shows.metrics {
		lines := regexp.MustCompile(`(?m)^inspector_pod_`+name+`\{.*pod="`+who.Name+`".*$`).FindAllString(page, -1)
		assert.NotEmpty(t, lines, name)
		for _, line := range lines {
			fmt.Fprintln(&text, a.rename(line))
		}
	}
	told := agent.Stdout.String()
	for _, event := range a.shows.events {
		found := false
		for line := range strings.Lines(told) {
			line = strings.TrimSuffix(line, "\n")
			if found = strings.HasPrefix(line, "type="+event+" ") && (strings.HasSuffix(line, "netns="+a.A.Name) || strings.HasSuffix(line, "netns="+a.B.Name)); found {
				fmt.Fprintln(&text, a.rename(shortenStack(line)))
				break
			}
		}
		assert.True(t, found, "an event %s", event)
	}
	return text.String()
}

// rename calls the namespaces by what they are for, and the node as documents do.
func (a actors) rename(line string) string {
	line = strings.NewReplacer(a.A.Name, a.short+"-client", a.B.Name, a.short+"-server").Replace(line)
	return regexp.MustCompile(`node="[^"]*"`).ReplaceAllString(line, `node="worker-1"`)
}

// shortenStack leaves the innermost three functions of a stack.
func shortenStack(line string) string {
	return regexp.MustCompile(`(stacktrace:(?:\S+ ){3})\S.*? (netns=)`).ReplaceAllString(line, "$1... $2")
}

// writeDocument puts what was told into its places.
func writeDocument(t *testing.T, all []actors) {
	t.Helper()
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	for _, a := range all {
		if a.shows != nil {
			text = place(a.short).ReplaceAll(text, []byte("${1}"+strings.ReplaceAll(a.told, "$", "$$")+"${3}"))
		}
	}
	require.NoError(t, os.WriteFile(document, text, 0o644))
}

// The document shows a run of each scenario that is worth it, and none that there is not.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	shown := map[string]bool{}
	for _, s := range scenarios() {
		if s.shows == nil {
			continue
		}
		shown[s.short] = true
		found := place(s.short).FindSubmatch(text)
		if assert.NotNil(t, found, "no place for %s", s.short) {
			for _, name := range append(s.shows.metrics, s.shows.events...) {
				assert.Contains(t, string(found[2]), name, "%s: `make scenarios` writes it", s.short)
			}
		}
	}
	for _, m := range regexp.MustCompile(`<!-- run: (.*?) -->`).FindAllStringSubmatch(string(text), -1) {
		assert.True(t, shown[m[1]], "no scenario %s", m[1])
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// The panels of events show those of the pod that is chosen, from a real Loki, and of no other.
func TestEventPanels(t *testing.T) {
	agenttest.RequireRoot(t)
	loki := agenttest.StartLoki(t)
	agenttest.Start(t, agenttest.WriteFile(t, "loki.yaml", fmt.Sprintf(`
receivers: {netexporter: {probes: {socketlatency: }}}
exporters: {otlp_http: {endpoint: %q}}
service: {pipelines: {logs: {exporters: [stdout, otlp_http]}}}
`, loki.URL+"/otlp")))
	chosen, other := nettest.New(t), nettest.New(t)
	for _, p := range []*nettest.Pair{chosen, other} {
		for _, f := range nettest.Families() {
			p.UDPToClosedPort(t, f, 1, true)
			p.ConnectClosedPort(t, f)
			p.LateRead(t, f, overThreshold)
		}
	}
	for _, d := range dashboards(t) {
		for _, p := range d.Panels {
			if p.Type != "logs" {
				continue
			}
			t.Run(d.UID, func(t *testing.T) {
				query := func(vars url.Values) []string { return loki.Query(t, fill(p.Targets[0].Expr, vars)) }
				agenttest.Wait(t, "events of both", func() bool {
					return len(query(url.Values{"var-pod": {chosen.B.Name}})) > 0 && len(query(url.Values{"var-pod": {other.B.Name}})) > 0
				})
				for _, line := range query(url.Values{"var-pod": {chosen.B.Name}, "var-namespace": {"netns"}}) {
					assert.Contains(t, line, "netns="+chosen.B.Name)
				}
			})
		}
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

const (
	deployed = "../../deploy"
	// patience is the longest that alerts may take, far beyond what they do.
	patience = 10 * time.Minute
	// interval of collection, scrapes and evaluation: the shortest that the agent ships with.
	interval = 5 * time.Second
)

// Every probe, and every probe proven before. Events enough for those that documents show not to be held back.
const everything = `
receivers:
  netexporter:
    self_test: true
    probes: {net_softirq: , socketlatency: , kernellatency: , netiftxlat: , packetloss: {events_per_second: 1000}}
`

// TestTroubles makes every trouble happen, of pods, of the node and of an agent, and looks at what a user would see.
func TestTroubles(t *testing.T) {
	agenttest.RequireRoot(t)
	agenttest.SystemProgram(t, "prometheus")
	start := time.Now()
	agent := agenttest.Start(t, agenttest.WriteFile(t, "everything.yaml", everything))
	server := startPrometheus(t, agent)
	ill, illServer := sickAgent(t)

	var all []actors
	for _, s := range scenarios() {
		all = append(all, actors{scenario: s, Pair: nettest.New(t)})
	}
	t.Run("pods", func(t *testing.T) { testPods(t, agent, server, all) })
	t.Run("node", func(t *testing.T) { testNode(t, server) })
	t.Run("sick agent", func(t *testing.T) { testSick(t, illServer) })
	t.Run("dead agent", func(t *testing.T) { testDead(t, ill, illServer) })
	t.Run("agent", func(t *testing.T) {
		// It may hold events back in the storms.
		assert.Empty(t, server.Query(t, `max_over_time(ALERTS{alertname=~"Netexporter.*",alertname!="NetexporterEventsSuppressed",alertstate="firing"}[1h])`))
	})
	t.Run("panels", func(t *testing.T) { testPanels(t, start, server, illServer) })
	if *write && !t.Failed() {
		writeDocument(t, all)
		writePictures(t, start, all, server)
	}
}

// actors are a scenario with the namespaces that it is played in, and what the agent said of it.
type actors struct {
	scenario
	*nettest.Pair
	happen func(*testing.T)
	told   string
}

// testPods has the troubles of all pods happen until their alerts fire.
func testPods(t *testing.T, agent *agenttest.Agent, server *agenttest.Prometheus, all []actors) {
	start := time.Now()
	for scraped := 0; scraped < 2*len(all); time.Sleep(interval / 5) {
		require.Less(t, time.Since(start), patience, "only %d of %d namespaces have been scraped twice", scraped, 2*len(all))
		scraped = len(server.Query(t, `count_over_time(inspector_pod_tcpoutrsts{namespace="netns"}[5m]) > 1`))
	}
	for i := range all {
		all[i].happen = all[i].begin(t, all[i].Pair)
	}
	start = time.Now()
	for round := 0; ; round++ {
		missing := ""
		for _, a := range all {
			for who, want := range a.wanted() {
				firing := alerts(t, server, who)
				for _, name := range want {
					if !slices.ContainsFunc(firing, func(a agenttest.Alert) bool { return a.Labels["alertname"] == name }) {
						missing += fmt.Sprintf("%s: %s\n", a.name, name)
					}
				}
			}
		}
		if missing == "" {
			t.Logf("all alerts fire after %d rounds, %v", round, time.Since(start).Round(time.Second))
			break
		}
		require.Less(t, time.Since(start), patience, "these do not fire:\n%s", missing)
		t.Run(fmt.Sprintf("round %d", round), func(t *testing.T) {
			for _, a := range all {
				t.Run(a.name, func(t *testing.T) {
					t.Parallel()
					a.happen(t)
				})
			}
		})
		require.False(t, t.Failed())
	}

	for i, a := range all {
		t.Run(a.name, func(t *testing.T) {
			for who, want := range a.wanted() {
				for _, alert := range alerts(t, server, who) {
					name := alert.Labels["alertname"]
					if alert.Labels["severity"] == "info" && !slices.Contains(want, name) {
						continue
					}
					assert.Contains(t, append(slices.Clone(want), a.also...), name, "it fires for %s", who)
					assert.True(t, follow(t, server, alert), "%s leads to %s, where there is nothing", name, alert.Annotations["dashboard"])
				}
			}
			if a.client == nil && a.server == nil {
				// Not even for a moment; but on a busy machine processes do read late.
				assert.Empty(t, server.Query(t, fmt.Sprintf(`max_over_time(ALERTS{pod=~"%s|%s",severity!="info"}[1h])`, a.A.Name, a.B.Name)))
			}
			all[i].told = a.tell(t, agent)
		})
	}
}

// wanted returns the alerts that must fire by the namespace.
func (a actors) wanted() map[string][]string {
	return map[string][]string{a.A.Name: a.client, a.B.Name: a.server}
}

// alerts are those of a pod that fire.
func alerts(t *testing.T, server *agenttest.Prometheus, pod string) []agenttest.Alert {
	t.Helper()
	return slices.DeleteFunc(server.Alerts(t), func(a agenttest.Alert) bool { return a.State != "firing" || a.Labels["pod"] != pod })
}

// alertSoftIrq is that of testNode.
const alertSoftIrq = "NodeSoftIrqSlow"

// testNode has soft interrupts take too long: a packet that a packet filter takes long over keeps its CPU. Before, nothing is
// wrong with the node.
func testNode(t *testing.T, server *agenttest.Prometheus) {
	assert.Empty(t, server.Query(t, `max_over_time(ALERTS{alertname=~"Node.*",alertstate="firing"}[1h])`), "of a node that nothing is wrong with")
	p := nettest.New(t)
	longRules(t, p.B)
	for range 3 {
		p.UDPToClosedPort(t, nettest.IPv4, 1, false)
	}
	firesFor(t, server, func() {}, alertSoftIrq)
	for _, a := range server.Alerts(t) {
		if a.Labels["alertname"] == alertSoftIrq {
			assert.True(t, follow(t, server, a), "%s leads to %s, where there is nothing", a.Labels, a.Annotations["dashboard"])
		}
	}
}

// longRules gives a namespace a packet filter of some 40 million rules to pass, few of them written: chains of jumps.
func longRules(t *testing.T, n *nettest.Namespace) {
	t.Helper()
	rules := "add table inet long\nadd chain inet long input { type filter hook input priority 0; }\n"
	for _, chain := range []struct {
		name, rule string
		times      int
	}{
		{"a", "meta mark 4711 accept", 1000}, {"b", "jump a", 200}, {"c", "jump b", 200}, {"input", "meta l4proto udp jump c", 1},
	} {
		if chain.name != "input" {
			rules += "add chain inet long " + chain.name + "\n"
		}
		rules += strings.Repeat("add rule inet long "+chain.name+" "+chain.rule+"\n", chain.times)
	}
	nft := agenttest.SystemProgram(t, "nft")
	n.Do(t, func() {
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
}

// testPanels runs the queries of all panels: each has data.
func testPanels(t *testing.T, start time.Time, servers ...*agenttest.Prometheus) {
	for _, d := range dashboards(t) {
		for _, v := range d.Templating.List {
			if query := v.values(); query != "" {
				expr := fill(strings.TrimPrefix(query[:strings.LastIndex(query, ",")], "label_values("), nil)
				assert.True(t, slices.ContainsFunc(servers, func(s *agenttest.Prometheus) bool { return len(s.Query(t, expr)) > 0 }), "%s: no values of %s", d.Title, v.Name)
			}
		}
		for _, p := range d.Panels {
			if p.Type == "logs" {
				continue
			}
			t.Run(d.UID+"/"+p.Title, func(t *testing.T) {
				for _, q := range p.Targets {
					if strings.Contains(q.Expr, "virtsendcmdlat") && len(servers[1].Query(t, `max_over_time(otelcol_netexporter_probe_up{probe="virtcmdlatency"}[1h]) == 0`)) > 0 {
						t.Skip("needs a virtio-net device, and a kernel that lets its commands be seen")
					}
					assert.True(t, slices.ContainsFunc(servers, func(s *agenttest.Prometheus) bool {
						return len(s.QueryRange(t, fill(q.Expr, nil), start, time.Now(), interval)) > 0
					}), "no data: %s", q.Expr)
				}
			})
		}
	}
}

// startPrometheus runs Prometheus as deploy/prometheus/static.yml configures it, but for the targets and the pace.
func startPrometheus(t *testing.T, agents ...*agenttest.Agent) *agenttest.Prometheus {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployed, "prometheus/static.yml"))
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, yaml.Unmarshal(text, &config))
	config["global"] = map[string]any{"scrape_interval": interval.String(), "evaluation_interval": interval.String()}
	rules, err := filepath.Abs(filepath.Join(deployed, "prometheus", config["rule_files"].([]any)[0].(string)))
	require.NoError(t, err)
	config["rule_files"] = []string{rules}
	targets := map[string][]string{}
	for _, a := range agents {
		for job, page := range map[string]string{"netexporter": a.Metrics, "netexporter-agent": a.Self} {
			at, err := url.Parse(page)
			require.NoError(t, err)
			targets[job] = append(targets[job], at.Host)
		}
	}
	for _, job := range config["scrape_configs"].([]any) {
		job := job.(map[string]any)
		job["static_configs"] = []any{map[string]any{"targets": targets[job["job_name"].(string)]}}
	}
	text, err = yaml.Marshal(config)
	require.NoError(t, err)
	server := agenttest.StartPrometheus(t, string(text))
	agenttest.Wait(t, "the targets to be up", func() bool { return len(server.Query(t, "up == 1")) == 2*len(agents) })
	return server
}

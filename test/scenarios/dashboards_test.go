// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/netexporter/netexporter/internal/agenttest"
)

const runbook = "https://github.com/netexporter/netexporter/blob/main/docs/troubleshooting.md#"

// panel is what these tests look at of a panel of Grafana's JSON model.
type panel struct {
	ID          int
	Type, Title string
	Datasource  struct{ Type string }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ Expr, LegendFormat string }
	Links       []struct{ URL string }
}

// dashboard is one of deploy/grafana.
type dashboard struct {
	UID, Title string
	Panels     []panel
	Templating struct{ List []variable }
}

type variable struct {
	Name  string
	Query any // what kind of data sources, or an object with the query of values
}

// values is the query of a variable's values, empty for a data source.
func (v variable) values() string {
	object, _ := v.Query.(map[string]any)
	query, _ := object["query"].(string)
	return query
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(deployed, "grafana/dashboards/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	all := map[string]dashboard{}
	for _, file := range files {
		var d dashboard
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &d), file)
		d.Panels = slices.DeleteFunc(d.Panels, func(p panel) bool { return p.Type == "row" })
		all[d.UID] = d
	}
	return all
}

func (d dashboard) panel(id int) *panel {
	for i, p := range d.Panels {
		if p.ID == id {
			return &d.Panels[i]
		}
	}
	return nil
}

// fill puts values in place of a query's variables; one that is not chosen matches everything.
func fill(expr string, chosen url.Values) string {
	return regexp.MustCompile(`\$(\w+)`).ReplaceAllStringFunc(expr, func(variable string) string {
		name := variable[1:]
		if name == "__rate_interval" {
			return (4 * 15 * time.Second).String() // as Grafana has it for the shipped interval of scrapes
		}
		if value := chosen.Get("var-" + name); value != "" {
			return value
		}
		return ".*"
	})
}

// follow opens the panel that an alert's annotation leads to and tells whether it shows the trouble: a series that is not zero.
func follow(t *testing.T, server *agenttest.Prometheus, alert agenttest.Alert) (shows bool) {
	t.Helper()
	p, link := target(t, dashboards(t), alert.Annotations["dashboard"])
	for _, q := range p.Targets {
		for _, s := range server.QueryRange(t, fill(q.Expr, link.Query()), time.Now().Add(-5*time.Minute), time.Now(), 5*time.Second) {
			shows = shows || slices.ContainsFunc(s.Points, func(p agenttest.Point) bool { return p.Value != 0 }) || p.Type == "state-timeline"
		}
	}
	return shows
}

// target returns the panel that a link leads to.
func target(t *testing.T, all map[string]dashboard, link string) (*panel, *url.URL) {
	t.Helper()
	u, err := url.Parse(link)
	require.NoError(t, err)
	d, found := all[strings.TrimPrefix(u.Path, "/d/")]
	require.True(t, found, "%s: no such dashboard", link)
	id, err := strconv.Atoi(u.Query().Get("viewPanel"))
	require.NoError(t, err, link)
	p := d.panel(id)
	require.NotNil(t, p, "%s: no such panel", link)
	for name := range u.Query() {
		if name, isVariable := strings.CutPrefix(name, "var-"); isVariable {
			assert.True(t, slices.ContainsFunc(d.Templating.List, func(v variable) bool { return v.Name == name }), "%s: no variable %s", link, name)
		}
	}
	return p, u
}

var metricName = regexp.MustCompile(`\b\w+:\w+:\w+\b|\b(?:inspector|otelcol|kernellatency)_\w+|\bup\b|\bALERTS\b`)

// metrics are the names that a query asks for, without what makes a part of a histogram of them; recorded ones are those that they are
// made of.
func metrics(t *testing.T, expr string) (names []string) {
	t.Helper()
	for _, name := range metricName.FindAllString(expr, -1) {
		if strings.Contains(name, ":") {
			all := rules(t)
			i := slices.IndexFunc(all, func(r rule) bool { return r.Record == name })
			if assert.GreaterOrEqual(t, i, 0, "no rule records %s", name) {
				names = append(names, metrics(t, all[i].Expr)...)
			}
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		names = append(names, name)
	}
	return names
}

// rule is one of deploy/prometheus/rules.
type rule struct {
	Alert, Record, Expr string
	Annotations         map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(deployed, "prometheus/rules/*.yml"))
	require.NoError(t, err)
	for _, file := range files {
		var groups struct{ Groups []struct{ Rules []rule } }
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, &groups))
		for _, g := range groups.Groups {
			all = append(all, g.Rules...)
		}
	}
	require.NotEmpty(t, all)
	return all
}

// promtool takes the rules and what is configured, and its tests of the rules pass.
func TestPromtool(t *testing.T) {
	promtool := agenttest.SystemProgram(t, "promtool")
	for _, args := range [][]string{
		{"check", "config", "static.yml"},
		{"check", "config", "remote-write.yml"},
		{"check", "rules", "rules/alerts.yml", "rules/recording.yml"},
		{"test", "rules", "tests/alerts.yml"},
	} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Join(deployed, "prometheus")
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, "promtool %s:\n%s", strings.Join(args, " "), out)
	}
}

// The configuration for Kubernetes finds the pods of the chart. Debian's Prometheus is built without Kubernetes, so it checks
// the rest of it.
func TestKubernetesConfiguration(t *testing.T) {
	promtool := agenttest.SystemProgram(t, "promtool")
	dir := filepath.Join(deployed, "prometheus")
	text, err := os.ReadFile(filepath.Join(dir, "kubernetes.yml"))
	require.NoError(t, err)
	var config struct {
		Global    map[string]any
		Scrapes   []map[string]any `yaml:"scrape_configs"`
		RuleFiles []string         `yaml:"rule_files"`
	}
	require.NoError(t, yaml.Unmarshal(text, &config))
	var chart strings.Builder
	for _, name := range []string{"_helpers.tpl", "daemonset.yaml"} {
		template, err := os.ReadFile(filepath.Join(deployed, "kubernetes/chart/templates", name))
		require.NoError(t, err)
		chart.Write(template)
	}
	for _, scrape := range config.Scrapes {
		discovery, err := yaml.Marshal(scrape["kubernetes_sd_configs"])
		require.NoError(t, err)
		assert.Contains(t, string(discovery), "app.kubernetes.io/name=netexporter")
		assert.Contains(t, chart.String(), "app.kubernetes.io/name: netexporter")
		relabel, err := yaml.Marshal(scrape["relabel_configs"])
		require.NoError(t, err)
		port := regexp.MustCompile(`regex: (\w+)`).FindStringSubmatch(string(relabel))
		require.NotNil(t, port)
		assert.Regexp(t, `\bname: `+port[1]+`\b`, chart.String())
		delete(scrape, "kubernetes_sd_configs")
	}
	rest, err := yaml.Marshal(map[string]any{"global": config.Global, "scrape_configs": config.Scrapes})
	require.NoError(t, err)
	out, err := exec.Command(promtool, "check", "config", agenttest.WriteFile(t, "prometheus.yml", string(rest))).CombinedOutput()
	assert.NoError(t, err, "%s", out)
}

// Every alert has a test, a panel that asks for the same metrics, and a section that says what to do, which names it.
func TestAlertsLeadSomewhere(t *testing.T) {
	all, sections := dashboards(t), sections(t)
	tests, err := os.ReadFile(filepath.Join(deployed, "prometheus/tests/alerts.yml"))
	require.NoError(t, err)
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		assert.Contains(t, string(tests), `alertname="`+r.Alert+`"`, "no test has it fire")
		link := regexp.MustCompile(`\{\{ \$labels\.(\w+) \}\}`).ReplaceAllString(r.Annotations["dashboard"], "$1")
		p, _ := target(t, all, link)
		var shown []string
		for _, q := range p.Targets {
			shown = append(shown, metrics(t, q.Expr)...)
		}
		asked := metrics(t, r.Expr)
		assert.True(t, slices.ContainsFunc(asked, func(name string) bool { return slices.Contains(shown, name) }),
			"%s asks for %s, and panel %q shows %s", r.Alert, asked, p.Title, shown)
		anchor, _ := strings.CutPrefix(r.Annotations["runbook_url"], runbook)
		assert.Contains(t, sections[anchor], "`"+r.Alert+"`", "section %q of docs/troubleshooting.md", anchor)
	}
}

// Every alert fires in TestTroubles, but for those of which docs/prometheus.md says that a test machine cannot have them.
func TestAlertsAreExercised(t *testing.T) {
	text, err := os.ReadFile("../../docs/prometheus.md")
	require.NoError(t, err)
	_, list, found := strings.Cut(string(text), "cannot be brought to:")
	require.True(t, found)
	list, _, _ = strings.Cut(list, "\n\n")
	var want []string
	for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(list, -1) {
		want = append(want, m[1])
	}
	fire := slices.Concat(alertsOfSick(), alertsOfDead(), []string{alertProbeDown, alertSoftIrq})
	for _, s := range scenarios() {
		fire = slices.Concat(fire, s.client, s.server)
	}
	var others []string
	for _, r := range rules(t) {
		if r.Alert != "" && !slices.Contains(fire, r.Alert) {
			others = append(others, r.Alert)
		}
	}
	assert.ElementsMatch(t, want, others, "alerts that do not fire in a test")
}

// Every panel has a unit, a legend and a section that says what to do; its metrics are those of the product.
func TestPanels(t *testing.T) {
	known, sections := knownMetrics(t), sections(t)
	for _, d := range dashboards(t) {
		ids := map[int]bool{}
		for _, p := range d.Panels {
			at := d.UID + "/" + p.Title
			assert.False(t, ids[p.ID], "%s: its number is taken", at)
			ids[p.ID] = true
			require.NotEmpty(t, p.Targets, at)
			require.NotEmpty(t, p.Links, at)
			anchor, _ := strings.CutPrefix(p.Links[0].URL, runbook)
			assert.NotEmpty(t, sections[anchor], "%s: no section %q in docs/troubleshooting.md", at, anchor)
			if p.Type == "logs" {
				continue
			}
			assert.NotEmpty(t, p.FieldConfig.Defaults.Unit, at)
			for _, q := range p.Targets {
				assert.NotEmpty(t, metrics(t, q.Expr), at)
				for _, name := range metrics(t, q.Expr) {
					assert.Contains(t, known, name, at)
				}
				if p.Type == "timeseries" && strings.Contains(q.Expr, "$pod") {
					assert.Contains(t, q.LegendFormat, "{{namespace}}/{{pod}}/{{node}}", at)
				}
			}
		}
	}
	for _, r := range rules(t) {
		for _, name := range metrics(t, r.Expr) {
			assert.Contains(t, known, name, r.Alert+r.Record)
		}
	}
}

// knownMetrics are those that the generated documents list, the collector's own that dashboards use.
func knownMetrics(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{"up": true, "ALERTS": true}
	for _, file := range []string{"../../receiver/netexporterreceiver/documentation.md", "../../docs/metrics.md"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile("(?:### |`)((?:inspector|kernellatency|otelcol)_[\\w.]+)").FindAllStringSubmatch(string(text), -1) {
			known[strings.ReplaceAll(name[1], ".", "_")] = true
		}
	}
	for _, name := range []string{
		"exporter_sent_log_records", "exporter_send_failed_log_records", "exporter_enqueue_failed_log_records", "exporter_queue_size",
		"exporter_queue_capacity", "receiver_refused_metric_points", "receiver_refused_log_records", "process_cpu_seconds", "process_memory_rss",
	} {
		known["otelcol_"+name] = true
	}
	return known
}

// sections returns what is below each heading of docs/troubleshooting.md, by the name of its anchor.
func sections(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	require.NoError(t, err)
	all := map[string]string{}
	for _, part := range strings.Split("\n"+string(text), "\n## ")[1:] {
		heading, rest, _ := strings.Cut(part, "\n")
		anchor := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading), "")
		all[strings.ReplaceAll(anchor, " ", "-")] = rest
	}
	return all
}

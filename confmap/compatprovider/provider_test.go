// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package compatprovider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// converted returns the configuration that a file becomes.
func converted(t *testing.T, content string) *confmap.Conf {
	t.Helper()
	yaml, err := convert([]byte(content), func() string { return "discovered:1" })
	require.NoError(t, err)
	ret, err := confmap.NewRetrievedFromYAML(yaml)
	require.NoError(t, err)
	conf, err := ret.AsConf()
	require.NoError(t, err, "%s", yaml)
	return conf
}

// has compares single keys; a nil one is not there.
func has(t *testing.T, conf *confmap.Conf, want map[string]any) {
	t.Helper()
	for key, value := range want {
		assert.Equal(t, value, conf.Get(key), key)
	}
}

func list(names ...any) []any { return names }

// The documented defaults: metrics on 9102 every 5 s from the default set, no events.
func TestDocumentedDefaults(t *testing.T) {
	for name, content := range map[string]string{
		"empty file":    "",
		"comment":       "# nothing\n",
		"empty section": "metric_config:\n",
		"written out": `
debugmode: false
metric_config: {port: 9102, verbose: false, interval: 5, probes: []}
`,
		"values of the chart": `
config:
  enableEventServer: false
  enableMetricServer: true
  remoteLokiAddress: ""
  metricLabelVerbose: false
  metricServerPort: 9102
  eventServerPort: 19102
  metricProbes: []
  eventProbes: []
`,
	} {
		t.Run(name, func(t *testing.T) {
			has(t, converted(t, content), map[string]any{
				"receivers::netexporter":                          map[string]any{"collection_interval": "5s"},
				"processors::k8spod::verbose":                     false,
				"exporters::prometheus::endpoint":                 ":9102",
				"exporters::prometheus::metric_expiration":        "9s",
				"exporters::eventstream":                          nil,
				"service::pipelines::metrics::exporters":          list("prometheus"),
				"service::pipelines::logs":                        nil,
				"service::extensions":                             list("health_check"),
				"service::telemetry::logs::level":                 "info",
				"exporters::prometheus::translation_strategy":     "UnderscoreEscapingWithoutSuffixes",
				"exporters::prometheus::resource_constant_labels": map[string]any{"included": list("namespace", "netns", "node", "pod", "k8s.pod.ip", "k8s.pod.label.*")},
			})
		})
	}
}

func TestEvents(t *testing.T) {
	conf := converted(t, "event_config:\n  port: 19102\n  loki_enable: false\n  probes: []\n")
	has(t, conf, map[string]any{
		"exporters::eventstream::endpoint":    ":19102",
		"exporters::loki":                     nil,
		"service::pipelines::logs::exporters": list("stdout", "eventstream"),
		"receivers::netexporter::probes":      nil,
	})
	conf = converted(t, "config: {enableEventServer: true, enableMetricServer: false, eventServerPort: 7}")
	has(t, conf, map[string]any{
		"exporters::eventstream::endpoint":       ":7",
		"exporters::prometheus":                  nil,
		"service::pipelines::metrics":            nil,
		"receivers::netexporter::default_probes": false,
		"receivers::netexporter::probes":         map[string]any{"packetloss": map[string]any{}, "tcpreset": map[string]any{}, "tcptwrcv": map[string]any{}},
	})
}

func TestEveryKey(t *testing.T) {
	conf := converted(t, `
debugmode: true
event_config:
  port: 1234
  loki_enable: true
  loki_address: http://loki.example:80
  probes: [tcpreset, {name: net_softirq}, virtcmdlatency]
metric_config:
  port: 4321
  verbose: true
  interval: 15
  probes: [tcp, virtcmdlat, name: udp]
`)
	none := map[string]any{"events": false}
	has(t, conf, map[string]any{
		"receivers::netexporter": map[string]any{
			"collection_interval": "15s",
			"default_probes":      false,
			"probes": map[string]any{
				"tcp": none, "udp": none,
				"tcpreset": map[string]any{}, "net_softirq": map[string]any{}, "virtcmdlatency": map[string]any{},
			},
		},
		"processors::k8spod::verbose":              true,
		"exporters::prometheus::endpoint":          ":4321",
		"exporters::prometheus::metric_expiration": "27s",
		"exporters::eventstream::endpoint":         ":1234",
		"exporters::loki::endpoint":                "http://loki.example:80/loki/api/v1/push",
		"service::pipelines::metrics::exporters":   list("prometheus", "eventstream", "debug"),
		"service::pipelines::logs::exporters":      list("stdout", "eventstream", "loki", "debug"),
		"service::extensions":                      list("health_check", "pprof", "zpages"),
		"extensions::pprof::endpoint":              "127.0.0.1:1777",
		"service::telemetry::logs::level":          "debug",
	})
}

// The default set for metrics, and events of one probe alone.
func TestEventsOfOneProbe(t *testing.T) {
	has(t, converted(t, "event_config: {probes: [tcpreset]}"), map[string]any{
		"receivers::netexporter::default_probes": true,
		"receivers::netexporter::probes": map[string]any{
			"packetloss": map[string]any{"events": false}, "tcptwrcv": map[string]any{"events": false}, "tcpreset": map[string]any{},
		},
	})
}

func TestMetricsOfOneProbe(t *testing.T) {
	has(t, converted(t, "metric_config: {probes: [udp]}"), map[string]any{
		"receivers::netexporter::default_probes": false,
		"receivers::netexporter::probes":         map[string]any{"udp": map[string]any{}},
	})
}

func TestRefusals(t *testing.T) {
	for content, want := range map[string]string{
		"metric_config: {prot: 9102}":         "line 1: field prot is no key of metric_config",
		"event_config: {loki: true}":          "line 1: field loki is no key of event_config",
		"config: {enableLoki: true}":          "line 1: field enableLoki is no key of config",
		"event-config: {}":                    "line 1: field event-config is no key of the file",
		"metric_config: [1]":                  "into the keys of metric_config",
		"metric_config: {port: 0}":            "metric_config.port: must be a port, got 0",
		"event_config: {port: 70000}":         "event_config.port: must be a port, got 70000",
		"metric_config: {port: many}":         "cannot unmarshal",
		"metric_config: {interval: 0}":        "metric_config.interval: must be greater than 0",
		"metric_config: {interval: soon}":     `interval: "soon" is neither a number of seconds nor a duration`,
		"metric_config: {probes: [{}]}":       "a probe without a name",
		"config: {enableMetricServer: false}": "there is nothing to do",
		"metric_config: [":                    "yaml:",
	} {
		_, err := convert([]byte(content), discoverLoki)
		require.ErrorContains(t, err, want, content)
		assert.NotContains(t, err.Error(), "compatprovider", "names of Go tell users nothing")
	}
}

// What a user writes stays a string of YAML.
func TestQuoting(t *testing.T) {
	has(t, converted(t, `event_config: {loki_enable: true, loki_address: "http://l/p?a=\"b\": #c", probes: ["a: b"]}`), map[string]any{
		"exporters::loki::endpoint":            `http://l/p?a="b": #c`,
		"receivers::netexporter::probes::a: b": map[string]any{},
	})
}

func TestLokiEndpoint(t *testing.T) {
	for address, want := range map[string]string{
		"loki":                                 "http://loki:3100/loki/api/v1/push",
		"loki:80":                              "http://loki:80/loki/api/v1/push",
		"10.0.0.1":                             "http://10.0.0.1:3100/loki/api/v1/push",
		"fd00::1":                              "http://[fd00::1]:3100/loki/api/v1/push",
		"[fd00::1]":                            "http://[fd00::1]:3100/loki/api/v1/push",
		"[fd00::1]:80":                         "http://[fd00::1]:80/loki/api/v1/push",
		"http://loki:80":                       "http://loki:80/loki/api/v1/push",
		"http://loki:80/":                      "http://loki:80/loki/api/v1/push",
		"https://loki.example":                 "https://loki.example/loki/api/v1/push",
		"https://loki.example/tenant/api/push": "https://loki.example/tenant/api/push",
	} {
		assert.Equal(t, want, lokiEndpoint(address), address)
	}
}

// Enabled without an address, Loki is the Service grafana-loki of the own namespace.
func TestLokiIsDiscovered(t *testing.T) {
	has(t, converted(t, "event_config: {loki_enable: true}"), map[string]any{
		"exporters::loki::endpoint":           "http://discovered:1/loki/api/v1/push",
		"service::pipelines::logs::exporters": list("stdout", "eventstream", "loki"),
	})
	has(t, converted(t, "config: {enableEventServer: true, remoteLokiAddress: elsewhere}"), map[string]any{
		"exporters::loki::endpoint": "http://elsewhere:3100/loki/api/v1/push",
	})

	env := map[string]string{"GRAFANA_LOKI_SERVICE_HOST": "fd00::7", "GRAFANA_LOKI_SERVICE_PORT": "80"}
	getenv := func(name string) string { return env[name] }
	none := func(string) string { return "" }
	known := func(host string) bool { assert.Equal(t, "grafana-loki.monitoring.svc", host); return true }
	unknown := func(string) bool { return false }
	assert.Equal(t, "grafana-loki.monitoring.svc:80", lokiAddress("monitoring", getenv, known))
	assert.Equal(t, "[fd00::7]:80", lokiAddress("monitoring", getenv, unknown))
	assert.Equal(t, "grafana-loki.monitoring.svc:3100", lokiAddress("monitoring", none, unknown), "it may come later")
	assert.Equal(t, "grafana-loki:3100", lokiAddress("", none, unknown))
}

func TestProvider(t *testing.T) {
	p := NewFactory().Create(confmap.ProviderSettings{})
	require.NoError(t, confmaptest.ValidateProviderScheme(p))
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte("metric_config: {port: 1}"), 0o644))
	ret, err := p.Retrieve(t.Context(), "compat:"+path, nil)
	require.NoError(t, err)
	conf, err := ret.AsConf()
	require.NoError(t, err)
	assert.Equal(t, ":1", conf.Get("exporters::prometheus::endpoint"))
	require.NoError(t, os.WriteFile(path, []byte("metric_config: {port: -1}"), 0o644))
	_, err = p.Retrieve(t.Context(), "compat:"+path, nil)
	require.ErrorContains(t, err, path+": metric_config.port")
	assert.NotContains(t, err.Error(), strings.Repeat(path, 2))
}

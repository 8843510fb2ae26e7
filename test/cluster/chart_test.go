// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestChart renders the chart with each documented key, and has the built agent check what comes out.
func TestChart(t *testing.T) {
	requireChart(t)
	for _, tt := range []struct {
		name  string
		flags []string
		// Of the collector's configuration; nil for what must not be there.
		want map[string]any
	}{
		{
			"defaults", nil,
			map[string]any{
				"service::pipelines::metrics::exporters":      []any{"prometheus"},
				"exporters::prometheus::endpoint":             ":9102",
				"exporters::prometheus::metric_expiration":    "9s",
				"receivers::netexporter::collection_interval": "5s",
				"receivers::netexporter::probes":              nil,
				"processors::k8spod::verbose":                 nil,
				"service::pipelines::logs":                    nil,
				"service::telemetry::logs::level":             "info",
			},
		},
		{
			"enableEventServer",
			[]string{"config.enableEventServer=true"},
			map[string]any{
				"service::pipelines::metrics::exporters": []any{"prometheus", "eventstream"},
				"service::pipelines::logs::exporters":    []any{"stdout", "eventstream"},
				"exporters::eventstream::endpoint":       ":19102",
				"receivers::netexporter::probes":         nil,
			},
		},
		{
			"enableMetricServer",
			[]string{"config.enableMetricServer=false", "config.enableEventServer=true"},
			map[string]any{
				"service::pipelines::metrics":            nil,
				"exporters::prometheus":                  nil,
				"receivers::netexporter::default_probes": false,
				"receivers::netexporter::probes":         map[string]any{"packetloss": nil, "tcpreset": nil, "tcptwrcv": nil},
			},
		},
		{
			"metricServerPort, eventServerPort",
			[]string{"config.metricServerPort=9200", "config.eventServerPort=19200", "config.enableEventServer=true"},
			map[string]any{"exporters::prometheus::endpoint": ":9200", "exporters::eventstream::endpoint": ":19200"},
		},
		{
			"metricProbes",
			[]string{"config.metricProbes={udp,virtcmdlat}"},
			map[string]any{
				"receivers::netexporter::default_probes": false,
				"receivers::netexporter::probes":         map[string]any{"udp": nil, "virtcmdlatency": nil},
			},
		},
		{
			"eventProbes",
			[]string{"config.enableEventServer=true", "config.eventProbes={tcpreset,kernellatency}"},
			map[string]any{
				"receivers::netexporter::default_probes": true,
				"receivers::netexporter::probes": map[string]any{
					"kernellatency": nil, "tcpreset": nil,
					"packetloss": map[string]any{"events": false}, "tcptwrcv": map[string]any{"events": false},
				},
			},
		},
		{
			"metricProbes and eventProbes",
			[]string{"config.enableEventServer=true", "config.metricProbes={udp,packetloss}", "config.eventProbes={tcpreset}"},
			map[string]any{
				"receivers::netexporter::default_probes": false,
				"receivers::netexporter::probes": map[string]any{
					"tcpreset": nil, "packetloss": map[string]any{"events": false}, "udp": map[string]any{"events": false},
				},
			},
		},
		{
			"interval",
			[]string{"config.interval=10"},
			map[string]any{"receivers::netexporter::collection_interval": "10s", "exporters::prometheus::metric_expiration": "19s"},
		},
		{
			"metricLabelVerbose",
			[]string{"config.metricLabelVerbose=true"},
			map[string]any{"processors::k8spod::verbose": true},
		},
		{
			"enableLoki",
			[]string{"config.enableEventServer=true", "config.enableLoki=true"},
			map[string]any{
				"service::pipelines::logs::exporters":      []any{"stdout", "eventstream"},
				"service::pipelines::logs/loki::exporters": []any{"loki"},
				"service::extensions":                      []any{"health_check", "file_storage"},
				"exporters::loki::endpoint":                "http://grafana-loki.netexporter.svc:3100/loki/api/v1/push",
				"exporters::loki::sending_queue::storage":  "file_storage",
			},
		},
		{
			"enableLoki without events",
			[]string{"config.enableLoki=true"},
			map[string]any{"service::pipelines::logs/loki": nil, "exporters::loki": nil, "service::extensions": []any{"health_check"}},
		},
		{
			"remoteLokiAddress",
			[]string{"config.enableEventServer=true", "config.remoteLokiAddress=loki.example"},
			map[string]any{"exporters::loki::endpoint": "http://loki.example:3100/loki/api/v1/push"},
		},
		{
			"remoteLokiAddress with a port",
			[]string{"config.enableEventServer=true", "config.remoteLokiAddress=10.0.0.1:80"},
			map[string]any{"exporters::loki::endpoint": "http://10.0.0.1:80/loki/api/v1/push"},
		},
		{
			"remoteLokiAddress as a URL",
			[]string{"config.enableEventServer=true", "config.remoteLokiAddress=https://loki.example/tenant/push"},
			map[string]any{"exporters::loki::endpoint": "https://loki.example/tenant/push"},
		},
		{
			"queue",
			[]string{"config.enableEventServer=true", "config.enableLoki=true", "queue.mebibytes=2"},
			map[string]any{"exporters::loki::sending_queue::queue_size": 2 << 20},
		},
		{
			"debugmode",
			[]string{"config.debugmode=true"},
			map[string]any{
				"service::telemetry::logs::level":        "debug",
				"service::extensions":                    []any{"health_check", "pprof", "zpages"},
				"service::pipelines::metrics::exporters": []any{"prometheus", "debug"},
			},
		},
		{
			"extraConfig",
			[]string{"extraConfig.processors.k8spod.node=other"},
			map[string]any{"processors::k8spod::node": "other"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var flags []string
			for _, f := range tt.flags {
				flags = append(flags, "--set", f)
			}
			conf := agentConfig(t, render(t, flags...))
			for key, want := range tt.want {
				if want == nil {
					assert.False(t, conf.IsSet(key), key)
				} else {
					assert.Equal(t, want, conf.Get(key), key)
				}
			}
		})
	}

	t.Run("nothing to do", func(t *testing.T) {
		out, err := exec.Command("helm", "template", chart(), "--set", "config.enableMetricServer=false").CombinedOutput()
		require.Error(t, err)
		assert.Contains(t, string(out), "config.enableMetricServer or config.enableEventServer must be true")
	})
	t.Run("no such key", func(t *testing.T) {
		out, err := exec.Command("helm", "template", chart(), "--set", "config.metricServerport=1").CombinedOutput()
		require.Error(t, err)
		assert.Contains(t, string(out), "metricServerport")
	})
}

func chart() string { return filepath.Join(os.Getenv("CLUSTER_DEPLOY"), "chart") }

func requireChart(t *testing.T) {
	t.Helper()
	if os.Getenv("CLUSTER_DEPLOY") == "" {
		t.Skip("needs helm and the image: make test-cluster makes them")
	}
}

// agentConfig returns the configuration in the ConfigMap, once the agent itself has found it valid.
func agentConfig(t *testing.T, manifests []byte) *confmap.Conf {
	t.Helper()
	var files map[string]string
	for _, o := range objects(t, manifests) {
		if o.GetKind() == "ConfigMap" {
			var c corev1.ConfigMap
			require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &c))
			files = c.Data
		}
	}
	require.Len(t, files, 2)
	dir, merged := t.TempDir(), confmap.New()
	args := []string{"validate"}
	for _, name := range []string{"config.yaml", "extra.yaml"} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(files[name]), 0o644))
		args = append(args, "--config", "file:"+file)
		var content map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(files[name]), &content))
		require.NoError(t, merged.Merge(confmap.NewFromStringMap(content)))
	}
	validate := exec.Command(os.Getenv("CLUSTER_AGENT"), args...)
	validate.Env = append(os.Environ(), "K8S_NODE_NAME=n1", "NETEXPORTER_QUEUE="+dir)
	out, err := validate.CombinedOutput()
	require.NoError(t, err, "%s\n%s", out, strings.Join(args, " "))
	return merged
}

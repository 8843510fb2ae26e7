// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// parse reads a configuration as the collector does.
func parse(t *testing.T, text string) (*Config, error) {
	t.Helper()
	var raw map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &raw))
	cfg := createDefaultConfig().(*Config)
	if err := confmap.NewFromStringMap(raw).Unmarshal(cfg); err != nil {
		return cfg, err
	}
	return cfg, confmap.Validate(cfg)
}

func TestConfig(t *testing.T) {
	cfg, err := parse(t, `
collection_interval: 15s
root_path: /host
probes:
  tcp:
  udp: {enabled: false}
  packetloss: {events_per_second: 7, benign_reasons: [NO_SOCKET]}
  tcpreset: {enabled: true, events: false}
  net_softirq: {threshold: 1500us}
`)
	require.NoError(t, err)
	assert.Equal(t, 15*time.Second, cfg.ControllerConfig.CollectionInterval)
	assert.Equal(t, "/host", cfg.RootPath)

	tcp, wanted := cfg.probe(probe.Definition{Name: "tcp"})
	assert.True(t, wanted)
	assert.True(t, tcp.Events)
	assert.EqualValues(t, 100, tcp.EventsPerSecond)

	_, wanted = cfg.probe(probe.Definition{Name: "udp"})
	assert.False(t, wanted)

	packetloss, wanted := cfg.probe(probe.Definition{Name: "packetloss"})
	assert.True(t, wanted)
	assert.Nil(t, packetloss.Enabled)
	assert.True(t, packetloss.Events)
	assert.EqualValues(t, 7, packetloss.EventsPerSecond)
	assert.Equal(t, []string{"NO_SOCKET"}, packetloss.BenignReasons)

	tcpreset, wanted := cfg.probe(probe.Definition{Name: "tcpreset"})
	assert.True(t, wanted)
	assert.True(t, *tcpreset.Enabled)
	assert.False(t, tcpreset.Events)

	_, wanted = cfg.probe(probe.Definition{Name: "tcpext"})
	assert.True(t, wanted, "not listed, in the default set")

	softirq, wanted := cfg.probe(probe.Definition{Name: "net_softirq", OptIn: true})
	assert.True(t, wanted, "not in the default set, listed")
	assert.Equal(t, 1500*time.Microsecond, *softirq.Threshold)
}

// What costs something on every packet runs only where the configuration lists it.
func TestOptIn(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                        false,
		"default_probes: false":                   false,
		"probes: {net_softirq: }":                 true,
		"probes: {net_softirq: {}}":               true,
		"probes: {net_softirq: {enabled: true}}":  true,
		"probes: {net_softirq: {enabled: false}}": false,
	} {
		cfg, err := parse(t, text)
		require.NoError(t, err)
		_, wanted := cfg.probe(probe.Definition{Name: "net_softirq", OptIn: true})
		assert.Equal(t, want, wanted, text)
	}
}

func TestDefaultProbesOff(t *testing.T) {
	cfg, err := parse(t, "default_probes: false\nprobes: {tcp: }\n")
	require.NoError(t, err)
	_, wanted := cfg.probe(probe.Definition{Name: "tcp"})
	assert.True(t, wanted)
	_, wanted = cfg.probe(probe.Definition{Name: "udp"})
	assert.False(t, wanted)
}

func TestBadConfig(t *testing.T) {
	for text, want := range map[string]string{
		"probes: {tcpresett: {}}":                             "probes::tcpresett: no such probe; there are ",
		"probes: {packetloss: {events_per_second: 0}}":        "probes::packetloss::events_per_second: must be greater than 0",
		"probes: {tcp: {benign_reasons: [X]}}":                "probes::tcp::benign_reasons",
		"probes: {net_softirq: {benign_reasons: [X]}}":        "probes::net_softirq::benign_reasons",
		"probes: {net_softirq: {threshold: 0}}":               "probes::net_softirq::threshold: must be greater than 0, got 0s",
		"probes: {net_softirq: {threshold: -1ms}}":            "probes::net_softirq::threshold: must be greater than 0, got -1ms",
		"probes: {tcpreset: {threshold: 1ms}}":                "probes::tcpreset::threshold: the probe measures no latency",
		"probes: {tcpreset: {full_histograms: true}}":         "probes::tcpreset::full_histograms: the probe has no histograms that are not full",
		"root_path: host":                                     "root_path: must be an absolute path",
		"probes: {tcp: {enabeld: true}}":                      "enabeld",
		"collection_interval: -1s":                            "collection_interval",
		"probes: {a: {}, b: {}}":                              "probes::b",
		"metrics: {inspector_pod_nonsense: {enabled: false}}": "inspector_pod_nonsense",
	} {
		_, err := parse(t, text)
		assert.ErrorContains(t, err, want, text)
	}
}

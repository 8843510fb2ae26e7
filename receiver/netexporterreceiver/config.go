// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probes"
)

// Config is the configuration of the receiver.
type Config struct {
	// ControllerConfig has collection_interval, the time between two collection passes.
	ControllerConfig scraperhelper.ControllerConfig `mapstructure:",squash"`

	// RootPath is where the root directory of the host is mounted; "/" on the host itself.
	RootPath string `mapstructure:"root_path"`
	// DefaultProbes tells whether the probes that are not listed in Probes run, too, but for those that
	// run only if they are listed.
	DefaultProbes bool `mapstructure:"default_probes"`
	// Probes are the settings of the probes by name.
	Probes map[string]probe.Config `mapstructure:"probes"`

	// MaxSeries is the most series that a pass yields, 0 for no limit. What is over it is left out
	// or folded, and counted: first the zeros of namespaces in which nothing moves, then the youngest
	// namespaces as a whole, which become one named other.
	MaxSeries int `mapstructure:"max_series"`
	// SelfTest tells whether the probes are tested when they start, as by the command inspector
	// selftest, and then go on to be tried with each pass.
	SelfTest bool `mapstructure:"self_test"`
	// Entities tells whether the logs pipeline gets the state of the network namespaces and of the
	// probes, too, when it changes and once a minute. The event stream lists them.
	Entities bool `mapstructure:"entities"`
	// DocumentedSpellings tells whether metrics whose documented name is misspelt are served under
	// that name, too.
	DocumentedSpellings bool `mapstructure:"documented_spellings"`

	// Metrics, Events and ResourceAttributes switch single ones of them off.
	Metrics            metadata.MetricsConfig            `mapstructure:"metrics"`
	Events             metadata.EventsConfig             `mapstructure:"events"`
	ResourceAttributes metadata.ResourceAttributesConfig `mapstructure:"resource_attributes"`

	_ struct{}
}

const (
	defaultCollectionInterval = 5 * time.Second
	// defaultMaxSeries is what some 2,000 namespaces have.
	defaultMaxSeries = 200_000
)

func createDefaultConfig() component.Config {
	cfg := scraperhelper.NewDefaultControllerConfig()
	cfg.CollectionInterval = defaultCollectionInterval
	return &Config{
		ControllerConfig: cfg,
		RootPath:         "/",
		DefaultProbes:    true,
		MaxSeries:        defaultMaxSeries,
		Entities:         true,

		DocumentedSpellings: true,

		Metrics:            metadata.DefaultMetricsConfig(),
		Events:             metadata.DefaultEventsConfig(),
		ResourceAttributes: metadata.DefaultResourceAttributesConfig(),
	}
}

// Unmarshal takes "probes: {tcp:}" for a probe with the default settings.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if err := conf.Unmarshal(c); err != nil {
		return err
	}
	listed, _ := conf.Get("probes").(map[string]any)
	for name, settings := range listed {
		if settings == nil {
			c.Probes[name] = probe.DefaultConfig()
		}
	}
	return nil
}

// Validate checks what can be checked without the host.
func (c *Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.RootPath) {
		errs = append(errs, fmt.Errorf("root_path: must be an absolute path, got %q", c.RootPath))
	}
	if c.MaxSeries < 0 {
		errs = append(errs, fmt.Errorf("max_series: must be 0 or more, got %d", c.MaxSeries))
	}
	known := map[string]probe.Definition{}
	for _, d := range probes.All() {
		known[d.Name] = d
	}
	for _, name := range slices.Sorted(maps.Keys(c.Probes)) {
		cfg := c.Probes[name]
		d, ok := known[name]
		if !ok {
			errs = append(errs, fmt.Errorf("probes::%s: no such probe; there are %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", ")))
			continue
		}
		if err := cfg.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("probes::%s::%w", name, err))
		}
		if cfg.Threshold != nil && d.Threshold == 0 {
			errs = append(errs, fmt.Errorf("probes::%s::threshold: the probe measures no latency", name))
		}
		if cfg.FullHistograms && !d.Ticks {
			errs = append(errs, fmt.Errorf("probes::%s::full_histograms: the probe has no histograms that are not full", name))
		}
		if cfg.BenignReasons != nil && (d.Tune == nil || d.Enums == nil) {
			errs = append(errs, fmt.Errorf("probes::%s::benign_reasons: the probe has no reasons to choose from", name))
		}
	}
	return errors.Join(errs...)
}

// probe returns the settings of a probe, and whether it shall run.
func (c *Config) probe(d probe.Definition) (cfg probe.Config, wanted bool) {
	cfg, listed := c.Probes[d.Name]
	if !listed {
		return probe.DefaultConfig(), c.DefaultProbes && !d.OptIn
	}
	return cfg, cfg.Enabled == nil || *cfg.Enabled
}

// metrics returns which metrics of metadata.yaml are served.
func (c *Config) metrics() metadata.MetricsConfig {
	m := c.Metrics
	if c.DocumentedSpellings {
		return m
	}
	for _, enabled := range []*bool{
		&m.InspectorPodAbnormalalloss.Enabled,
		&m.InspectorPodIoiowritebyres.Enabled,
		&m.InspectorPodNetSoftirqExcuteslow100ms.Enabled,
		&m.InspectorPodTcpactiveopenes.Enabled,
		&m.InspectorPodTcppassiveopenes.Enabled,
		&m.InspectorPodTotalloss.Enabled,
		&m.KernellatencyRxslow100ms.Enabled,
		&m.KernellatencyTxslow100ms.Enabled,
	} {
		*enabled = false
	}
	return m
}

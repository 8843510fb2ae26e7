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
	// Probes are the settings of the probes by name. Those that are not listed have the defaults.
	Probes map[string]probe.Config `mapstructure:"probes"`

	// Metrics, Events and ResourceAttributes switch single ones of them off.
	Metrics            metadata.MetricsConfig            `mapstructure:"metrics"`
	Events             metadata.EventsConfig             `mapstructure:"events"`
	ResourceAttributes metadata.ResourceAttributesConfig `mapstructure:"resource_attributes"`

	_ struct{}
}

const defaultCollectionInterval = 5 * time.Second

func createDefaultConfig() component.Config {
	cfg := scraperhelper.NewDefaultControllerConfig()
	cfg.CollectionInterval = defaultCollectionInterval
	return &Config{
		ControllerConfig:   cfg,
		RootPath:           "/",
		Metrics:            metadata.DefaultMetricsConfig(),
		Events:             metadata.DefaultEventsConfig(),
		ResourceAttributes: metadata.DefaultResourceAttributesConfig(),
	}
}

// Unmarshal gives what a listed probe does not set its default, and takes "probes: {tcp:}" for a
// probe with the defaults.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if sub, err := conf.Sub("probes"); err == nil {
		c.Probes = map[string]probe.Config{}
		for name := range sub.ToStringMap() {
			c.Probes[name] = probe.DefaultConfig()
		}
	}
	return conf.Unmarshal(c)
}

// Validate checks what can be checked without the host.
func (c *Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.RootPath) {
		errs = append(errs, fmt.Errorf("root_path: must be an absolute path, got %q", c.RootPath))
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
		if cfg.BenignReasons != nil && d.Tune == nil {
			errs = append(errs, fmt.Errorf("probes::%s::benign_reasons: the probe has no reasons to choose from", name))
		}
	}
	return errors.Join(errs...)
}

// probe returns the settings of a probe.
func (c *Config) probe(name string) probe.Config {
	if cfg, ok := c.Probes[name]; ok {
		return cfg
	}
	return probe.DefaultConfig()
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package lokiexporter

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
)

// Config is the configuration of the exporter.
type Config struct {
	// ClientConfig has the endpoint, the whole URL of the push API, and TLS, authentication and headers. It is no embedded
	// field: its Unmarshal would become that of Config.
	ClientConfig confighttp.ClientConfig `mapstructure:",squash"`
	// QueueConfig is the queue before the exporter.
	QueueConfig configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
	// RetryConfig says how often what failed is tried again. Zero for max_elapsed_time is without end.
	RetryConfig configretry.BackOffConfig `mapstructure:"retry_on_failure"`
	// DefaultLabelsEnabled switches labels off that records have by default. One that is not listed is on.
	DefaultLabelsEnabled map[string]bool `mapstructure:"default_labels_enabled"`
}

// Labels that records have by default. The first four are those of contrib's exporter.
const (
	labelExporter  = "exporter"
	labelInstance  = "instance"
	labelJob       = "job"
	labelLevel     = "level"
	labelNamespace = "namespace"
	labelNode      = "node"
	labelType      = "type"
)

func defaultLabels() []string {
	return []string{labelExporter, labelInstance, labelJob, labelLevel, labelNamespace, labelNode, labelType}
}

// Validate implements xconfmap.Validator.
func (c *Config) Validate() error {
	var errs []error
	switch u, err := url.Parse(c.ClientConfig.Endpoint); {
	case c.ClientConfig.Endpoint == "":
		errs = append(errs, errors.New("endpoint: must be the URL of Loki's push API, for example http://loki:3100/loki/api/v1/push"))
	case err != nil:
		errs = append(errs, fmt.Errorf("endpoint: %w", err))
	case u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		errs = append(errs, fmt.Errorf("endpoint: %q is no URL with http or https and a host", c.ClientConfig.Endpoint))
	}
	for label := range c.DefaultLabelsEnabled {
		if !slices.Contains(defaultLabels(), label) {
			errs = append(errs, fmt.Errorf("default_labels_enabled: %q is none of %s", label, strings.Join(defaultLabels(), ", ")))
		}
	}
	return errors.Join(errs...)
}

// enabled tells which of the default labels are on.
func (c *Config) enabled() map[string]bool {
	on := make(map[string]bool)
	for _, label := range defaultLabels() {
		enabled, listed := c.DefaultLabelsEnabled[label]
		on[label] = enabled || !listed
	}
	return on
}

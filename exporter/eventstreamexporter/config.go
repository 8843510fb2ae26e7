// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configgrpc"
)

const (
	defaultEndpoint    = "127.0.0.1:19102"
	defaultBuffer      = 4096
	defaultMaxWatchers = 100
)

// Config is the configuration of the exporter.
type Config struct {
	// ServerConfig has the endpoint, TLS and authentication, as all gRPC servers of the collector.
	ServerConfig configgrpc.ServerConfig `mapstructure:",squash"`

	// BufferEvents is how many events are remembered: for watchers that are slow, that reconnect, or
	// that ask for what has been.
	BufferEvents int `mapstructure:"buffer_events"`
	// BufferMiB bounds the same in MiB.
	BufferMiB int `mapstructure:"buffer_mib"`
	// MaxWatchers is the most streams at once.
	MaxWatchers int `mapstructure:"max_watchers"`

	_ struct{}
}

func createDefaultConfig() component.Config {
	server := configgrpc.NewDefaultServerConfig()
	server.NetAddr.Endpoint = defaultEndpoint
	return &Config{ServerConfig: server, BufferEvents: defaultBuffer, BufferMiB: 16, MaxWatchers: defaultMaxWatchers}
}

// Validate checks what can be checked without the host.
func (c *Config) Validate() error {
	var errs []error
	if c.ServerConfig.NetAddr.Endpoint == "" {
		errs = append(errs, fmt.Errorf("endpoint: must not be empty, the default is %s", defaultEndpoint))
	}
	for _, key := range []struct {
		name  string
		value int
	}{{"buffer_events", c.BufferEvents}, {"buffer_mib", c.BufferMiB}, {"max_watchers", c.MaxWatchers}} {
		if key.value < 1 {
			errs = append(errs, fmt.Errorf("%s: must be 1 or more, got %d", key.name, key.value))
		}
	}
	return errors.Join(errs...)
}

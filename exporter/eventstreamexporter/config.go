// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configgrpc"
)

const (
	defaultEndpoint    = "127.0.0.1:19102"
	defaultBuffer      = 4096
	defaultMaxWatchers = 100
	// minPingInterval is how often a client may ask whether the connection still holds. gRPC's own default of five
	// minutes would have it cut off a watcher of a quiet node who asks more often than that.
	minPingInterval = 10 * time.Second
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
	policy := server.Keepalive.Get().EnforcementPolicy.Get()
	policy.MinTime, policy.PermitWithoutStream = minPingInterval, true
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

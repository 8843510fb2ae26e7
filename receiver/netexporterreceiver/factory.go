// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
)

// NewFactory returns the factory of the receiver. With it, all ends with the receiver; see Keeper for another.
func NewFactory() receiver.Factory { return (*Keeper)(nil).NewFactory() }

// shared holds the agents of one factory, so that the metrics and the logs receiver of one
// configuration are the same.
type shared struct {
	keeper *Keeper

	mu     sync.Mutex
	agents map[*Config]*agent
}

func (s *shared) agent(set receiver.Settings, cfg *Config) *agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.agents[cfg]
	if !ok {
		a = newAgent(set, cfg, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.agents, cfg)
		})
		a.keeper = s.keeper
		s.agents[cfg] = a
	}
	return a
}

func (s *shared) createMetrics(_ context.Context, set receiver.Settings, c component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	cfg := c.(*Config)
	a := s.agent(set, cfg)
	pass, err := scraper.NewMetrics(a.collect, scraper.WithStart(a.Start), scraper.WithShutdown(a.Shutdown))
	if err != nil {
		return nil, err
	}
	return scraperhelper.NewMetricsController(&cfg.ControllerConfig, set, next, scraperhelper.AddMetricsScraper(metadata.Type, pass))
}

func (s *shared) createLogs(_ context.Context, set receiver.Settings, c component.Config, next consumer.Logs) (receiver.Logs, error) {
	a := s.agent(set, c.(*Config))
	if err := a.sendEventsTo(set, next); err != nil {
		return nil, err
	}
	return a, nil
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"

	"github.com/netexporter/netexporter/exporter/eventstreamexporter/internal/metadata"
)

// NewFactory makes the factory of the exporter type `eventstream`.
func NewFactory() exporter.Factory {
	s := &shared{streams: map[*Config]*stream{}}
	return exporter.NewFactory(metadata.Type, createDefaultConfig,
		exporter.WithLogs(s.createLogs, metadata.LogsStability),
		exporter.WithMetrics(s.createMetrics, metadata.MetricsStability))
}

// shared holds the streams of one factory: a logs and a metrics pipeline with the same configuration
// have one server.
type shared struct {
	mu      sync.Mutex
	streams map[*Config]*stream
}

func (s *shared) stream(set exporter.Settings, cfg *Config) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.streams[cfg]; ok {
		return st, nil
	}
	st, err := newStream(set, cfg, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, cfg)
	})
	if err == nil {
		s.streams[cfg] = st
	}
	return st, err
}

func (s *shared) createLogs(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
	st, err := s.stream(set, cfg.(*Config))
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewLogs(ctx, set, cfg, st.consumeLogs, helperOptions(st)...)
}

func (s *shared) createMetrics(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
	st, err := s.stream(set, cfg.(*Config))
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewMetrics(ctx, set, cfg, st.consumeMetrics, helperOptions(st)...)
}

// helperOptions are without a queue and a deadline: to consume never waits.
func helperOptions(st *stream) []exporterhelper.Option {
	return []exporterhelper.Option{
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{Timeout: 0}),
		exporterhelper.WithStart(st.start),
		exporterhelper.WithShutdown(st.shutdown),
	}
}

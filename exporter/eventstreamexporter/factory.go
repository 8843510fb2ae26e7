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
func NewFactory() exporter.Factory { return (*Keeper)(nil).NewFactory() }

// NewFactory makes a factory of exporters whose memory is kept.
func (k *Keeper) NewFactory() exporter.Factory {
	s := &shared{streams: map[*Config]*stream{}, keeper: k}
	return exporter.NewFactory(metadata.Type, createDefaultConfig,
		exporter.WithLogs(s.createLogs, metadata.LogsStability),
		exporter.WithMetrics(s.createMetrics, metadata.MetricsStability))
}

// shared holds the streams of one factory: a logs and a metrics pipeline with the same configuration
// have one server.
type shared struct {
	keeper  *Keeper
	mu      sync.Mutex
	streams map[*Config]*stream
}

func (s *shared) stream(set exporter.Settings, cfg *Config) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.streams[cfg]; ok {
		return st
	}
	st := newStream(set, cfg, s.keeper, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, cfg)
	})
	s.streams[cfg] = st
	return st
}

func (s *shared) createLogs(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
	st := s.stream(set, cfg.(*Config))
	return exporterhelper.NewLogs(ctx, set, cfg, st.consumeLogs, helperOptions(st)...)
}

func (s *shared) createMetrics(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
	st := s.stream(set, cfg.(*Config))
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

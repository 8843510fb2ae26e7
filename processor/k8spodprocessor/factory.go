// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"

	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
)

// NewFactory returns the factory of the processor.
func NewFactory() processor.Factory {
	s := &shared{pods: map[*Config]*pods{}}
	return processor.NewFactory(
		metadata.Type,
		createDefaultConfig,
		processor.WithMetrics(s.createMetrics, metadata.MetricsStability),
		processor.WithLogs(s.createLogs, metadata.LogsStability),
	)
}

func createDefaultConfig() component.Config {
	return &Config{AuthType: authAuto, NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"}}
}

// shared holds the resolvers of one factory, so that the metrics and the logs processor of one configuration ask the
// API server once.
type shared struct {
	mu   sync.Mutex
	pods map[*Config]*pods
}

func (s *shared) get(set component.TelemetrySettings, cfg *Config) (*pods, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pods[cfg]; ok {
		return p, nil
	}
	p, err := newPods(set, cfg, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.pods, cfg)
	})
	if err == nil {
		s.pods[cfg] = p
	}
	return p, err
}

// instance is a labeller with the resolver that it shares.
type instance struct {
	*labeller
	pods *pods
}

func (s *shared) instance(set processor.Settings, c component.Config) (*instance, error) {
	p, err := s.get(set.TelemetrySettings, c.(*Config))
	if err != nil {
		return nil, err
	}
	l, err := newLabeller(set.TelemetrySettings, c.(*Config), p)
	if err != nil {
		return nil, err
	}
	return &instance{l, p}, nil
}

func (i *instance) start(ctx context.Context, _ component.Host) (err error) {
	i.node, err = i.pods.start(ctx)
	return err
}

func (i *instance) shutdown(context.Context) error {
	i.pods.shutdown()
	return nil
}

func (s *shared) createMetrics(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	i, err := s.instance(set, cfg)
	if err != nil {
		return nil, err
	}
	return processorhelper.NewMetrics(ctx, set, cfg, next, i.processMetrics,
		processorhelper.WithStart(i.start), processorhelper.WithShutdown(i.shutdown),
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}))
}

func (s *shared) createLogs(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
	i, err := s.instance(set, cfg)
	if err != nil {
		return nil, err
	}
	return processorhelper.NewLogs(ctx, set, cfg, next, i.processLogs,
		processorhelper.WithStart(i.start), processorhelper.WithShutdown(i.shutdown),
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/exporter/eventstreamexporter/internal/metadata"
	"github.com/netexporter/netexporter/internal/entity"
)

const (
	// maxRecord bounds a record; a message of gRPC may have 4 MiB.
	maxRecord = 1 << 20
	// endTime is how long watchers have to take note of the end of the server.
	endTime = time.Second
)

// stream is what the exporters of one configuration have in common: what is remembered, and the server.
type stream struct {
	cfg    *Config
	set    exporter.Settings
	keeper *Keeper
	forget func()

	*memory  // from the start on
	entities *entities
	passes   *passes
	node     atomic.Pointer[string]
	watchers atomic.Int64

	telemetry *metadata.TelemetryBuilder
	tooLarge  metric.AddOption
	tooMany   metric.AddOption

	mu     sync.Mutex
	users  int // exporters that have started and not shut down
	server *grpc.Server
	health *health.Server
	served sync.WaitGroup
}

func newStream(set exporter.Settings, cfg *Config, keeper *Keeper, forget func()) *stream {
	reason := func(r string) metric.AddOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", r)))
	}
	return &stream{
		cfg: cfg, set: set, keeper: keeper, forget: forget,
		entities: newEntities(),
		passes:   newPasses(),
		tooLarge: reason("too_large"),
		tooMany:  reason("too_many"),
	}
}

// start starts the server for the first of the exporters.
func (s *stream) start(ctx context.Context, host component.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users > 1 {
		return nil
	}
	if err := s.serve(ctx, host); err != nil {
		s.users--
		return err
	}
	return nil
}

func (s *stream) serve(ctx context.Context, host component.Host) error {
	s.memory = s.keeper.take(s.set.ID, s.cfg)
	var err error
	if s.telemetry, err = s.newTelemetry(); err != nil {
		return err
	}
	server, err := s.cfg.ServerConfig.ToServer(ctx, host.GetExtensions(), s.set.TelemetrySettings)
	if err != nil {
		return err
	}
	listener, err := s.cfg.ServerConfig.NetAddr.Listen(ctx)
	if err != nil {
		return fmt.Errorf("event stream: %w", err)
	}
	s.server, s.health = server, health.NewServer()
	eventstreamv1.RegisterEventStreamServer(server, &service{stream: s})
	grpc_health_v1.RegisterHealthServer(server, s.health)
	reflection.Register(server)
	s.health.SetServingStatus(eventstreamv1.EventStream_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	s.served.Go(func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	})
	s.set.Logger.Info("Event stream", zap.Stringer("endpoint", listener.Addr()), zap.Bool("tls", s.cfg.ServerConfig.TLS.HasValue()))
	return nil
}

// shutdown ends the server with the last of the exporters. Watchers get what has been published, for a while.
// It is safe before start.
func (s *stream) shutdown(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users > 1 {
		s.users--
		return nil
	}
	s.users = 0
	s.forget()
	defer s.keeper.keep(s.set.ID, s.memory)
	if s.telemetry != nil {
		s.telemetry.Shutdown()
	}
	if s.server == nil {
		return nil
	}
	s.health.Shutdown()
	s.ring.finish()
	s.passes.finish()
	late := time.AfterFunc(endTime, s.server.Stop) // one that is stopped itself does not hold us up
	s.server.GracefulStop()
	late.Stop()
	s.served.Wait()
	s.server = nil
	return nil
}

func (s *stream) newTelemetry() (*metadata.TelemetryBuilder, error) {
	tb, err := metadata.NewTelemetryBuilder(s.set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	observe := func(value func() int64) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(value())
			return nil
		}
	}
	return tb, errors.Join(
		tb.RegisterNetexporterEventstreamEntitiesCallback(observe(func() int64 { return int64(s.entities.count()) })),
		tb.RegisterNetexporterEventstreamEventsCallback(observe(func() int64 { return int64(s.ring.stats().published) })),
		tb.RegisterNetexporterEventstreamEventsLostCallback(observe(func() int64 { return int64(s.ring.stats().lost) })),
		tb.RegisterNetexporterEventstreamRememberedSizeCallback(observe(func() int64 { return int64(s.ring.stats().size) })),
		tb.RegisterNetexporterEventstreamWatchersCallback(observe(s.watchers.Load)),
	)
}

// consumeLogs publishes events, and takes note of the states of entities.
func (s *stream) consumeLogs(ctx context.Context, ld plog.Logs) error {
	var (
		marshaler plog.ProtoMarshaler
		events    = make([]*event, 0, ld.LogRecordCount())
		errs      []error
	)
	for _, rl := range ld.ResourceLogs().All() {
		w := whereOf(rl.Resource().Attributes())
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				if entity.Is(rec) {
					s.noteNode(rl)
					known, err := s.entities.put(&marshaler, w, rl, sl, rec)
					errs = append(errs, err)
					if !known {
						s.telemetry.NetexporterEventstreamEventsDropped.Add(ctx, 1, s.tooMany)
					}
					continue
				}
				e, err := newEvent(&marshaler, w, rl, sl, rec)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				if len(e.logs) > maxRecord {
					s.telemetry.NetexporterEventstreamEventsDropped.Add(ctx, 1, s.tooLarge)
					continue
				}
				events = append(events, e)
			}
		}
	}
	s.counts.add(events)
	s.ring.publish(events)
	return errors.Join(errs...)
}

// noteNode takes note of the name of this node.
func (s *stream) noteNode(rl plog.ResourceLogs) {
	name := text(rl.Resource().Attributes(), keyLabelNode)
	if name == "" {
		name = text(rl.Resource().Attributes(), keyHostName)
	}
	if known := s.node.Load(); name != "" && (known == nil || *known != name) {
		s.node.Store(&name)
	}
}

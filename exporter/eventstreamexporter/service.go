// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/internal/entity"
)

const (
	// batchEvents is the most events that a watcher reads at once, batchSize the most bytes unless a single one has more. For
	// a message beyond 32 KiB gRPC takes a buffer of 1 MiB (mem.DefaultBufferPool), and each watcher holds some of them.
	batchEvents = 256
	batchSize   = 30 << 10
)

// service answers those who ask.
type service struct {
	eventstreamv1.UnimplementedEventStreamServer
	*stream
}

func errEnding() error { return status.Error(codes.Unavailable, "the agent is shutting down") }

// enter counts a stream, or refuses it.
func (s *service) enter() (leave func(), err error) {
	if s.watchers.Add(1) > int64(s.cfg.MaxWatchers) {
		s.watchers.Add(-1)
		return nil, status.Errorf(codes.ResourceExhausted, "there are %d watchers already, the most that max_watchers allows", s.cfg.MaxWatchers)
	}
	return func() { s.watchers.Add(-1) }, nil
}

func invalid(err error) error { return status.Errorf(codes.InvalidArgument, "filter: %v", err) }

// Watch streams events.
func (s *service) Watch(req *eventstreamv1.WatchRequest, to grpc.ServerStreamingServer[eventstreamv1.WatchResponse]) error {
	f, err := newFilter(req.GetFilter())
	if err != nil {
		return invalid(err)
	}
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()

	at := s.ring.last()
	switch after := req.GetAfter(); {
	case after.GetRun() == s.run && after.GetSequence() <= at:
		at = after.GetSequence()
	case req.GetSince() != nil:
		at = s.ring.before(req.GetSince().AsTime().UnixNano())
	}
	// At once, so that the client knows that it will miss nothing from now on.
	if err := to.Send(&eventstreamv1.WatchResponse{Position: s.position(at)}); err != nil {
		return err
	}
	var (
		told  = at // position of the last response
		batch = make([]*event, 0, batchEvents)
	)
	for {
		r := s.ring.read(at, batch)
		at = r.position
		if len(r.events) == 0 && r.lost == 0 {
			if r.finished {
				return errEnding()
			}
			select {
			case <-to.Context().Done():
				return nil
			case <-r.changed:
			}
			continue
		}
		response := &eventstreamv1.WatchResponse{Lost: r.lost, Logs: f.logs(r.events)}
		// Of events that the filter holds back the client hears now and then, so that it can go on from there.
		if len(response.Logs) == 0 && response.Lost == 0 && at-told < uint64(s.cfg.BufferEvents)/4 {
			continue
		}
		response.Position, told = s.position(at), at
		if err := to.Send(response); err != nil {
			return err
		}
	}
}

func (s *service) position(sequence uint64) *eventstreamv1.Position {
	return &eventstreamv1.Position{Run: s.run, Sequence: sequence}
}

// WatchMetrics streams collection passes.
func (s *service) WatchMetrics(req *eventstreamv1.WatchMetricsRequest, to grpc.ServerStreamingServer[eventstreamv1.WatchMetricsResponse]) error {
	f, err := newFilter(req.GetFilter())
	if err != nil {
		return invalid(err)
	}
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	w := s.passes.add(f, setOf(req.GetNames()))
	defer s.passes.remove(w)
	if err := to.SendHeader(nil); err != nil { // the client knows that it is in
		return err
	}
	for {
		select {
		case <-to.Context().Done():
			return nil
		case <-s.passes.finished:
			return errEnding()
		case p := <-w.next:
			for i, part := range p.parts {
				response := &eventstreamv1.WatchMetricsResponse{Metrics: part, Complete: i == len(p.parts)-1}
				if i == 0 {
					response.Skipped = p.skipped
				}
				if err := to.Send(response); err != nil {
					return err
				}
			}
		}
	}
}

// ListEntities lists the states of entities.
func (s *service) ListEntities(req *eventstreamv1.ListEntitiesRequest, to grpc.ServerStreamingServer[eventstreamv1.ListEntitiesResponse]) error {
	f, err := newFilter(req.GetFilter())
	if err != nil {
		return invalid(err)
	}
	kinds := req.GetTypes()
	if len(kinds) == 0 {
		kinds = s.entities.kinds()
	}
	response := &eventstreamv1.ListEntitiesResponse{}
	for _, kind := range kinds {
		for _, state := range s.entities.list(kind) {
			if !f.passesWhere(state.where) {
				continue
			}
			if len(response.Logs)+len(state.logs) > batchSize && len(response.Logs) > 0 {
				if err := to.Send(response); err != nil {
					return err
				}
				response = &eventstreamv1.ListEntitiesResponse{}
			}
			response.Logs = append(response.Logs, state.logs...)
		}
	}
	return to.Send(response)
}

// Status tells what runs.
func (s *service) Status(context.Context, *eventstreamv1.StatusRequest) (*eventstreamv1.StatusResponse, error) {
	stats := s.ring.stats()
	response := &eventstreamv1.StatusResponse{
		Version: s.set.BuildInfo.Version,
		Started: timestamppb.New(s.started),
		Stream: &eventstreamv1.Stream{
			Watchers: uint64(s.watchers.Load()), Events: stats.published, Remembered: stats.remembered, Lost: stats.lost,
		},
		Events:            s.counts.list(),
		NetworkNamespaces: uint64(len(s.entities.list(entity.TypeNamespace))),
	}
	if node := s.node.Load(); node != nil {
		response.Node = *node
	}
	for _, state := range s.entities.list(entity.TypeProbe) {
		response.Probes = append(response.Probes, state.probe)
	}
	return response, nil
}

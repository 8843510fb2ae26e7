// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/exporter/eventstreamexporter/internal/metadata"
	"github.com/netexporter/netexporter/internal/entity"
)

// server is an exporter that serves on a socket of its own, with a client.
type server struct {
	eventstreamv1.EventStreamClient
	connection *grpc.ClientConn
	logs       exporter.Logs
	metrics    exporter.Metrics
	stream     *stream
}

func serve(t testing.TB, change func(*Config)) *server {
	t.Helper()
	return serveKept(t, nil, filepath.Join(t.TempDir(), "s"), change)
}

func serveKept(t testing.TB, keeper *Keeper, socket string, change func(*Config)) *server {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.ServerConfig.NetAddr.Transport, cfg.ServerConfig.NetAddr.Endpoint = "unix", socket
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	set := exportertest.NewNopSettings(metadata.Type)
	set.ID = component.NewID(metadata.Type)
	set.BuildInfo.Version = "1.2.3"
	factory := &shared{streams: map[*Config]*stream{}, keeper: keeper}
	logs, err := factory.createLogs(t.Context(), set, cfg)
	require.NoError(t, err)
	metrics, err := factory.createMetrics(t.Context(), set, cfg)
	require.NoError(t, err)
	s := &server{logs: logs, metrics: metrics, stream: factory.streams[cfg]}
	require.NoError(t, logs.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, metrics.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { s.shutdown(t) })
	s.connection, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.connection.Close() })
	s.EventStreamClient = eventstreamv1.NewEventStreamClient(s.connection)
	return s
}

func (s *server) shutdown(t testing.TB) {
	t.Helper()
	require.NoError(t, s.logs.Shutdown(context.Background()))
	require.NoError(t, s.metrics.Shutdown(context.Background()))
}

// watch begins a stream, and returns once the server has taken it in.
func (s *server) watch(t testing.TB, req *eventstreamv1.WatchRequest) grpc.ServerStreamingClient[eventstreamv1.WatchResponse] {
	t.Helper()
	w, err := s.Watch(t.Context(), req)
	require.NoError(t, err)
	first, err := w.Recv()
	require.NoError(t, err)
	assert.Empty(t, first.Logs)
	assert.NotZero(t, first.Position.Run)
	return w
}

// receive reads until it has seen so many events, those that it is told are lost included.
func receive(t testing.TB, w grpc.ServerStreamingClient[eventstreamv1.WatchResponse], count int) (bodies []string, lost int, last *eventstreamv1.Position) {
	t.Helper()
	var unmarshaler plog.ProtoUnmarshaler
	for len(bodies)+lost < count {
		r, err := w.Recv()
		require.NoError(t, err)
		logs, err := unmarshaler.UnmarshalLogs(r.Logs)
		require.NoError(t, err)
		lost += int(r.Lost)
		last = r.Position
		for _, rl := range logs.ResourceLogs().All() {
			for _, rec := range rl.ScopeLogs().At(0).LogRecords().All() {
				bodies = append(bodies, rec.Body().Str())
			}
		}
	}
	return bodies, lost, last
}

// eventOf makes a record as the processor hands it on.
func eventOf(name, body string, change func(res, attrs pcommon.Map)) plog.Logs {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	rec := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	rec.SetEventName(name)
	rec.Attributes().PutStr("event.name", name)
	rec.SetTimestamp(pcommon.NewTimestampFromTime(time.Unix(1000, 0)))
	rec.Body().SetStr(body)
	if change != nil {
		change(rl.Resource().Attributes(), rec.Attributes())
	}
	return logs
}

func (s *server) publish(t testing.TB, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, s.logs.ConsumeLogs(t.Context(), eventOf("A", fmt.Sprint(i), nil)))
	}
}

func numbers(from, to int) (texts []string) {
	for i := from; i < to; i++ {
		texts = append(texts, fmt.Sprint(i))
	}
	return texts
}

func TestWatch(t *testing.T) {
	s := serve(t, nil)
	s.publish(t, 0, 3) // nobody asks for what has been
	w := s.watch(t, &eventstreamv1.WatchRequest{})
	s.publish(t, 3, 1000)
	bodies, lost, last := receive(t, w, 997)
	assert.Equal(t, numbers(3, 1000), bodies)
	assert.Zero(t, lost)
	assert.EqualValues(t, 1000, last.Sequence)
}

func TestWatchFilter(t *testing.T) {
	s := serve(t, nil)
	w := s.watch(t, &eventstreamv1.WatchRequest{Filter: &eventstreamv1.Filter{Pods: []string{"web"}}})
	for i := range 10 {
		require.NoError(t, s.logs.ConsumeLogs(t.Context(), eventOf("A", fmt.Sprint(i), func(res, _ pcommon.Map) {
			res.PutStr("pod", []string{"db", "web"}[i%2])
		})))
	}
	bodies, lost, _ := receive(t, w, 5)
	assert.Equal(t, []string{"1", "3", "5", "7", "9"}, bodies)
	assert.Zero(t, lost)
}

// One who does not read loses what is overwritten, to the last count, and nobody else anything.
func TestSlowReader(t *testing.T) {
	const buffer, count = 512, 5000
	s := serve(t, func(c *Config) { c.BufferEvents = buffer })
	slow := s.watch(t, &eventstreamv1.WatchRequest{})
	fast := s.watch(t, &eventstreamv1.WatchRequest{})
	padding := strings.Repeat("x", 1000)
	var fastGot []string
	for i := range count {
		require.NoError(t, s.logs.ConsumeLogs(t.Context(), eventOf("A", fmt.Sprint(i), func(res, _ pcommon.Map) { res.PutStr("padding", padding) })))
		if (i+1)%100 == 0 {
			bodies, lost, _ := receive(t, fast, 100)
			assert.Zero(t, lost)
			fastGot = append(fastGot, bodies...)
		}
	}
	assert.Equal(t, numbers(0, count), fastGot)

	bodies, lost, last := receive(t, slow, count)
	assert.EqualValues(t, count, last.Sequence)
	assert.Positive(t, lost)
	assert.Equal(t, count, len(bodies)+lost)
	assert.Equal(t, numbers(count-buffer, count), bodies[len(bodies)-buffer:], "what is remembered")
	assert.EqualValues(t, lost, s.stream.ring.stats().lost)
}

func TestResume(t *testing.T) {
	s := serve(t, func(c *Config) { c.BufferEvents = 100 })
	w := s.watch(t, &eventstreamv1.WatchRequest{})
	s.publish(t, 0, 10)
	_, _, last := receive(t, w, 10)

	s.publish(t, 10, 60)
	bodies, lost, _ := receive(t, s.watch(t, &eventstreamv1.WatchRequest{After: last}), 50)
	assert.Equal(t, numbers(10, 60), bodies, "what came in between")
	assert.Zero(t, lost)

	s.publish(t, 60, 210)
	bodies, lost, _ = receive(t, s.watch(t, &eventstreamv1.WatchRequest{After: last}), 200)
	assert.Equal(t, numbers(110, 210), bodies)
	assert.Equal(t, 100, lost, "what is not remembered any more")

	other := &eventstreamv1.Position{Run: last.Run + 1, Sequence: 5}
	w = s.watch(t, &eventstreamv1.WatchRequest{After: other})
	s.publish(t, 210, 211)
	bodies, _, _ = receive(t, w, 1)
	assert.Equal(t, []string{"210"}, bodies, "a position of another run says nothing")
}

// A changed configuration makes another exporter, which goes on where the one before has ended.
func TestKeeper(t *testing.T) {
	keeper, socket := NewKeeper(), filepath.Join(t.TempDir(), "s")
	s := serveKept(t, keeper, socket, nil)
	w := s.watch(t, &eventstreamv1.WatchRequest{})
	s.publish(t, 0, 5)
	_, _, position := receive(t, w, 5)
	s.publish(t, 5, 8)
	was, err := s.Status(t.Context(), &eventstreamv1.StatusRequest{})
	require.NoError(t, err)
	s.shutdown(t)

	s = serveKept(t, keeper, socket, func(c *Config) { c.BufferEvents = 4 })
	s.publish(t, 8, 9)
	bodies, lost, last := receive(t, s.watch(t, &eventstreamv1.WatchRequest{After: position}), 4)
	assert.Equal(t, numbers(5, 9), bodies)
	assert.Zero(t, lost)
	assert.Equal(t, position.Run, last.Run)
	_, lost, _ = receive(t, s.watch(t, &eventstreamv1.WatchRequest{After: &eventstreamv1.Position{Run: position.Run}}), 9)
	assert.Equal(t, 5, lost, "what the smaller buffer has no room for")
	is, err := s.Status(t.Context(), &eventstreamv1.StatusRequest{})
	require.NoError(t, err)
	assert.EqualValues(t, 9, is.Events[0].Count)
	assert.Equal(t, was.Started.AsTime(), is.Started.AsTime())
	s.shutdown(t)

	other := serve(t, nil)
	assert.NotEqual(t, position.Run, other.stream.run, "without a keeper it begins anew")
}

func TestSince(t *testing.T) {
	s := serve(t, nil)
	for i, at := range []int64{100, 200, 300} {
		logs := eventOf("A", fmt.Sprint(i), nil)
		logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetTimestamp(pcommon.NewTimestampFromTime(time.Unix(at, 0)))
		require.NoError(t, s.logs.ConsumeLogs(t.Context(), logs))
	}
	for since, want := range map[int64][]string{0: {"0", "1", "2"}, 150: {"1", "2"}, 200: {"1", "2"}, 301: nil} {
		w := s.watch(t, &eventstreamv1.WatchRequest{Since: timestamppb.New(time.Unix(since, 0))})
		bodies, _, _ := receive(t, w, len(want))
		assert.Equal(t, want, bodies, "since %d", since)
	}
}

func TestRefusals(t *testing.T) {
	s := serve(t, func(c *Config) { c.MaxWatchers = 1 })
	for value, f := range map[string]*eventstreamv1.Filter{
		"10.0.0":  {Addresses: []string{"10.0.0"}},
		"blue":    {Netns: []string{"blue"}},
		"65536":   {Ports: []uint32{65536}},
		"10.0/33": {Addresses: []string{"10.0/33"}},
	} {
		w, err := s.Watch(t.Context(), &eventstreamv1.WatchRequest{Filter: f})
		require.NoError(t, err)
		_, err = w.Recv()
		assert.Equal(t, codes.InvalidArgument, status.Code(err))
		require.ErrorContains(t, err, value)
	}
	s.watch(t, &eventstreamv1.WatchRequest{})
	w, err := s.Watch(t.Context(), &eventstreamv1.WatchRequest{})
	require.NoError(t, err)
	_, err = w.Recv()
	assert.Equal(t, codes.ResourceExhausted, status.Code(err))
	assert.ErrorContains(t, err, "max_watchers")
}

// Watchers read to the end; one that does not read does not hold the end up.
func TestShutdown(t *testing.T) {
	s := serve(t, nil)
	w := s.watch(t, &eventstreamv1.WatchRequest{})
	m, err := s.WatchMetrics(t.Context(), &eventstreamv1.WatchMetricsRequest{})
	require.NoError(t, err)
	_, err = m.Header()
	require.NoError(t, err)
	s.publish(t, 0, 5)
	done := make(chan struct{})
	go func() {
		defer close(done)
		assert.NoError(t, errors.Join(s.logs.Shutdown(context.Background()), s.metrics.Shutdown(context.Background())))
	}()
	bodies, _, _ := receive(t, w, 5)
	assert.Len(t, bodies, 5)
	_, err = w.Recv()
	assert.Equal(t, codes.Unavailable, status.Code(err))
	_, err = m.Recv()
	assert.Equal(t, codes.Unavailable, status.Code(err))
	<-done
	s.shutdown(t) // more than once
}

func TestEndpointInUse(t *testing.T) {
	s := serve(t, nil)
	second, err := (&shared{streams: map[*Config]*stream{}}).createLogs(t.Context(), exportertest.NewNopSettings(metadata.Type), s.stream.cfg)
	require.NoError(t, err)
	require.ErrorContains(t, second.Start(t.Context(), componenttest.NewNopHost()), "address already in use")
	require.NoError(t, second.Shutdown(t.Context()))
}

func TestHealthAndReflection(t *testing.T) {
	s := serve(t, nil)
	const name = "netexporter.eventstream.v1.EventStream"
	health, err := grpc_health_v1.NewHealthClient(s.connection).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: name})
	require.NoError(t, err)
	assert.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, health.Status)

	r, err := grpc_reflection_v1.NewServerReflectionClient(s.connection).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, r.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}))
	answer, err := r.Recv()
	require.NoError(t, err)
	var services []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
	}
	assert.Contains(t, services, name)
	require.NoError(t, r.CloseSend())
}

// namespaceState makes the state of a network namespace.
func namespaceState(pod string, inode int64) plog.Logs {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("pod", pod)
	rl.Resource().Attributes().PutStr("node", "worker-1")
	rl.Resource().Attributes().PutInt("network.netns.inode", inode)
	id, description := entity.Append(rl.ScopeLogs().AppendEmpty().LogRecords(), entity.TypeNamespace, 1000)
	id.PutInt(entity.KeyNetnsInode, inode)
	description.PutInt(entity.KeyProcessCount, 3)
	return logs
}

func (s *server) entities(t testing.TB, req *eventstreamv1.ListEntitiesRequest) (pods []string) {
	t.Helper()
	list, err := s.ListEntities(t.Context(), req)
	require.NoError(t, err)
	var unmarshaler plog.ProtoUnmarshaler
	for {
		r, err := list.Recv()
		if err != nil {
			return pods
		}
		logs, err := unmarshaler.UnmarshalLogs(r.Logs)
		require.NoError(t, err)
		for _, rl := range logs.ResourceLogs().All() {
			pods = append(pods, text(rl.Resource().Attributes(), "pod"))
		}
	}
}

func TestEntities(t *testing.T) {
	s := serve(t, nil)
	now := time.Now()
	s.stream.entities.now = func() time.Time { return now }
	w := s.watch(t, &eventstreamv1.WatchRequest{})
	for i, pod := range []string{"web", "db", "web-2"} {
		require.NoError(t, s.logs.ConsumeLogs(t.Context(), namespaceState(pod, int64(i+1))))
	}
	require.NoError(t, s.logs.ConsumeLogs(t.Context(), namespaceState("web", 1)), "the same again")
	all := &eventstreamv1.ListEntitiesRequest{}
	assert.Equal(t, []string{"db", "web", "web-2"}, s.entities(t, all))
	assert.Equal(t, []string{"db"}, s.entities(t, &eventstreamv1.ListEntitiesRequest{Filter: &eventstreamv1.Filter{Netns: []string{"2"}}}))
	assert.Empty(t, s.entities(t, &eventstreamv1.ListEntitiesRequest{Types: []string{entity.TypeProbe}}))

	gone := plog.NewLogs()
	entity.AppendDelete(gone.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords(), entity.TypeNamespace).PutInt(entity.KeyNetnsInode, 2)
	require.NoError(t, s.logs.ConsumeLogs(t.Context(), gone))
	assert.Equal(t, []string{"web", "web-2"}, s.entities(t, all))

	s.publish(t, 0, 1)
	bodies, _, _ := receive(t, w, 1)
	assert.Equal(t, []string{"0"}, bodies, "entities are no events")

	now = now.Add(missedReports*time.Second + 1)
	assert.Empty(t, s.entities(t, all), "nobody reports them any more")
}

func TestStatus(t *testing.T) {
	s := serve(t, nil)
	require.NoError(t, s.logs.ConsumeLogs(t.Context(), namespaceState("web", 1)))
	logs := plog.NewLogs()
	records := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	id, description := entity.Append(records, entity.TypeProbe, 60_000)
	id.PutStr(entity.KeyProbe, "tcpreset")
	require.NoError(t, description.FromRaw(map[string]any{
		"up": true, "verified": false, "events": 5, "events.suppressed": 6, "events.lost": map[string]any{"ring_full": 7},
		"hooks": []any{map[string]any{"hook": "sent", "variant": "raw_tp"}, map[string]any{"hook": "received", "variant": "none", "error": "no"}},
	}))
	// From somebody who does not know what a probe is.
	id, description = entity.Append(records, entity.TypeProbe, -1)
	id.PutInt(entity.KeyProbe, 1)
	require.NoError(t, description.FromRaw(map[string]any{"up": "yes", "verified": 1, "events.lost": 7, "hooks": map[string]any{"a": 1}}))
	records.AppendEmpty().SetEventName(entity.EventState)
	require.NoError(t, s.logs.ConsumeLogs(t.Context(), logs))
	s.publish(t, 0, 3)

	answer, err := s.Status(t.Context(), &eventstreamv1.StatusRequest{})
	require.NoError(t, err)
	assert.Equal(t, "1.2.3", answer.Version)
	assert.Equal(t, "worker-1", answer.Node)
	assert.EqualValues(t, 1, answer.NetworkNamespaces)
	assert.EqualValues(t, 3, answer.Stream.Events)
	require.Len(t, answer.Events, 1)
	assert.Equal(t, "A", answer.Events[0].Name)
	assert.EqualValues(t, 3, answer.Events[0].Count)
	assert.Equal(t, time.Unix(1000, 0).UTC(), answer.Events[0].Last.AsTime())
	require.Len(t, answer.Probes, 2)
	p := answer.Probes[0]
	assert.Equal(t, "tcpreset", p.Name)
	assert.True(t, p.Up && p.HasEvents)
	assert.False(t, p.GetVerified())
	assert.NotNil(t, p.Verified)
	assert.Equal(t, []uint64{5, 6, 7}, []uint64{p.Events, p.Suppressed, p.Lost["ring_full"]})
	assert.Equal(t, "raw_tp", p.Hooks[0].Variant)
	assert.Equal(t, "no", p.Hooks[1].Error)
}

func TestWatchMetrics(t *testing.T) {
	s := serve(t, nil)
	w, err := s.WatchMetrics(t.Context(), &eventstreamv1.WatchMetricsRequest{Names: []string{"a"}, Filter: &eventstreamv1.Filter{Pods: []string{"web"}}})
	require.NoError(t, err)
	_, err = w.Header()
	require.NoError(t, err)
	md := pmetric.NewMetrics()
	for _, pod := range []string{"db", "web"} {
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("pod", pod)
		metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
		for _, name := range []string{"a", "b"} {
			m := metrics.AppendEmpty()
			m.SetName(name)
			m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(1)
		}
	}
	require.NoError(t, s.metrics.ConsumeMetrics(t.Context(), md))
	r, err := w.Recv()
	require.NoError(t, err)
	assert.True(t, r.Complete)
	var unmarshaler pmetric.ProtoUnmarshaler
	got, err := unmarshaler.UnmarshalMetrics(r.Metrics)
	require.NoError(t, err)
	require.Equal(t, 1, got.MetricCount())
	assert.Equal(t, "web", text(got.ResourceMetrics().At(0).Resource().Attributes(), "pod"))
	assert.Equal(t, "a", got.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Name())
	assert.Equal(t, 4, md.MetricCount(), "what others share is left alone")
}

func TestTooLarge(t *testing.T) {
	s := serve(t, nil)
	w := s.watch(t, &eventstreamv1.WatchRequest{})
	require.NoError(t, s.logs.ConsumeLogs(t.Context(), eventOf("A", strings.Repeat("x", maxRecord), nil)))
	s.publish(t, 1, 2)
	bodies, _, _ := receive(t, w, 1)
	assert.Equal(t, []string{"1"}, bodies)
}

func TestConfigValidate(t *testing.T) {
	for key, change := range map[string]func(*Config){
		"endpoint":      func(c *Config) { c.ServerConfig.NetAddr.Endpoint = "" },
		"buffer_events": func(c *Config) { c.BufferEvents = 0 },
		"buffer_mib":    func(c *Config) { c.BufferMiB = -1 },
		"max_watchers":  func(c *Config) { c.MaxWatchers = 0 },
	} {
		cfg := createDefaultConfig().(*Config)
		require.NoError(t, cfg.Validate())
		change(cfg)
		assert.ErrorContains(t, cfg.Validate(), key)
	}
}

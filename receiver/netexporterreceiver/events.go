// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"cmp"
	"context"
	"slices"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"

	"github.com/netexporter/netexporter/internal/eventline"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// eventSink turns events into log records. Several probes use it at once.
type eventSink struct {
	// ctx ends with the agent, so that a full pipeline does not hold up its shutdown.
	ctx    context.Context
	cancel context.CancelFunc
	set    receiver.Settings
	build  metadata.LogsBuilderConfig
	next   consumer.Logs
	obs    *receiverhelper.ObsReport
	clock  *kernel.Clock

	// Set before the first event.
	inventory *netns.Inventory
	cgroups   *netns.Cgroups
	names     *probe.Names
	resources *resources
	heartbeat *heartbeat
}

func newEventSink(set receiver.Settings, cfg *Config, next consumer.Logs, obs *receiverhelper.ObsReport) *eventSink {
	ctx, cancel := context.WithCancel(context.Background())
	return &eventSink{
		ctx: ctx, cancel: cancel, set: set, next: next, obs: obs, clock: kernel.NewClock(),
		build: metadata.LogsBuilderConfig{Events: cfg.Events, ResourceAttributes: cfg.ResourceAttributes},
	}
}

// consume sends the events of a probe down the pipeline.
func (s *eventSink) consume(d *probe.Definition, events []probe.Event) error {
	return s.send(s.logs(d, events))
}

// send sends log records down the pipeline.
func (s *eventSink) send(logs plog.Logs) error {
	n := logs.LogRecordCount()
	if n == 0 {
		return nil
	}
	ctx := s.obs.StartLogsOp(s.ctx)
	err := s.next.ConsumeLogs(ctx, logs)
	s.obs.EndLogsOp(ctx, metadata.Type.String(), n, err)
	return err
}

// logs makes the log records of events, a resource for each namespace, and in that of the host for each
// pod, in order of time in each.
func (s *eventSink) logs(d *probe.Definition, events []probe.Event) plog.Logs {
	events = slices.DeleteFunc(events, func(e probe.Event) bool { return s.heartbeat.owns(e.NetNS()) })
	lb := metadata.NewLogsBuilder(s.build, s.set)
	clock := s.clock.Read()
	slices.SortStableFunc(events, func(a, b probe.Event) int {
		x, y := a.NetNS(), b.NetNS()
		return cmp.Or(cmp.Compare(x.Cookie, y.Cookie), cmp.Compare(x.Inode, y.Inode), cmp.Compare(a.Header.Cgroup, b.Header.Cgroup))
	})
	for i := range events {
		e := &events[i]
		d.Record(lb, pcommon.NewTimestampFromTime(clock.Time(e.Header.KtimeNs)), e, s.names)
		if i+1 == len(events) || events[i+1].NetNS() != e.NetNS() || events[i+1].Header.Cgroup != e.Header.Cgroup {
			ns, _ := s.inventory.Lookup(e.NetNS())
			if e.Header.Cgroup != 0 {
				ns.Owner = s.cgroups.Owner(e.Header.Cgroup)
			}
			lb.EmitForResource(metadata.WithLogsResource(s.resources.of(ns)))
		}
	}
	logs := lb.Emit()
	observed := pcommon.NewTimestampFromTime(clock.Now())
	for _, rl := range logs.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			complete(rl.Resource().Attributes(), sl.LogRecords(), observed)
		}
	}
	return logs
}

// complete adds what the generated builder has no notion of. It groups records by event; users read
// them by time.
func complete(resource pcommon.Map, records plog.LogRecordSlice, observed pcommon.Timestamp) {
	records.Sort(func(a, b plog.LogRecord) bool { return a.Timestamp() < b.Timestamp() })
	var line []byte
	for _, rec := range records.All() {
		rec.SetSeverityNumber(plog.SeverityNumberInfo)
		rec.SetSeverityText("INFO")
		rec.SetObservedTimestamp(observed)
		line = eventline.Append(line[:0], resource, rec)
		rec.Body().SetStr(string(line))
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
)

const (
	minRetry = 200 * time.Millisecond
	maxRetry = 5 * time.Second
)

// delivery is what a watcher has to tell: records, or how it fares, or that it is over.
type delivery struct {
	source  string
	records []record
	notice  string // for the user
	debug   string // for one who wants to know all
	joined  bool   // the stream runs for the first time
	err     error  // it does not run for the first time, or any more
	over    bool   // and will not be tried again
}

// watcher follows the events of one node, and goes on after it was cut off.
type watcher struct {
	node    *node
	request *eventstreamv1.WatchRequest
	timeout time.Duration
	to      chan<- delivery

	position *eventstreamv1.Position // after the last response
	joined   bool
	failed   bool      // the first time
	cutOff   time.Time // zero while it is connected
}

func (w *watcher) tell(ctx context.Context, d delivery) bool {
	d.source = w.node.address
	select {
	case w.to <- d:
		return true
	case <-ctx.Done():
		return false
	}
}

// run follows until ctx ends or it is of no use to try again.
func (w *watcher) run(ctx context.Context) {
	retry := minRetry
	for tries := 0; ; tries++ {
		connected, err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		err = w.node.explain(err)
		switch {
		case isFinal(err):
			w.tell(ctx, delivery{err: err, over: true})
			return
		case tries == 0 && !connected:
			w.failed = true
			w.tell(ctx, delivery{err: err})
		case connected:
			retry, w.cutOff = minRetry, time.Now()
			w.tell(ctx, delivery{notice: fmt.Sprintf("%v; trying again", err)})
		default:
			w.tell(ctx, delivery{debug: fmt.Sprintf("not yet: %v", err)})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		retry = min(2*retry, maxRetry)
	}
}

// isFinal tells whether it is of no use to try again.
func isFinal(err error) bool {
	var c *callError
	if !errors.As(err, &c) {
		return true // no answer of gRPC
	}
	switch c.code {
	case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return true
	}
	return false
}

// follow follows one stream to its end, and tells whether there was one.
func (w *watcher) follow(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		stream grpc.ServerStreamingClient[eventstreamv1.WatchResponse]
		r      *eventstreamv1.WatchResponse
	)
	w.request.After = w.position
	if err := begin(cancel, w.timeout, func() (err error) {
		if stream, err = w.node.Watch(ctx, w.request); err == nil {
			r, err = stream.Recv()
		}
		return err
	}); err != nil {
		return false, err
	}
	w.connected(ctx, r)
	for {
		w.position = r.GetPosition()
		if n := r.GetLost(); n > 0 {
			w.tell(ctx, delivery{notice: fmt.Sprintf("%s: %d events lost: they came faster than they were read, or are too long ago", w.node.address, n)})
		}
		records, err := w.decode(r.GetLogs())
		if err != nil {
			return true, err
		}
		if len(records) > 0 && !w.tell(ctx, delivery{records: records}) {
			return true, ctx.Err()
		}
		if r, err = stream.Recv(); err != nil {
			return true, notEOF(err)
		}
	}
}

// connected says what became of what was in between.
func (w *watcher) connected(ctx context.Context, first *eventstreamv1.WatchResponse) {
	switch {
	case !w.joined:
		w.joined = true
		d := delivery{joined: true, debug: fmt.Sprintf("%s: watching", w.node.address)}
		if w.failed {
			d.notice, d.debug = d.debug, ""
		}
		w.tell(ctx, d)
	case w.cutOff.IsZero():
	case first.GetPosition().GetRun() != w.position.GetRun():
		w.tell(ctx, delivery{notice: fmt.Sprintf("%s: connected again, to an agent that has started anew: events since %s may be missing",
			w.node.address, w.cutOff.Local().Format(time.TimeOnly))})
	default:
		w.tell(ctx, delivery{notice: fmt.Sprintf("%s: connected again, going on where it was at %s", w.node.address, w.cutOff.Local().Format(time.TimeOnly))})
	}
	w.cutOff = time.Time{}
	// An agent that has started anew remembers since its start, which we want all of.
	w.request.Since = timestamppb.New(time.Unix(0, 0))
}

func (w *watcher) decode(raw []byte) ([]record, error) {
	var unmarshaler plog.ProtoUnmarshaler
	logs, err := unmarshaler.UnmarshalLogs(raw)
	if err != nil {
		return nil, fmt.Errorf("what came is no OTLP: %w", err)
	}
	var records []record
	for _, rl := range logs.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				at := rec.Timestamp()
				if at == 0 {
					at = rec.ObservedTimestamp()
				}
				records = append(records, record{w.node.address, at.AsTime(), rl.Resource().Attributes(), rec})
			}
		}
	}
	return records, nil
}

// hold is how long a record waits for older ones of other nodes.
const hold = 100 * time.Millisecond

// merger puts the records of several nodes into the order of time, as far as they come within hold.
type merger struct {
	waiting []waiting // by time
}

type waiting struct {
	record
	until time.Time
}

func (m *merger) add(records []record, now time.Time) {
	for _, r := range records {
		m.waiting = append(m.waiting, waiting{r, now.Add(hold)})
	}
	slices.SortStableFunc(m.waiting, func(a, b waiting) int { return a.at.Compare(b.at) })
}

// due returns the records that have waited long enough, and those that are older.
func (m *merger) due(now time.Time) []record {
	last := -1
	for i := range m.waiting {
		if !m.waiting[i].until.After(now) {
			last = i
		}
	}
	return m.take(last + 1)
}

// take returns the first n records.
func (m *merger) take(n int) []record {
	var records []record
	for _, w := range m.waiting[:n] {
		records = append(records, w.record)
	}
	m.waiting = slices.Delete(m.waiting, 0, n)
	return records
}

// next returns when something is due, and false if nothing is waiting.
func (m *merger) next() (time.Time, bool) {
	if len(m.waiting) == 0 {
		return time.Time{}, false
	}
	return slices.MinFunc(m.waiting, func(a, b waiting) int { return cmp.Compare(a.until.UnixNano(), b.until.UnixNano()) }).until, true
}

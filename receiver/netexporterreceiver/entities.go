// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap"

	"github.com/netexporter/netexporter/internal/entity"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/procfs"
)

const (
	// entityInterval is how often the state of all is sent, changed or not.
	entityInterval = time.Minute
	// entityProcesses bounds the processes of a namespace that are listed.
	entityProcesses = 16
)

// entities tells the logs pipeline what there is: the network namespaces and the probes. What has
// changed is told after each pass, all of it once a minute. It has a goroutine of its own, because
// the pipeline may keep it waiting.
type entities struct {
	agent *agent
	on    *running
	now   func() time.Time

	woken chan struct{}
	stop  chan struct{}
	done  sync.WaitGroup

	told       time.Time // when all of it was last told
	namespaces map[netns.ID]inhabitants
	probes     map[string]probeDigest
}

// inhabitants is what makes the state of a namespace another one.
type inhabitants struct {
	namespace netns.Namespace
	count     int
	oldest    [entityProcesses]process
}

type process struct {
	pid   int
	start uint64
}

// probeDigest is what makes the state of a probe another one, its hooks and verdict never change.
type probeDigest struct {
	up    bool
	stats probe.Stats
}

func startEntities(a *agent, r *running) *entities {
	e := newEntities(a, r)
	e.done.Go(e.run)
	return e
}

func newEntities(a *agent, r *running) *entities {
	return &entities{
		agent: a, on: r, now: time.Now, woken: make(chan struct{}, 1), stop: make(chan struct{}),
		namespaces: map[netns.ID]inhabitants{}, probes: map[string]probeDigest{},
	}
}

func (e *entities) close() {
	close(e.stop)
	e.done.Wait()
}

// wake says that there was a pass. It does not wait.
func (e *entities) wake() {
	select {
	case e.woken <- struct{}{}:
	default:
	}
}

func (e *entities) run() {
	// Without a metrics pipeline there are no passes; then the inventory is asked for one.
	patience := 2 * e.agent.cfg.ControllerConfig.CollectionInterval
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		e.tell(patience)
		timer.Reset(patience)
		select {
		case <-e.stop:
			return
		case <-e.woken:
		case <-timer.C:
		}
	}
}

// tell sends what has changed since the last time.
func (e *entities) tell(maxAge time.Duration) {
	logs, err := e.logs(maxAge)
	if err != nil {
		// The next pass meets the same error, and counts it.
		e.agent.set.Logger.Debug("State of namespaces and probes is not complete", zap.Error(err))
	}
	if err := e.agent.events.send(logs); err != nil {
		e.told = time.Time{} // all of it again
		e.agent.set.Logger.Warn("State of namespaces and probes was refused", zap.Error(err))
	}
}

func (e *entities) logs(maxAge time.Duration) (plog.Logs, error) {
	now := e.now()
	all := now.Sub(e.told) >= entityInterval
	if all {
		e.told = now
	}
	logs := plog.NewLogs()
	inhabited, err := e.on.inventory.Namespaces(maxAge)
	if len(inhabited) > 0 { // there is always the host's: else it could not be read
		e.appendNamespaces(logs, inhabited, all)
	}
	states, probeErr := e.on.telemetry.probes()
	e.appendProbes(logs, states, all)
	if err == nil {
		err = probeErr
	}
	at := pcommon.NewTimestampFromTime(now)
	for _, rl := range logs.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				rec.SetTimestamp(at)
				rec.SetObservedTimestamp(at)
			}
		}
	}
	return logs, err
}

func (e *entities) appendNamespaces(logs plog.Logs, inhabited []netns.Inhabited, all bool) {
	alive := make(map[netns.ID]bool, len(inhabited))
	for i := range inhabited {
		in := &inhabited[i]
		if e.on.heartbeat.owns(in.ID) {
			continue
		}
		alive[in.ID] = true
		is := inhabitants{namespace: in.Namespace, count: len(in.Tasks)}
		for j := range in.Tasks[:min(len(in.Tasks), entityProcesses)] {
			is.oldest[j] = process{in.Tasks[j].TGID, in.Tasks[j].Start}
		}
		if was, known := e.namespaces[in.ID]; known && was == is && !all {
			continue
		}
		e.namespaces[in.ID] = is
		id, description := entity.Append(e.appendResource(logs, in.Namespace), entity.TypeNamespace, entityInterval.Milliseconds())
		identify(id, in.ID)
		e.describe(description, in)
	}
	for id, was := range e.namespaces {
		if !alive[id] {
			delete(e.namespaces, id)
			identify(entity.AppendDelete(e.appendResource(logs, was.namespace), entity.TypeNamespace), id)
		}
	}
}

// appendResource appends the resource of a namespace, and returns what takes its records.
func (e *entities) appendResource(logs plog.Logs, ns netns.Namespace) plog.LogRecordSlice {
	rl := logs.ResourceLogs().AppendEmpty()
	e.on.resources.of(ns).MoveTo(rl.Resource())
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(metadata.ScopeName)
	sl.Scope().SetVersion(e.agent.set.BuildInfo.Version)
	return sl.LogRecords()
}

func identify(id pcommon.Map, ns netns.ID) {
	id.PutInt(entity.KeyNetnsInode, int64(ns.Inode))
	if ns.Cookie != 0 {
		id.PutInt(entity.KeyNetnsCookie, int64(ns.Cookie))
	}
}

// describe lists the processes of a namespace and, through the first of them that is still there, its addresses.
func (e *entities) describe(description pcommon.Map, in *netns.Inhabited) {
	tasks := in.Tasks
	description.PutInt(entity.KeyProcessCount, int64(len(tasks)))
	if len(tasks) == 0 {
		return
	}
	root := filepath.Join(e.agent.cfg.RootPath, "proc")
	reader := ""
	list := description.PutEmptySlice(entity.KeyProcesses)
	for i := 0; i < len(tasks) && list.Len() < entityProcesses; i++ {
		dir := filepath.Join(root, strconv.Itoa(tasks[i].TGID))
		// Threads of the kernel have no command line.
		if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err != nil || len(line) == 0 {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		// It may have ended, its number may be another's by now, and a thread may be elsewhere than its process.
		if inode, _ := netns.Inode(filepath.Join(dir, "ns", "net")); err != nil || inode != in.Inode {
			continue
		}
		if reader == "" {
			reader = dir
		}
		p := list.AppendEmpty().SetEmptyMap()
		p.PutInt(entity.KeyPID, int64(tasks[i].TGID))
		p.PutStr(entity.KeyExecutable, string(bytes.TrimSuffix(comm, []byte("\n"))))
	}
	if reader == "" {
		return
	}
	addresses := description.PutEmptySlice(entity.KeyAddresses)
	for _, a := range procfs.ReadAddresses(os.DirFS(reader)) {
		addresses.AppendEmpty().SetStr(a.String())
	}
}

func (e *entities) appendProbes(logs plog.Logs, states []probeState, all bool) {
	var records plog.LogRecordSlice
	none := true
	for i := range states {
		s := &states[i]
		is := probeDigest{up: runs(s.hooks)}
		if s.stats != nil {
			is.stats = *s.stats
		}
		if was, known := e.probes[s.name]; known && was == is && !all {
			continue
		}
		e.probes[s.name] = is
		if none {
			records, none = e.appendResource(logs, netns.Namespace{}), false
		}
		id, description := entity.Append(records, entity.TypeProbe, entityInterval.Milliseconds())
		id.PutStr(entity.KeyProbe, s.name)
		s.describe(description)
	}
}

func (s *probeState) describe(description pcommon.Map) {
	description.PutBool(entity.KeyUp, runs(s.hooks))
	if s.verified != nil {
		description.PutBool(entity.KeyVerified, *s.verified)
	}
	if s.stats != nil {
		description.PutInt(entity.KeyEvents, int64(s.stats.Delivered))
		description.PutInt(entity.KeySuppressed, int64(s.stats.Suppressed))
		lost := description.PutEmptyMap(entity.KeyLost)
		for hop, n := range lostByHop(*s.stats) {
			lost.PutInt(hop, int64(n))
		}
	}
	hooks := description.PutEmptySlice(entity.KeyHooks)
	for _, h := range s.hooks {
		m := hooks.AppendEmpty().SetEmptyMap()
		m.PutStr(entity.KeyHook, h.Name)
		m.PutStr(entity.KeyVariant, h.Variant)
		if h.Variant == kernel.NoVariant && h.Err != nil {
			m.PutStr(entity.KeyError, h.Err.Error())
		}
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/receiver"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// kernelSide is all that does not depend on the pipeline: programs, maps and rings, the collection pass, and what has
// been counted so far.
type kernelSide struct {
	rootPath string
	root     fs.FS // of the host
	kernel   *kernel.Kernel
	names    *probe.Names
	started  time.Time
	tested   []SelfTestResult

	inventory   *netns.Inventory
	source      netns.Source
	sourceHooks []kernel.Hook
	readers     []string // the probes that the source reads counters for
	counters    []probe.Counter
	serves      []bool
	rows        []netns.Row
	netlink     *nslink.Reader
	diag        *nslink.Reader // nil if the source serves the sockets
	nodes       map[string]probe.NodeReader
	runner      *probe.Runner
	heartbeat   *heartbeat // nil if there is none
}

// kernelSide returns the one that was kept of the configuration before, or a new one.
func (a *agent) kernelSide() (*kernelSide, error) {
	if k := a.keeper.take(a.set.ID, a.cfg.RootPath); k != nil {
		a.set.Logger.Info("What runs in the kernel goes on as it is where the configuration is the same")
		return k, nil
	}
	k, err := a.openKernel()
	if err != nil {
		return nil, err
	}
	return &kernelSide{
		rootPath: a.cfg.RootPath,
		root:     os.DirFS(a.cfg.RootPath),
		kernel:   k,
		names:    probe.NewNames(k, a.symbols(), a.all),
		started:  time.Now(),
		nodes:    map[string]probe.NodeReader{},
	}, nil
}

func (k *kernelSide) close() error {
	var errs []error
	if k.runner != nil {
		errs = append(errs, k.runner.Shutdown())
	}
	if k.heartbeat != nil {
		k.heartbeat.close()
	}
	if k.netlink != nil {
		errs = append(errs, k.netlink.Close())
	}
	return errors.Join(append(errs, k.closeSource())...)
}

// closeSource closes what only the source and its substitute need.
func (k *kernelSide) closeSource() error {
	var errs []error
	if k.diag != nil {
		errs = append(errs, k.diag.Close())
	}
	if k.source != nil {
		errs = append(errs, k.source.Close())
	}
	k.diag, k.source = nil, nil
	return errors.Join(errs...)
}

// keepTime is how long the kernel side is kept for a receiver that may come back.
const keepTime = time.Minute

// Keeper keeps the kernel side of receivers while the collector makes its components anew for a changed
// configuration. What the change does not concern goes on: programs stay attached, counters count on, and events wait in
// their rings for the new pipeline. A nil Keeper keeps nothing.
//
// The collector asks for its factories at each change, so that a factory cannot be the owner. Whoever runs the
// collector is: it makes one Keeper, and closes it at the end.
type Keeper struct {
	mu     sync.Mutex
	parked map[component.ID]*parked
}

type parked struct {
	side  *kernelSide
	timer *time.Timer
}

// NewKeeper returns a Keeper that has nothing to keep yet.
func NewKeeper() *Keeper { return &Keeper{parked: map[component.ID]*parked{}} }

// NewFactory returns a factory of receivers whose kernel side is kept.
func (k *Keeper) NewFactory() receiver.Factory {
	s := &shared{agents: map[*Config]*agent{}, keeper: k}
	return receiver.NewFactory(metadata.Type, createDefaultConfig,
		receiver.WithMetrics(s.createMetrics, metadata.MetricsStability),
		receiver.WithLogs(s.createLogs, metadata.LogsStability))
}

// park keeps the kernel side of a receiver that has stopped, for a minute.
func (k *Keeper) park(id component.ID, side *kernelSide) error {
	if k == nil {
		return side.close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := &parked{side: side}
	k.parked[id] = p
	p.timer = time.AfterFunc(keepTime, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.parked[id] == p {
			delete(k.parked, id)
			_ = side.close() // nobody is left to hear of it
		}
	})
	return nil
}

// take returns what was kept of a receiver, nil if there is nothing, or nothing of use.
func (k *Keeper) take(id component.ID, rootPath string) *kernelSide {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.parked[id]
	if p == nil {
		return nil
	}
	p.timer.Stop()
	delete(k.parked, id)
	// Without BTF, there may be some by now.
	if p.side.rootPath != rootPath || p.side.kernel.Source.Path == "" {
		_ = p.side.close()
		return nil
	}
	return p.side
}

// Close ends what is kept.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for id, p := range k.parked {
		p.timer.Stop()
		delete(k.parked, id)
		errs = append(errs, p.side.close())
	}
	return errors.Join(errs...)
}

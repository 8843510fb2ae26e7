// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// Sink takes the events of a probe, oldest first. It owns them until it returns.
type Sink func(d *Definition, events []Event) error

// Settings are what a Runner needs.
type Settings struct {
	Kernel *kernel.Kernel
	Names  *Names
	// Host is the network namespace of the host, in whose events the cgroup of the socket is wanted.
	Host netns.ID
}

// Runner gives the kernel objects of probes a life. It alone owns their maps, programs, links, rings
// and goroutines. The pipeline that takes the events may come and go; in between they wait in the rings.
type Runner struct {
	set  Settings
	sink *outlet

	mu        sync.Mutex // held while the set of instances changes or is read
	instances []*instance
}

// instance is a probe that runs.
type instance struct {
	def    Definition
	cfg    Config
	events bool
	object *kernel.Object
	ring   *ringbuf.Reader
	reader sync.WaitGroup

	delivered, undecodable, refused atomic.Uint64
}

// NewRunner returns a Runner that has touched nothing yet.
func NewRunner(set Settings) *Runner { return &Runner{set: set, sink: newOutlet()} }

// Attach makes the Runner hand over events. With nil for a sink they are dropped, and probes that start from then on make
// none. It is called before Start and Keep.
func (r *Runner) Attach(sink Sink) { r.sink.open(sink) }

// Detach returns once nobody uses the sink any more. Events wait in the rings until Attach or Shutdown.
func (r *Runner) Detach() { r.sink.close() }

// Start loads the object of a probe, attaches it and reads its events. A probe that runs with these
// very settings goes on as it is, one that runs with others is replaced, and what it has counted goes on.
func (r *Runner) Start(d Definition, cfg Config) (hooks []kernel.Hook, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := cfg.Events && r.sink.wanted() && d.Decode != nil
	var counted map[string]*ebpf.Map
	if i := slices.IndexFunc(r.instances, func(in *instance) bool { return in.def.Name == d.Name }); i >= 0 {
		in := r.instances[i]
		if in.events == events && reflect.DeepEqual(in.cfg, cfg) {
			return in.object.Hooks, nil
		}
		counted = in.counted()
		defer func() { err = errors.Join(err, in.object.Close()) }()
		if err := r.detach(i); err != nil {
			return nil, err
		}
	}
	spec, err := d.Spec()
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", d.Name, err)
	}
	if err := tune(spec, d, r.set, cfg, events); err != nil {
		return nil, fmt.Errorf("probe %s: tune: %w", d.Name, err)
	}
	object, err := r.set.Kernel.LoadWith(counted, spec)
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", d.Name, err)
	}
	in := &instance{def: d, cfg: cfg, events: events, object: object}
	if events {
		if in.ring, err = ringbuf.NewReader(object.Maps[bpf.PacketlossMapEvents]); err != nil {
			return nil, errors.Join(fmt.Errorf("probe %s: open ring: %w", d.Name, err), object.Close())
		}
		in.reader.Go(func() { r.read(in) })
	}
	r.instances = append(r.instances, in)
	return object.Hooks, nil
}

// counted returns the maps of an instance that hold nothing but what it has counted: those by namespace, and histograms.
// In others are stamps, too, which would be wrong by the time that nobody looked.
func (in *instance) counted() map[string]*ebpf.Map {
	counted := map[string]*ebpf.Map{}
	for name, m := range in.object.Maps {
		if m.Type() == ebpf.PerCPUHash || name == bpf.SocketlatencyMapLatencies {
			counted[name] = m
		}
	}
	return counted
}

// Keep stops the probes that are not among names.
func (r *Runner) Keep(names []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for i, in := range slices.Backward(r.instances) {
		if !slices.Contains(names, in.def.Name) {
			errs = append(errs, r.detach(i), in.object.Close())
		}
	}
	return errors.Join(errs...)
}

// Object returns the kernel object of a probe, nil if none runs.
func (r *Runner) Object(name string) *kernel.Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range r.instances {
		if in.def.Name == name {
			return in.object
		}
	}
	return nil
}

// detach ends an instance, but for its maps, once its last events are handed over, or dropped if nobody takes events.
func (r *Runner) detach(i int) error {
	in := r.instances[i]
	r.instances = slices.Delete(r.instances, i, i+1)
	err := in.object.Detach()
	if in.ring != nil {
		if r.sink.wanted() {
			err = errors.Join(err, in.ring.Flush())
			in.reader.Wait()
		}
		err = errors.Join(err, in.ring.Close())
	}
	in.reader.Wait()
	return err
}

// tune sets the constants that include/event.h and latency.h give the objects, and the probe's own.
func tune(spec *ebpf.CollectionSpec, d Definition, set Settings, cfg Config, events bool) error {
	if err := errors.Join(
		spec.Variables[bpf.PacketlossVarEventsEnabled].Set(events),
		spec.Variables[bpf.PacketlossVarEventsPerSecond].Set(cfg.EventsPerSecond),
		spec.Variables[bpf.PacketlossVarHostNetns].Set(set.Host.Inode),
	); err != nil {
		return err
	}
	if d.Threshold != 0 {
		if err := tuneLatency(spec, d, cfg); err != nil {
			return err
		}
	}
	if d.Tune == nil {
		return nil
	}
	return d.Tune(spec, set.Names, cfg)
}

// minTicks is the shortest latency that differs from none by the clock of ticks: MIN_TICKS of bpf/include/latency.h.
const minTicks = 2

// tuneLatency sets the threshold, and the clock of the probes that have a choice.
func tuneLatency(spec *ebpf.CollectionSpec, d Definition, cfg Config) error {
	threshold := d.Threshold
	if cfg.Threshold != nil {
		threshold = *cfg.Threshold
	}
	if err := spec.Variables[bpf.NetSoftirqVarThresholdNs].Set(uint64(threshold)); err != nil || !d.Ticks {
		return err
	}
	tick, err := kernel.Tick()
	if err != nil {
		return err
	}
	full := cfg.FullHistograms || cfg.Threshold == nil && threshold < minTicks*tick
	if !full && threshold < minTicks*tick {
		return fmt.Errorf("threshold: must be at least two ticks of this kernel's clock, %s, got %s; to measure less set full_histograms: true", minTicks*tick, threshold)
	}
	return errors.Join(
		spec.Variables[bpf.SocketlatencyVarTickNs].Set(uint64(tick)),
		spec.Variables[bpf.SocketlatencyVarFullHistograms].Set(full),
	)
}

// maxBatch is the most events that go into the pipeline at once.
const maxBatch = 512

// read drains the ring of a probe until it is closed: it hands over what is there, and waits only
// when there is nothing.
func (r *Runner) read(in *instance) {
	var (
		rec    ringbuf.Record
		events = make([]Event, 0, maxBatch)
	)
	for {
		if err := in.ring.ReadInto(&rec); err != nil {
			if errors.Is(err, os.ErrClosed) || errors.Is(err, ringbuf.ErrFlushed) {
				return
			}
			in.undecodable.Add(1)
			continue
		}
		events = append(events, Event{})
		if err := in.def.Decode(rec.RawSample, &events[len(events)-1]); err != nil {
			in.undecodable.Add(1)
			events = events[:len(events)-1]
		}
		if len(events) == 0 || len(events) < maxBatch && rec.Remaining > 0 {
			continue
		}
		// CPUs reserve room in the ring in another order than they read the clock.
		slices.SortStableFunc(events, func(a, b Event) int {
			return cmp.Compare(a.Header.KtimeNs, b.Header.KtimeNs)
		})
		n := uint64(len(events))
		if err := r.sink.take(&in.def, events); err != nil {
			in.refused.Add(n)
		} else {
			in.delivered.Add(n)
		}
		events = events[:0]
	}
}

// Collect reads the maps of all probes, and forgets what they hold of namespaces that are not alive.
// One that fails does not hide the others.
func (r *Runner) Collect(alive Alive) ([]Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var (
		snapshots []Snapshot
		errs      []error
	)
	for _, in := range r.instances {
		if in.def.Collect == nil {
			continue
		}
		s, err := in.def.Collect(in.object.Maps, alive)
		if err != nil {
			errs = append(errs, fmt.Errorf("probe %s: %w", in.def.Name, err))
			continue
		}
		snapshots = append(snapshots, s)
	}
	return snapshots, errors.Join(errs...)
}

// Stats are the events of one probe so far, and what became of those that did not arrive.
type Stats struct {
	Probe                                   string
	Delivered, Suppressed                   uint64
	RingFull, MapFull, Undecodable, Refused uint64
}

// Stats returns the statistics of all probes that run.
func (r *Runner) Stats() ([]Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var (
		stats []Stats
		errs  []error
	)
	for _, in := range r.instances {
		s := Stats{
			Probe:       in.def.Name,
			Delivered:   in.delivered.Load(),
			Undecodable: in.undecodable.Load(),
			Refused:     in.refused.Load(),
		}
		var limits []bpf.NetnsLimit
		if err := in.object.Maps[bpf.PacketlossMapLimits].Lookup(uint32(0), &limits); err != nil {
			errs = append(errs, fmt.Errorf("probe %s: read losses: %w", in.def.Name, err))
			continue
		}
		for _, l := range limits {
			s.Suppressed += l.Loss.Suppressed
			s.RingFull += l.Loss.RingFull
			s.MapFull += l.Loss.MapFull
		}
		stats = append(stats, s)
	}
	return stats, errors.Join(errs...)
}

// Shutdown detaches everything and waits for the readers, which may be waiting for the Sink. It is safe before Start and more than once.
func (r *Runner) Shutdown() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sink.open(nil)
	var errs []error
	for _, in := range r.instances {
		if in.ring != nil {
			errs = append(errs, in.ring.Close())
		}
	}
	for _, in := range r.instances {
		in.reader.Wait()
		errs = append(errs, in.object.Close())
	}
	r.instances = nil
	return errors.Join(errs...)
}

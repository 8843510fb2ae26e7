// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package probe gives probe definitions a life: load, attach, read, collect, close. It is the only
// package that owns the kernel objects and goroutines of probes.
package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// Definition describes a probe. It is a value: no state, no goroutine, no logger. A probe has
// counters, facts of the node, a kernel object, or several of them.
type Definition struct {
	// Name is that of bpf/<Name>.bpf.c, internal/probes/<Name>.go, the documentation and the
	// configuration.
	Name string
	// OptIn tells that the probe runs only if the configuration lists it: it costs something on every packet.
	OptIn bool

	// Counters are what the collection pass reads of every namespace for this probe.
	Counters []Counter

	// Node returns what reads what the kernel keeps for the node as a whole.
	Node func() NodeReader

	// Spec returns the kernel object; nil if there is none. All that follows needs it.
	Spec func() (*ebpf.CollectionSpec, error)
	// Enums are the kernel's enums that the probe wants to know by name.
	Enums []Enum
	// Constants are members of anonymous enums of the kernel that the probe wants to know the value of.
	Constants []string
	// Threshold is what a latency must exceed to be an event, where the configuration does not say. It
	// is 0 for probes of something else than latency; the objects of others include latency.h.
	Threshold time.Duration
	// Ticks tells that the probe's clock is the tick of the kernel, unless full histograms are asked for, or
	// that clock is too coarse for Threshold.
	Ticks bool
	// Histograms are the metrics that metadata.yaml cannot declare.
	Histograms []Histogram
	// Tune sets the object's constants before it is loaded, beyond those that all objects have.
	Tune func(*ebpf.CollectionSpec, *Names, Config) error
	// Collect reads the object's maps, and deletes what they hold of namespaces that are not alive.
	Collect func(Maps, Alive) (Snapshot, error)
	// Decode fills an event from a record of the ring. It is pure.
	Decode func(raw []byte, e *Event) error
	// Record writes an event as the log record that metadata.yaml declares.
	Record func(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *Event, n *Names)
}

// Counter is a counter of a namespace with the data points that it becomes: one, or two where the
// documentation spells its name in two ways.
type Counter struct {
	netns.Counter
	Record []func(*metadata.MetricsBuilder, pcommon.Timestamp, int64)
}

// Snapshot is what a probe counted in its maps up to now.
type Snapshot interface {
	// Namespaces lists those that have something other than zero.
	Namespaces() []netns.ID
	// Record writes the data points of a namespace, zeros if nothing was counted there. The zero ID
	// stands for the node as a whole.
	Record(mb *MetricsBuilder, at pcommon.Timestamp, id netns.ID, n *Names)
}

// NodeReader reads, below the root directory of the host, what the kernel keeps for the node. It may
// remember what it read before.
type NodeReader func(root fs.FS) (NodeSnapshot, error)

// NodeSnapshot is what a probe read for the node as a whole.
type NodeSnapshot interface {
	// RecordHost records it under the documented names, as facts of the host's namespace.
	RecordHost(mb *metadata.MetricsBuilder, at pcommon.Timestamp)
	// RecordNode records it as facts of the node.
	RecordNode(mb *metadata.MetricsBuilder, at pcommon.Timestamp)
}

// Config holds the settings of one probe.
type Config struct {
	// Enabled is nil where the user did not say: the probe runs if the kernel can run it. A probe
	// that is asked for must run.
	Enabled *bool `mapstructure:"enabled"`
	// Events tells whether the probe makes events, if it has any and a logs pipeline wants them.
	Events bool `mapstructure:"events"`
	// EventsPerSecond limits the events of the probe on each CPU; those above are counted as
	// suppressed. Metrics are not affected.
	EventsPerSecond uint32 `mapstructure:"events_per_second"`
	// Threshold is what a latency must exceed to be an event, nil for the default of the probe.
	Threshold *time.Duration `mapstructure:"threshold"`
	// FullHistograms tells whether a probe whose clock is the tick of the kernel measures all latencies, and
	// not only those from two ticks up, at a cost on every packet.
	FullHistograms bool `mapstructure:"full_histograms"`
	// BenignReasons are kernel drop reasons that are nobody's loss; only packetloss has them.
	BenignReasons []string `mapstructure:"benign_reasons"`
}

// DefaultConfig returns the settings of a probe that the configuration does not mention.
func DefaultConfig() Config { return Config{Events: true, EventsPerSecond: 100} }

// Unmarshal gives what is not set its default.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	*c = DefaultConfig()
	return conf.Unmarshal(c)
}

// Validate checks what can be checked without the host.
func (c Config) Validate() error {
	var errs []error
	if c.Events && c.EventsPerSecond == 0 {
		errs = append(errs, errors.New("events_per_second: must be greater than 0; to have no events set events: false"))
	}
	if c.Threshold != nil && *c.Threshold <= 0 {
		errs = append(errs, fmt.Errorf("threshold: must be greater than 0, got %s", *c.Threshold))
	}
	return errors.Join(errs...)
}

// Maps gives a probe's Collect its maps by name.
type Maps map[string]*ebpf.Map

// Alive tells whether a namespace may still count, or be asked for.
type Alive func(netns.ID) bool

// MaxFrames is the most frames that a kernel stack in an event has.
const MaxFrames = len(bpf.PacketlossEvent{}.Stack)

// Event is one decoded record. What a probe has no notion of is zero.
type Event struct {
	Header bpf.EventHdr
	// Type is the probe's own class of event.
	Type uint32
	// Reason is a value of one of the kernel's enums.
	Reason uint32
	// Location is an address in the kernel's text.
	Location uint64
	// Stack holds return addresses, innermost first, of which Frames are valid.
	Stack  [MaxFrames]uint64
	Frames int
	// Latency is how long it took, and who the current task was when that was known.
	Latency bpf.Latency
	// Section is the probe's own part of what took long.
	Section uint32
}

// Comm returns the name of the current task.
func (e *Event) Comm() string {
	comm := make([]byte, 0, len(e.Latency.Comm))
	for _, c := range e.Latency.Comm {
		if c == 0 {
			break
		}
		comm = append(comm, byte(c))
	}
	return string(comm)
}

// NetNS returns the namespace of the event, the zero ID if it is unknown.
func (e *Event) NetNS() netns.ID {
	return netns.ID{Cookie: e.Header.Netns.Cookie, Inode: e.Header.Netns.Inode}
}

// Enum is an enum of the kernel and the prefixes that its members' names lose for users.
type Enum struct {
	Name     string
	Prefixes []string
}

// Enums knows the kernel's enums; *kernel.Kernel does.
type Enums interface {
	// Names returns the members of an enum by their value, each without the first of prefixes that fits.
	Names(enum string, prefixes ...string) map[uint32]string
	// Value returns a member of an anonymous enum.
	Value(name string) (uint64, bool)
}

// Symbols knows the kernel's functions; *kernel.Symbols does.
type Symbols interface {
	// Append appends "function+0xOFFSET" for an address.
	Append(dst []byte, addr uint64) []byte
	// Spans returns where functions are, in the order of their addresses.
	Spans(names []string) []kernel.Span
}

// Names puts into words what records hold in numbers, in the running kernel's terms.
type Names struct {
	symbols   Symbols
	enums     map[string]map[uint32]string
	constants map[string]uint64
}

// NewNames takes over the enums that definitions want and the kernel has.
func NewNames(enums Enums, symbols Symbols, defs []Definition) *Names {
	n := &Names{symbols: symbols, enums: map[string]map[uint32]string{}, constants: map[string]uint64{}}
	for _, d := range defs {
		for _, e := range d.Enums {
			n.enums[e.Name] = enums.Names(e.Name, e.Prefixes...)
		}
		for _, name := range d.Constants {
			if value, ok := enums.Value(name); ok {
				n.constants[name] = value
			}
		}
	}
	return n
}

// Constant returns the value of a member of an anonymous enum.
func (n *Names) Constant(name string) (uint64, error) {
	value, ok := n.constants[name]
	if !ok {
		return 0, fmt.Errorf("this kernel's BTF does not have %s", name)
	}
	return value, nil
}

// Enum returns the name of an enum's value: empty if this kernel has no such enum, the number if
// the enum has no such value.
func (n *Names) Enum(enum string, value uint32) string {
	names := n.enums[enum]
	if name, ok := names[value]; ok || len(names) == 0 {
		return name
	}
	return fmt.Sprintf("%#x", value)
}

// Value returns the value of an enum's member by its short name.
func (n *Names) Value(enum, short string) (uint32, bool) {
	for value, name := range n.enums[enum] {
		if name == short {
			return value, true
		}
	}
	return 0, false
}

// Symbol returns "function+0xOFFSET" for an address in the kernel's text.
func (n *Names) Symbol(addr uint64) string { return string(n.symbols.Append(nil, addr)) }

// Spans returns where functions of the kernel are, in the order of their addresses; those that the
// kernel does not have, or does not show to this process, are left out.
func (n *Names) Spans(names []string) []kernel.Span { return n.symbols.Spans(names) }

// Stack returns the symbols of addresses, separated by spaces.
func (n *Names) Stack(addrs []uint64) string {
	var b []byte
	for i, a := range addrs {
		if i > 0 {
			b = append(b, ' ')
		}
		b = n.symbols.Append(b, a)
	}
	return string(b)
}

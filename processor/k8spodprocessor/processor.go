// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"context"
	"net/netip"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/netexporter/netexporter/internal/eventline"
	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
)

// What the processor reads of the netexporter receiver, besides the keys of eventline. The source of these names is the
// receiver's metadata.yaml; a test compares.
const (
	receiverScope = "github.com/netexporter/netexporter/receiver/netexporterreceiver"

	keyFolded = "network.netns.folded"
	keyHost   = "network.netns.host"
	keyInode  = "network.netns.inode"
	keyPodUID = "k8s.pod.uid"

	keySource      = "source.address"
	keyDestination = "destination.address"
)

// The labels, from metadata.yaml; a test compares.
const (
	labelNamespace = "namespace"
	labelNetns     = "netns"
	labelNode      = "node"
	labelPod       = "pod"
)

// What the pods of an event's addresses are told by, with the prefix of the side.
const (
	prefixSource      = "source."
	prefixDestination = "destination."

	keyPodName      = "k8s.pod.name"
	keyPodNamespace = "k8s.namespace.name"
)

// Kinds of owners, the values of the attribute owner in metadata.yaml.
const (
	ownerContainer = "container"
	ownerFolded    = "folded"
	ownerHost      = "host"
	ownerNetns     = "netns"
	ownerNode      = "node"
	ownerNone      = "none"
	ownerPod       = "pod"
)

// owner is to whom a network namespace belongs.
type owner struct {
	kind           string
	pod, namespace string // labels
	known          *pod   // if it is one that is known
	source         string // what knew it, empty if there was nothing to look up
}

// labeller labels the resources of the netexporter receiver with their owners.
type labeller struct {
	pods    resolver
	verbose bool
	node    string // set by start

	telemetry *metadata.TelemetryBuilder
	// By kind of owner and by source, made once.
	ofOwner, ofSource map[string]metric.MeasurementOption
}

func newLabeller(set component.TelemetrySettings, cfg *Config, pods resolver) (*labeller, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	return &labeller{
		pods: pods, verbose: cfg.Verbose, telemetry: telemetry,
		ofOwner:  options("owner", ownerContainer, ownerFolded, ownerHost, ownerNetns, ownerNode, ownerNone, ownerPod),
		ofSource: options("source", sourceAPI, sourceTombstone, sourceKubelet, sourceLogDirectory, sourceNone),
	}, nil
}

// options returns the measurement option of each value of an attribute.
func options(key string, values ...string) map[string]metric.MeasurementOption {
	of := make(map[string]metric.MeasurementOption, len(values))
	for _, v := range values {
		of[v] = metric.WithAttributeSet(attribute.NewSet(attribute.String(key, v)))
	}
	return of
}

// tally counts what a batch was labelled with.
type tally struct {
	owners, sources map[string]int64
	unnamed         int64 // with the UID of a pod that is not known
}

func newTally() *tally { return &tally{owners: map[string]int64{}, sources: map[string]int64{}} }

// report adds what was counted to own telemetry.
func (l *labeller) report(ctx context.Context, t *tally) {
	for kind, n := range t.owners {
		l.telemetry.NetexporterK8spodResources.Add(ctx, n, l.ofOwner[kind])
	}
	for source, n := range t.sources {
		l.telemetry.NetexporterK8spodLookups.Add(ctx, n, l.ofSource[source])
	}
}

func (l *labeller) processMetrics(ctx context.Context, md pmetric.Metrics) (pmetric.Metrics, error) {
	t := newTally()
	for _, rm := range md.ResourceMetrics().All() {
		ours := false
		for _, sm := range rm.ScopeMetrics().All() {
			ours = ours || sm.Scope().Name() == receiverScope
		}
		l.label(rm.Resource().Attributes(), ours, l.verbose, t)
	}
	l.report(ctx, t)
	if len(t.owners) > 0 {
		l.telemetry.NetexporterK8spodUnnamed.Record(ctx, t.unnamed)
	}
	return md, nil
}

func (l *labeller) processLogs(ctx context.Context, ld plog.Logs) (plog.Logs, error) {
	t := newTally()
	var line []byte
	for _, rl := range ld.ResourceLogs().All() {
		ours := false
		for _, sl := range rl.ScopeLogs().All() {
			ours = ours || sl.Scope().Name() == receiverScope
		}
		res := rl.Resource().Attributes()
		if !l.label(res, ours, true, t) {
			continue
		}
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				if _, ok := rec.Attributes().Get(eventline.KeyEventName); !ok {
					continue
				}
				l.labelSides(rec)
				line = eventline.Append(line[:0], res, rec)
				rec.Body().SetStr(string(line))
			}
		}
	}
	l.report(ctx, t)
	return ld, nil
}

// labelSides adds the pods that the addresses of an event belonged to at its time, where they are of this node.
func (l *labeller) labelSides(rec plog.LogRecord) {
	attrs := rec.Attributes()
	source, destination := l.side(rec, keySource), l.side(rec, keyDestination)
	if source != nil {
		attrs.PutStr(prefixSource+keyPodName, source.name)
		attrs.PutStr(prefixSource+keyPodNamespace, source.namespace)
	}
	if destination != nil {
		attrs.PutStr(prefixDestination+keyPodName, destination.name)
		attrs.PutStr(prefixDestination+keyPodNamespace, destination.namespace)
	}
}

// side returns the pod that had an address of an event at its time, nil if it is not known.
func (l *labeller) side(rec plog.LogRecord, key string) *pod {
	value, ok := rec.Attributes().Get(key)
	if !ok {
		return nil
	}
	addr, err := netip.ParseAddr(value.Str())
	if err != nil {
		return nil
	}
	return l.pods.at(addr.Unmap(), rec.Timestamp().AsTime())
}

// label adds the labels to the attributes of a resource and reports whether it did: a resource of a network namespace gets
// all, another one of the netexporter receiver (ours) that of the node, and any other none. What is known of a pod goes
// with them, its addresses and labels only if verbose.
func (l *labeller) label(res pcommon.Map, ours, verbose bool, t *tally) bool {
	kind := ownerNode
	_, folded := res.Get(keyFolded)
	switch inode, ok := res.Get(keyInode); {
	case folded: // namespaces above the receiver's max_series, in one
		kind = ownerFolded
		res.PutStr(labelNamespace, "other")
		res.PutStr(labelPod, "other")
		res.PutStr(labelNetns, "")
	case ok:
		netns := "ns0"
		if !isHost(res) {
			netns = "ns" + inode.AsString()
		}
		o := l.owner(res)
		kind = o.kind
		if o.source != "" {
			t.sources[o.source]++
		}
		if o.known != nil {
			put(res, o.known.attrs)
			if verbose {
				put(res, o.known.more)
			}
		} else if text(res, keyPodUID) != "" {
			t.unnamed++
		}
		res.PutStr(labelNamespace, o.namespace)
		res.PutStr(labelPod, o.pod)
		res.PutStr(labelNetns, netns)
	case !ours:
		return false
	}
	res.PutStr(labelNode, l.node)
	t.owners[kind]++
	return true
}

// put puts the attributes of more over those of attrs.
func put(attrs, more pcommon.Map) {
	for key, value := range more.All() {
		value.CopyTo(attrs.PutEmpty(key))
	}
}

// isHost tells whether a resource is of the network namespace of the host.
func isHost(res pcommon.Map) bool {
	host, ok := res.Get(keyHost)
	return ok && host.Bool()
}

// owner returns to whom a resource belongs: the network namespace or, in that of the host, the socket, where a cgroup
// tells whose that is.
func (l *labeller) owner(res pcommon.Map) (o owner) {
	uid, container := text(res, keyPodUID), text(res, eventline.KeyContainerID)
	if uid != "" || container != "" {
		o.known, o.source = l.pods.lookup(uid, container)
	}
	switch name := text(res, eventline.KeyNetnsName); {
	case o.known != nil:
		o.kind, o.pod, o.namespace = ownerPod, o.known.name, o.known.namespace
	case container != "":
		o.kind, o.pod, o.namespace = ownerContainer, eventline.ShortID(container), "container"
	case isHost(res):
		o.kind, o.pod, o.namespace = ownerHost, "hostNetwork", "hostNetwork"
	case name != "":
		o.kind, o.pod, o.namespace = ownerNetns, name, "netns"
	default:
		o.kind = ownerNone
	}
	return o
}

// text returns the attribute key of m as text, empty if there is none.
func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

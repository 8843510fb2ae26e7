// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"context"
	"os"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

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
}

// labeller labels the resources of the netexporter receiver with their owners.
type labeller struct {
	cfg      *Config
	logger   *zap.Logger
	pods     resolver
	counter  metric.Int64Counter
	attrsFor map[string]metric.AddOption // by kind of owner, made once
	node     string                      // set by start
}

func newLabeller(set component.TelemetrySettings, cfg *Config, pods resolver) (*labeller, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	attrsFor := make(map[string]metric.AddOption)
	for _, kind := range []string{ownerContainer, ownerFolded, ownerHost, ownerNetns, ownerNode, ownerNone, ownerPod} {
		attrsFor[kind] = metric.WithAttributeSet(attribute.NewSet(attribute.String("owner", kind)))
	}
	return &labeller{
		cfg:      cfg,
		logger:   set.Logger,
		pods:     pods,
		counter:  telemetry.NetexporterK8spodResources,
		attrsFor: attrsFor,
	}, nil
}

func (l *labeller) start(context.Context, component.Host) error {
	node, source, err := nodeName(l.cfg, os.Hostname)
	if err != nil {
		return err
	}
	l.node = node
	l.logger.Info("Name of the node", zap.String("node", node), zap.String("source", source))
	return nil
}

func (l *labeller) processMetrics(ctx context.Context, md pmetric.Metrics) (pmetric.Metrics, error) {
	for _, rm := range md.ResourceMetrics().All() {
		ours := false
		for _, sm := range rm.ScopeMetrics().All() {
			ours = ours || sm.Scope().Name() == receiverScope
		}
		l.label(ctx, rm.Resource().Attributes(), ours)
	}
	return md, nil
}

func (l *labeller) processLogs(ctx context.Context, ld plog.Logs) (plog.Logs, error) {
	var line []byte
	for _, rl := range ld.ResourceLogs().All() {
		ours := false
		for _, sl := range rl.ScopeLogs().All() {
			ours = ours || sl.Scope().Name() == receiverScope
		}
		res := rl.Resource().Attributes()
		if !l.label(ctx, res, ours) {
			continue
		}
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				if _, ok := rec.Attributes().Get(eventline.KeyEventName); !ok {
					continue
				}
				line = eventline.Append(line[:0], res, rec)
				rec.Body().SetStr(string(line))
			}
		}
	}
	return ld, nil
}

// label adds the labels to the attributes of a resource and reports whether it did: a resource of a network namespace gets
// all, another one of the netexporter receiver (ours) that of the node, and any other none.
func (l *labeller) label(ctx context.Context, res pcommon.Map, ours bool) bool {
	labels := metadata.NewResourceBuilder(metadata.DefaultResourceAttributesConfig())
	kind := ownerNode
	_, folded := res.Get(keyFolded)
	switch inode, ok := res.Get(keyInode); {
	case folded: // namespaces above the receiver's max_series, in one
		kind = ownerFolded
		labels.SetNamespace("other")
		labels.SetPod("other")
		labels.SetNetns("")
	case ok:
		o := l.owner(res)
		kind = o.kind
		labels.SetNamespace(o.namespace)
		labels.SetPod(o.pod)
		labels.SetNetns("ns" + inode.AsString())
		if isHost(res) {
			labels.SetNetns("ns0")
		}
		if kind == ownerPod {
			labels.SetK8sNamespaceName(o.namespace)
			labels.SetK8sNodeName(l.node)
			labels.SetK8sPodName(o.pod)
		}
	case !ours:
		return false
	}
	labels.SetNode(l.node)

	for key, value := range labels.Emit().Attributes().All() {
		value.CopyTo(res.PutEmpty(key))
	}
	l.counter.Add(ctx, 1, l.attrsFor[kind])
	return true
}

// isHost tells whether a resource is of the network namespace of the host.
func isHost(res pcommon.Map) bool {
	host, ok := res.Get(keyHost)
	return ok && host.Bool()
}

// owner returns to whom a resource belongs: the network namespace or, in that of the host, the socket, where a cgroup
// tells whose that is.
func (l *labeller) owner(res pcommon.Map) owner {
	uid, container := text(res, keyPodUID), text(res, eventline.KeyContainerID)
	if uid != "" || container != "" {
		if p, ok := l.pods.lookup(uid, container); ok {
			return owner{ownerPod, p.name, p.namespace}
		}
	}
	if container != "" {
		return owner{ownerContainer, eventline.ShortID(container), "container"}
	}
	if isHost(res) {
		return owner{ownerHost, "hostNetwork", "hostNetwork"}
	}
	if name := text(res, eventline.KeyNetnsName); name != "" {
		return owner{ownerNetns, name, "netns"}
	}
	return owner{kind: ownerNone}
}

// text returns the attribute key of m as text, empty if there is none.
func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

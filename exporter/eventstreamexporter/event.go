// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"net/netip"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netexporter/netexporter/internal/eventline"
)

// Attributes by which the filter knows a record, from the metadata.yaml of the receiver and, for the labels, of the processor.
const (
	keyDestinationAddress = "destination.address"
	keyDestinationPort    = "destination.port"
	keyHostName           = "host.name"
	keyInode              = "network.netns.inode"
	keySourceAddress      = "source.address"
	keySourcePort         = "source.port"

	keyLabelNamespace = "namespace"
	keyLabelNetns     = "netns"
	keyLabelNode      = "node"
	keyLabelPod       = "pod"
)

// event is a log record as it is remembered and sent. It does not change.
type event struct {
	logs []byte // LogsData with the one record
	at   int64  // Unix time in nanoseconds
	name string
	where
	addresses [2]netip.Addr
	ports     [2]uint32
}

// where is the network namespace that something is of.
type where struct {
	pod, namespace string // labels
	netns          string // label, as ns4026531993 or ns0
	inode          string
}

func whereOf(res pcommon.Map) where {
	return where{
		pod:       text(res, keyLabelPod),
		namespace: text(res, keyLabelNamespace),
		netns:     text(res, keyLabelNetns),
		inode:     text(res, keyInode),
	}
}

// newEvent takes a record out of its batch.
func newEvent(marshaler *plog.ProtoMarshaler, w where, rl plog.ResourceLogs, sl plog.ScopeLogs, rec plog.LogRecord) (*event, error) {
	raw, err := marshaler.MarshalLogs(single(rl, sl, rec))
	if err != nil {
		return nil, err
	}
	attrs := rec.Attributes()
	e := &event{logs: raw, at: int64(rec.Timestamp()), name: text(attrs, eventline.KeyEventName), where: w}
	if e.name == "" {
		e.name = rec.EventName()
	}
	if e.at == 0 {
		e.at = int64(rec.ObservedTimestamp())
	}
	for i, key := range []string{keySourceAddress, keyDestinationAddress} {
		e.addresses[i], _ = netip.ParseAddr(text(attrs, key)) // the zero Addr is in no prefix
	}
	for i, key := range []string{keySourcePort, keyDestinationPort} {
		if v, ok := attrs.Get(key); ok && v.Type() == pcommon.ValueTypeInt {
			e.ports[i] = uint32(v.Int())
		}
	}
	return e, nil
}

// single returns the record alone with its resource and scope.
func single(rl plog.ResourceLogs, sl plog.ScopeLogs, rec plog.LogRecord) plog.Logs {
	logs := plog.NewLogs()
	to := logs.ResourceLogs().AppendEmpty()
	rl.Resource().CopyTo(to.Resource())
	to.SetSchemaUrl(rl.SchemaUrl())
	scope := to.ScopeLogs().AppendEmpty()
	sl.Scope().CopyTo(scope.Scope())
	scope.SetSchemaUrl(sl.SchemaUrl())
	rec.CopyTo(scope.LogRecords().AppendEmpty())
	return logs
}

// text returns the attribute key of m as text, empty if there is none.
func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

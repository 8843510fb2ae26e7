// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package lokiexporter

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netexporter/netexporter/internal/entity"
)

// Attributes that say how a record is to be sent. They are not sent themselves. Each may be on the resource or on the
// record; for tenant and format, that of the resource decides.
const (
	hintAttributes = "loki.attribute.labels" // attributes of the record that become labels
	hintResource   = "loki.resource.labels"  // attributes of the resource that become labels
	hintTenant     = "loki.tenant"           // attribute whose value is the tenant
	hintFormat     = "loki.format"           // how the line is written
)

// Attributes that become labels by default, after semantic conventions but for node and namespace, which are those of
// the processor k8spod.
const (
	keyEventName        = "event.name"
	keyLevel            = "level"
	keyNamespace        = "namespace"
	keyNode             = "node"
	keyServiceInstance  = "service.instance.id"
	keyServiceName      = "service.name"
	keyServiceNamespace = "service.namespace"
)

// maxTypes is the most values of the label type. The product has some twenty names of events; a record of another
// receiver may have anything for a name.
const maxTypes = 100

// otherType is the type of those beyond.
const otherType = "other"

// labeller makes the labels of records.
type labeller struct {
	on map[string]bool // which of the default labels

	mu    sync.Mutex
	types map[string]bool // values of type so far, maxTypes at most
}

// typeOf bounds the values of the label type.
func (l *labeller) typeOf(name string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.types[name] {
		if len(l.types) == maxTypes {
			return otherType
		}
		l.types[name] = true
	}
	return name
}

// ofResource returns the labels that all records of a resource have.
func (l *labeller) ofResource(res pcommon.Map) map[string]string {
	labels := make(map[string]string)
	l.set(labels, labelExporter, "OTLP")
	l.set(labels, labelNode, text(res, keyNode))
	l.set(labels, labelNamespace, text(res, keyNamespace))
	l.set(labels, labelInstance, text(res, keyServiceInstance))
	if job := text(res, keyServiceName); job != "" {
		if ns := text(res, keyServiceNamespace); ns != "" {
			job = ns + "/" + job
		}
		l.set(labels, labelJob, job)
	}
	promote(labels, res, res, hintResource)
	return labels
}

// ofRecord returns the labels of a record, those of its resource included.
func (l *labeller) ofRecord(ofResource map[string]string, res pcommon.Map, rec plog.LogRecord) map[string]string {
	labels := maps.Clone(ofResource)
	if name := eventName(rec); name != "" && l.on[labelType] {
		labels[labelType] = l.typeOf(name)
	}
	if level, ok := rec.Attributes().Get(keyLevel); ok {
		l.set(labels, labelLevel, level.AsString())
	} else if rec.SeverityNumber() != plog.SeverityNumberUnspecified {
		l.set(labels, labelLevel, strings.ToUpper(rec.SeverityNumber().String()))
	}
	promote(labels, rec.Attributes(), res, hintResource)
	promote(labels, res, rec.Attributes(), hintAttributes)
	promote(labels, rec.Attributes(), rec.Attributes(), hintAttributes)
	return labels
}

// set adds a default label, if it is on and has a value: Loki takes one without for absent.
func (l *labeller) set(labels map[string]string, name, value string) {
	if l.on[name] && value != "" {
		labels[name] = value
	}
}

// promote makes labels of the attributes in from that a hint names, a list or names with commas between.
func promote(labels map[string]string, hints, from pcommon.Map, hint string) {
	v, ok := hints.Get(hint)
	if !ok {
		return
	}
	names := strings.Split(v.AsString(), ",")
	if v.Type() == pcommon.ValueTypeSlice {
		names = names[:0]
		for _, name := range v.Slice().All() {
			names = append(names, name.AsString())
		}
	}
	for _, name := range names {
		name = strings.TrimSpace(name)
		if value := text(from, name); value != "" {
			labels[labelName(name)] = value
		}
	}
}

// labelName makes a label's name of an attribute's, by Prometheus' rules.
func labelName(attribute string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, attribute)
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		name = "key_" + name
	}
	return name
}

// format writes labels as LogQL does: what it returns names the stream.
func format(labels map[string]string) string {
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString([]string{"{", ", "}[min(i, 1)])
		b.WriteString(name)
		b.WriteByte('=')
		b.WriteString(strconv.Quote(strings.ToValidUTF8(labels[name], "�")))
	}
	if b.Len() > 0 {
		b.WriteByte('}')
	}
	return b.String()
}

// request is what is sent to one tenant.
type request struct {
	streams []*stream // in order of their first record
	byName  map[string]*stream
	records int
}

// stream is the records with the same labels, in the order in which they came.
type stream struct {
	labels  string
	entries []byte // encoded
}

// body encodes the request.
func (r *request) body() []byte {
	var body []byte
	for _, s := range r.streams {
		body = appendStream(body, s.labels, s.entries)
	}
	return body
}

// kind is what the labels of a record depend on, besides its resource and hints.
type kind struct {
	level plog.SeverityNumber
	name  string
}

// requests makes a request for each tenant. unlabelled is how many records have no label, which Loki does not store: they
// are left out.
func (l *labeller) requests(ld plog.Logs) (requests map[string]*request, unlabelled int) {
	requests = make(map[string]*request)
	var line []byte
	for _, rl := range ld.ResourceLogs().All() {
		res := rl.Resource().Attributes()
		ofResource := l.ofResource(res)
		known := make(map[kind]*stream)
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				if entity.Is(rec) { // what there is, not what happened
					continue
				}
				tenant := tenantOf(res, rec.Attributes())
				// Most records have no hints, and labels that one before them had.
				k := kind{rec.SeverityNumber(), eventName(rec)}
				s, plain := known[k], plain(rec.Attributes())
				if s == nil || !plain || tenant != "" {
					labels := format(l.ofRecord(ofResource, res, rec))
					if labels == "" {
						unlabelled++
						continue
					}
					s = streamOf(requests, tenant, labels)
					if plain && tenant == "" {
						known[k] = s
					}
				}
				line = appendLine(line[:0], res, sl.Scope(), rec)
				s.entries = appendEntry(s.entries, timeOf(rec), line)
				requests[tenant].records++
			}
		}
	}
	return requests, unlabelled
}

// plain tells whether no attribute of a record has a say in its labels.
func plain(record pcommon.Map) bool {
	for key := range record.All() {
		if key == keyLevel || isHint(key) {
			return false
		}
	}
	return true
}

func isHint(key string) bool {
	return key == hintAttributes || key == hintResource || key == hintTenant || key == hintFormat
}

// streamOf returns the stream of a tenant, and makes what is missing.
func streamOf(requests map[string]*request, tenant, labels string) *stream {
	r, ok := requests[tenant]
	if !ok {
		r = &request{byName: make(map[string]*stream)}
		requests[tenant] = r
	}
	s, ok := r.byName[labels]
	if !ok {
		s = &stream{labels: labels}
		r.byName[labels] = s
		r.streams = append(r.streams, s)
	}
	return s
}

// tenantOf returns the tenant of a record, empty if no hint names one.
func tenantOf(res, record pcommon.Map) string {
	for _, attributes := range []pcommon.Map{res, record} {
		if name := text(attributes, hintTenant); name != "" {
			return text(attributes, name)
		}
	}
	return ""
}

// keepTenants removes the records of all but some tenants.
func keepTenants(ld plog.Logs, tenants map[string]bool) {
	ld.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
			sl.LogRecords().RemoveIf(func(rec plog.LogRecord) bool {
				return !tenants[tenantOf(rl.Resource().Attributes(), rec.Attributes())]
			})
			return sl.LogRecords().Len() == 0
		})
		return rl.ScopeLogs().Len() == 0
	})
}

// eventName returns the name of the event that a record is, empty if it is none.
func eventName(rec plog.LogRecord) string {
	if name := rec.EventName(); name != "" {
		return name
	}
	return text(rec.Attributes(), keyEventName)
}

// timeOf returns when a record happened, or the next best.
func timeOf(rec plog.LogRecord) time.Time {
	switch {
	case rec.Timestamp() != 0:
		return rec.Timestamp().AsTime()
	case rec.ObservedTimestamp() != 0:
		return rec.ObservedTimestamp().AsTime()
	}
	return time.Now()
}

// text returns the attribute key of m as text, empty if there is none.
func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

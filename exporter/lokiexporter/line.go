// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package lokiexporter

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/go-logfmt/logfmt"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// Values of the hint loki.format.
const (
	formatJSON   = "json"
	formatLogfmt = "logfmt"
)

// appendLine appends the line of a record to dst: the body, unless a hint asks for more.
func appendLine(dst []byte, res pcommon.Map, scope pcommon.InstrumentationScope, rec plog.LogRecord) []byte {
	format := text(res, hintFormat)
	if format == "" {
		format = text(rec.Attributes(), hintFormat)
	}
	switch format {
	case formatJSON:
		if line, err := jsonLine(res, scope, rec); err == nil {
			return append(dst, line...)
		}
	case formatLogfmt:
		if line, err := logfmtLine(res, scope, rec); err == nil {
			return append(dst, line...)
		}
	}
	// What cannot be written otherwise (a number that JSON does not have) is not lost for it.
	body := rec.Body().AsString()
	if !utf8.ValidString(body) {
		body = strings.ToValidUTF8(body, "�")
	}
	return append(dst, body...)
}

// attributes returns the attributes without the hints.
func attributes(m pcommon.Map) map[string]any {
	raw := m.AsRaw()
	for key := range raw {
		if isHint(key) {
			delete(raw, key)
		}
	}
	return raw
}

// jsonLine writes a record as contrib's exporter did.
func jsonLine(res pcommon.Map, scope pcommon.InstrumentationScope, rec plog.LogRecord) ([]byte, error) {
	type instrumentationScope struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
	}
	line := struct {
		Body       any                   `json:"body,omitempty"`
		TraceID    string                `json:"traceid,omitempty"`
		SpanID     string                `json:"spanid,omitempty"`
		Severity   string                `json:"severity,omitempty"`
		Flags      uint32                `json:"flags,omitempty"`
		Attributes map[string]any        `json:"attributes,omitempty"`
		Resources  map[string]any        `json:"resources,omitempty"`
		Scope      *instrumentationScope `json:"instrumentation_scope,omitempty"`
	}{
		Body: rec.Body().AsRaw(), TraceID: traceID(rec), SpanID: spanID(rec), Severity: rec.SeverityText(), Flags: uint32(rec.Flags()),
		Attributes: attributes(rec.Attributes()), Resources: attributes(res),
	}
	if scope.Name() != "" {
		line.Scope = &instrumentationScope{scope.Name(), scope.Version()}
	}
	return json.Marshal(line)
}

// logfmtLine writes a record as contrib's exporter did: a body that is logfmt as it is, any other one as msg.
func logfmtLine(res pcommon.Map, scope pcommon.InstrumentationScope, rec plog.LogRecord) ([]byte, error) {
	var b strings.Builder
	enc := logfmt.NewEncoder(&b)
	pair := func(key string, value any) error { return enc.EncodeKeyval(key, value) }

	body := rec.Body().AsString()
	if decoder := logfmt.NewDecoder(strings.NewReader(body)); isLogfmt(decoder) {
		b.WriteString(body)
		b.WriteByte(' ')
	} else if err := pair("msg", body); err != nil {
		return nil, err
	}
	for _, p := range []struct{ key, value string }{
		{"traceID", traceID(rec)},
		{"spanID", spanID(rec)},
		{"severity", rec.SeverityText()},
		{"instrumentation_scope_name", scope.Name()},
		{"instrumentation_scope_version", scope.Version()},
	} {
		if p.value == "" {
			continue
		}
		if err := pair(p.key, p.value); err != nil {
			return nil, err
		}
	}
	for _, m := range []struct {
		prefix string
		pcommon.Map
	}{{"attribute_", rec.Attributes()}, {"resource_", res}} {
		for key, value := range m.All() {
			if isHint(key) {
				continue
			}
			if err := pair(m.prefix+key, value.AsString()); err != nil {
				return nil, err
			}
		}
	}
	return []byte(b.String()), nil
}

// isLogfmt tells whether a line has nothing but keys and values, one at least.
func isLogfmt(d *logfmt.Decoder) bool {
	pairs := 0
	for d.ScanRecord() {
		for d.ScanKeyval() {
			if d.Value() == nil {
				return false
			}
			pairs++
		}
	}
	return pairs > 0 && d.Err() == nil
}

func traceID(rec plog.LogRecord) string {
	if id := rec.TraceID(); !id.IsEmpty() {
		return id.String()
	}
	return ""
}

func spanID(rec plog.LogRecord) string {
	if id := rec.SpanID(); !id.IsEmpty() {
		return id.String()
	}
	return ""
}

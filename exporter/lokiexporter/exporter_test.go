// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package lokiexporter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/netexporter/netexporter/exporter/lokiexporter/internal/metadata"
	"github.com/netexporter/netexporter/exporter/lokiexporter/internal/metadatatest"
	"github.com/netexporter/netexporter/internal/entity"
)

// pushed is what Loki is sent: lines by stream, each with its time before it in nanoseconds.
type pushed map[string][]string

// loki answers pushes with a status for each tenant, 204 if it has none.
type loki struct {
	*httptest.Server
	status map[string]int
	header http.Header
	got    map[string]pushed // by tenant, whatever the answer
	pushes map[string]int
}

func newLoki(t *testing.T) *loki {
	l := &loki{status: map[string]int{}, header: http.Header{}, got: map[string]pushed{}, pushes: map[string]int{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "application/x-protobuf", r.Header.Get("Content-Type"))
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		body, err = snappy.Decode(nil, body)
		assert.NoError(t, err)
		tenant := r.Header.Get("X-Scope-Orgid")
		l.got[tenant] = decode(t, body)
		l.pushes[tenant]++
		maps.Copy(w.Header(), l.header)
		if status := l.status[tenant]; status != 0 {
			http.Error(w, "the reason", status)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(l.Close)
	return l
}

// fields calls f with each field of a protobuf message: bytes, or a number.
func fields(t *testing.T, message []byte, f func(n protowire.Number, data []byte, number uint64)) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if !assert.Positive(t, size) {
			return
		}
		message = message[size:]
		var data []byte
		var number uint64
		if kind == protowire.BytesType {
			data, size = protowire.ConsumeBytes(message)
		} else {
			number, size = protowire.ConsumeVarint(message)
		}
		if !assert.Positive(t, size) {
			return
		}
		message = message[size:]
		f(n, data, number)
	}
}

func decode(t *testing.T, body []byte) pushed {
	streams := pushed{}
	fields(t, body, func(_ protowire.Number, stream []byte, _ uint64) {
		var labels string
		fields(t, stream, func(n protowire.Number, data []byte, _ uint64) {
			if n == 1 {
				labels = string(data)
				return
			}
			var stamp [3]uint64
			var line string
			fields(t, data, func(n protowire.Number, data []byte, _ uint64) {
				if n == 1 {
					fields(t, data, func(n protowire.Number, _ []byte, number uint64) { stamp[n] = number })
					return
				}
				line = string(data)
			})
			streams[labels] = append(streams[labels], fmt.Sprintf("%d%09d %s", stamp[1], stamp[2], line))
		})
	})
	return streams
}

// newTest returns the exporter without queue and retries, started, and what it counts.
func newTest(t *testing.T, endpoint string, change func(*Config)) (exporter.Logs, *componenttest.Telemetry) {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.ClientConfig.Endpoint = endpoint
	cfg.QueueConfig = configoptional.None[exporterhelper.QueueBatchConfig]()
	cfg.RetryConfig.Enabled = false
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	set := exportertest.NewNopSettings(metadata.Type)
	set.TelemetrySettings = tel.NewTelemetrySettings()
	e, err := newLogs(t.Context(), set, cfg)
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, e.Shutdown(context.Background())) })
	return e, tel
}

// record is a log record for tests.
type record struct {
	at         int64
	body       string
	attributes map[string]any
}

// addResource appends a resource and its records.
func addResource(t *testing.T, ld plog.Logs, resource map[string]any, records ...record) plog.LogRecordSlice {
	rl := ld.ResourceLogs().AppendEmpty()
	require.NoError(t, rl.Resource().Attributes().FromRaw(resource))
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName("scope")
	for _, r := range records {
		rec := sl.LogRecords().AppendEmpty()
		rec.SetTimestamp(pcommon.Timestamp(r.at))
		rec.SetSeverityNumber(plog.SeverityNumberInfo)
		rec.SetSeverityText("INFO")
		rec.Body().SetStr(r.body)
		require.NoError(t, rec.Attributes().FromRaw(r.attributes))
	}
	return sl.LogRecords()
}

// Events become lines under few labels, in their order.
func TestEvents(t *testing.T) {
	server := newLoki(t)
	e, _ := newTest(t, server.URL, nil)
	ld := plog.NewLogs()
	loss := map[string]any{"event.name": "PACKETLOSS"}
	reset := map[string]any{"event.name": "TCPRESET_NOSOCK"}
	addResource(
		t, ld, map[string]any{"node": "worker-1", "namespace": "shop", "pod": "cart-0", "netns": "ns4026532345"},
		record{1700000000000000001, "type=PACKETLOSS pod=cart-0", loss},
		record{1700000000000000002, "type=TCPRESET_NOSOCK pod=cart-0", reset},
		record{1700000000000000003, "type=PACKETLOSS pod=cart-0 again", loss},
	)
	addResource(
		t, ld, map[string]any{"node": "worker-1", "namespace": "shop", "pod": "cart-1"},
		record{1700000000000000000, "type=PACKETLOSS pod=cart-1", loss},
	)
	addResource(t, ld, map[string]any{"node": "worker-1"}, record{5, "type=NETSOFTIRQ_SCHED_SLOW", map[string]any{"event.name": "NETSOFTIRQ_SCHED_SLOW"}})
	ld.MarkReadOnly()
	require.NoError(t, e.ConsumeLogs(t.Context(), ld))

	assert.Equal(t, map[string]pushed{"": {
		`{exporter="OTLP", level="INFO", namespace="shop", node="worker-1", type="PACKETLOSS"}`: {
			"1700000000000000001 type=PACKETLOSS pod=cart-0",
			"1700000000000000003 type=PACKETLOSS pod=cart-0 again",
			"1700000000000000000 type=PACKETLOSS pod=cart-1",
		},
		`{exporter="OTLP", level="INFO", namespace="shop", node="worker-1", type="TCPRESET_NOSOCK"}`: {
			"1700000000000000002 type=TCPRESET_NOSOCK pod=cart-0",
		},
		`{exporter="OTLP", level="INFO", node="worker-1", type="NETSOFTIRQ_SCHED_SLOW"}`: {
			"0000000005 type=NETSOFTIRQ_SCHED_SLOW",
		},
	}}, server.got)
}

// The state of entities is none of Loki's business.
func TestEntitiesAreLeftOut(t *testing.T) {
	server := newLoki(t)
	e, _ := newTest(t, server.URL, nil)
	ld := plog.NewLogs()
	for _, name := range []string{entity.EventState, entity.EventDelete} {
		addResource(t, ld, nil, record{1, "", nil}).At(0).SetEventName(name)
	}
	require.NoError(t, e.ConsumeLogs(t.Context(), ld))
	assert.Empty(t, server.got)
}

// What users of contrib's exporter have in their configurations does what it did.
func TestLabels(t *testing.T) {
	resource := map[string]any{
		"service.name": "api", "service.namespace": "shop", "service.instance.id": "i-1", "host.name": "worker-1", "1st.key": "x",
	}
	all := `exporter="OTLP", instance="i-1", job="shop/api", level="INFO"`
	for _, tt := range []struct {
		name            string
		enabled         map[string]bool
		resource, hints map[string]any // further attributes
		want            string
	}{
		{name: "defaults", want: "{" + all + "}"},
		{
			name: "some", enabled: map[string]bool{"exporter": false, "instance": false, "level": true},
			want: `{job="shop/api", level="INFO"}`,
		},
		{name: "level attribute", hints: map[string]any{"level": "notice"}, want: `{exporter="OTLP", instance="i-1", job="shop/api", level="notice"}`},
		{
			name: "hint of the resource", resource: map[string]any{hintResource: "host.name, 1st.key, absent"},
			want: `{exporter="OTLP", host_name="worker-1", instance="i-1", job="shop/api", key_1st_key="x", level="INFO"}`,
		},
		{
			name: "hints of the record", hints: map[string]any{hintResource: []any{"host.name"}, hintAttributes: "quoted", "quoted": "a\"b\xff"},
			want: `{exporter="OTLP", host_name="worker-1", instance="i-1", job="shop/api", level="INFO", quoted="a\"b�"}`,
		},
		{
			name: "the same name", hints: map[string]any{hintAttributes: "job", "job": "mine"},
			want: `{exporter="OTLP", instance="i-1", job="mine", level="INFO"}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := newLoki(t)
			e, _ := newTest(t, server.URL, func(c *Config) { c.DefaultLabelsEnabled = tt.enabled })
			ld := plog.NewLogs()
			addResource(t, ld, resource, record{1, "line", tt.hints})
			attributes := ld.ResourceLogs().At(0).Resource().Attributes()
			for key, value := range tt.resource {
				require.NoError(t, attributes.PutEmpty(key).FromRaw(value))
			}
			require.NoError(t, e.ConsumeLogs(t.Context(), ld))
			assert.Equal(t, map[string]pushed{"": {tt.want: {"0000000001 line"}}}, server.got)
		})
	}
}

func TestFormats(t *testing.T) {
	resource := map[string]any{"node": "worker-1"}
	for _, tt := range []struct{ name, format, body, want string }{
		{"none", "", "type=A x=1", "type=A x=1"},
		{"raw", "raw", "type=A x=1", "type=A x=1"},
		{"unknown", "yaml", "type=A x=1", "type=A x=1"},
		{"no UTF-8", "raw", "\xff", "�"},
		{"logfmt", "logfmt", "type=A x=1", `type=A x=1 severity=INFO instrumentation_scope_name=scope attribute_a=1 resource_node=worker-1`},
		{"text as logfmt", "logfmt", "some text", `msg="some text" severity=INFO instrumentation_scope_name=scope attribute_a=1 resource_node=worker-1`},
		{
			"json", "json", "type=A x=1",
			`{"body":"type=A x=1","severity":"INFO","attributes":{"a":1},"resources":{"node":"worker-1"},"instrumentation_scope":{"name":"scope"}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ld := plog.NewLogs()
			rec := addResource(t, ld, resource, record{1, tt.body, map[string]any{"a": 1, hintFormat: tt.format}}).At(0)
			rl := ld.ResourceLogs().At(0)
			line := string(appendLine(nil, rl.Resource().Attributes(), rl.ScopeLogs().At(0).Scope(), rec))
			if tt.format == formatJSON {
				assert.True(t, json.Valid([]byte(line)))
				assert.JSONEq(t, tt.want, line)
				return
			}
			assert.Equal(t, tt.want, line)
		})
	}
}

// The values of type are bounded, whatever names a foreign receiver gives.
func TestTypesAreBounded(t *testing.T) {
	server := newLoki(t)
	e, _ := newTest(t, server.URL, nil)
	ld := plog.NewLogs()
	for i := range 2 * maxTypes {
		addResource(t, ld, nil, record{int64(i), "line", map[string]any{"event.name": fmt.Sprint("EVENT_", i)}})
	}
	require.NoError(t, e.ConsumeLogs(t.Context(), ld))
	streams := server.got[""]
	assert.Len(t, streams, maxTypes+1)
	assert.Len(t, streams[`{exporter="OTLP", level="INFO", type="other"}`], maxTypes)
}

// What may succeed later is tried again, what will not is counted.
func TestAnswers(t *testing.T) {
	const records = 3
	for _, tt := range []struct {
		status    int
		header    map[string]string
		temporary bool
		delay     string
	}{
		{status: 400},
		{status: 401},
		{status: 403},
		{status: 404},
		{status: 413},
		{status: 429, temporary: true},
		{status: 429, header: map[string]string{"Retry-After": "7"}, temporary: true, delay: "7s"},
		{status: 500, temporary: true},
		{status: 502, temporary: true},
		{status: 503, temporary: true},
		{status: 504, temporary: true},
	} {
		t.Run(fmt.Sprint(tt.status, tt.header), func(t *testing.T) {
			server := newLoki(t)
			server.status[""] = tt.status
			for key, value := range tt.header {
				server.header.Set(key, value)
			}
			e, tel := newTest(t, server.URL, nil)
			ld := plog.NewLogs()
			addResource(t, ld, map[string]any{"node": "n"}, make([]record, records)...)
			err := e.ConsumeLogs(t.Context(), ld)
			require.ErrorContains(t, err, fmt.Sprintf("push to Loki: %d %s: the reason", tt.status, http.StatusText(tt.status)))
			assert.Equal(t, !tt.temporary, consumererror.IsPermanent(err))
			if tt.delay != "" {
				require.ErrorContains(t, err, "Throttle ("+tt.delay+")")
			}
			if tt.temporary {
				_, err := tel.GetMetric("otelcol_netexporter.loki.dropped")
				require.Error(t, err, "nothing is dropped")
				return
			}
			assertDropped(t, tel, fmt.Sprint("status_", tt.status), records)
		})
	}
}

func assertDropped(t *testing.T, tel *componenttest.Telemetry, reason string, records int64) {
	t.Helper()
	metadatatest.AssertEqualNetexporterLokiDropped(t, tel, []metricdata.DataPoint[int64]{{
		Value: records, Attributes: attribute.NewSet(attribute.String("reason", reason)),
	}}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
}

func TestUnreachable(t *testing.T) {
	server := newLoki(t)
	server.Close()
	e, _ := newTest(t, server.URL, nil)
	ld := plog.NewLogs()
	addResource(t, ld, nil, record{1, "line", nil})
	err := e.ConsumeLogs(t.Context(), ld)
	require.ErrorContains(t, err, "connection refused")
	assert.False(t, consumererror.IsPermanent(err))
}

// Records without a label cannot be stored; they are counted.
func TestNoLabels(t *testing.T) {
	server := newLoki(t)
	off := map[string]bool{}
	for _, label := range defaultLabels() {
		off[label] = false
	}
	e, tel := newTest(t, server.URL, func(c *Config) { c.DefaultLabelsEnabled = off })
	ld := plog.NewLogs()
	addResource(t, ld, nil, record{1, "line", nil}, record{2, "line", nil})
	err := e.ConsumeLogs(t.Context(), ld)
	require.EqualError(t, err, "Permanent error: 2 log records without any label, which Loki does not store")
	assert.Empty(t, server.got)
	assertDropped(t, tel, reasonNoLabels, 2)
}

// Each tenant has a request of its own, and only what failed for now is tried again.
func TestTenants(t *testing.T) {
	server := newLoki(t)
	server.status["busy"], server.status["wrong"] = 503, 400
	e, tel := newTest(t, server.URL, func(c *Config) {
		c.RetryConfig.Enabled = true
		c.RetryConfig.InitialInterval = time.Millisecond
		c.RetryConfig.MaxElapsedTime = 20 * time.Millisecond
		c.ClientConfig.Headers.Set("X-Scope-OrgID", "fallback")
		c.ClientConfig.Headers.Set("X-Other", configopaque.String("kept"))
	})
	ld := plog.NewLogs()
	for i, tenant := range []string{"fine", "busy", "wrong"} {
		addResource(t, ld, map[string]any{hintTenant: "team", "team": tenant}, record{int64(i + 1), tenant, nil})
	}
	addResource(t, ld, nil, record{9, "of the record", map[string]any{hintTenant: "team", "team": "fine"}})
	addResource(t, ld, nil, record{10, "none", nil})
	ld.MarkReadOnly()
	require.Error(t, e.ConsumeLogs(t.Context(), ld))

	const stream = `{exporter="OTLP", level="INFO"}`
	assert.Equal(t, pushed{stream: {"0000000001 fine", "0000000009 of the record"}}, server.got["fine"])
	assert.Equal(t, pushed{stream: {"0000000010 none"}}, server.got["fallback"], "the header is for those without a hint")
	assert.Equal(t, 1, server.pushes["fine"])
	assert.Equal(t, 1, server.pushes["wrong"])
	assert.Equal(t, 1, server.pushes["fallback"])
	assert.Greater(t, server.pushes["busy"], 1)
	assertDropped(t, tel, "status_400", 1)
}

// By default nothing overtakes what waits to be sent again.
func TestDefaultKeepsOrder(t *testing.T) {
	assert.Equal(t, 1, createDefaultConfig().(*Config).QueueConfig.Get().NumConsumers)
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		endpoint string
		labels   map[string]bool
		want     string
	}{
		{endpoint: "", want: "endpoint: must be the URL of Loki's push API, for example http://loki:3100/loki/api/v1/push"},
		{endpoint: "loki:3100", want: `endpoint: "loki:3100" is no URL with http or https and a host`},
		{endpoint: "http://\x7f", want: "endpoint: parse"},
		{endpoint: "http://loki/push", labels: map[string]bool{"pod": true}, want: `default_labels_enabled: "pod" is none of exporter, instance`},
		{endpoint: "https://loki/push", labels: map[string]bool{"type": false}},
	} {
		cfg := createDefaultConfig().(*Config)
		cfg.ClientConfig.Endpoint, cfg.DefaultLabelsEnabled = tt.endpoint, tt.labels
		if err := cfg.Validate(); tt.want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, tt.want)
		}
	}
}

func BenchmarkRequests(b *testing.B) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("node", "worker-1")
	for i := range 512 {
		rec := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		rec.SetTimestamp(pcommon.Timestamp(i))
		rec.Attributes().PutStr("event.name", "PACKETLOSS")
		rec.Body().SetStr(strings.Repeat("type=PACKETLOSS ", 30))
	}
	cfg := createDefaultConfig().(*Config)
	l := labeller{on: cfg.enabled(), types: map[string]bool{}}
	b.ReportAllocs()
	for b.Loop() {
		requests, _ := l.requests(ld)
		b.SetBytes(int64(len(requests[""].body())))
	}
}

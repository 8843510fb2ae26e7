// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package stdoutexporter

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netexporter/netexporter/internal/entity"
)

// writes records what each call of Write was given.
type writes struct {
	calls []string
	err   error
}

func (w *writes) Write(p []byte) (int, error) {
	w.calls = append(w.calls, string(p))
	return len(p), w.err
}

// logsOf makes one resource per argument, each with its own bodies.
func logsOf(resources ...[]string) plog.Logs {
	ld := plog.NewLogs()
	for _, bodies := range resources {
		records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
		for _, body := range bodies {
			records.AppendEmpty().Body().SetStr(body)
		}
	}
	return ld
}

func TestLines(t *testing.T) {
	notAString := plog.NewLogs()
	notAString.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetInt(42)

	states := logsOf([]string{"type=A"})
	records := states.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	entity.Append(records, entity.TypeNamespace, 1000)
	entity.AppendDelete(records, entity.TypeNamespace)

	for _, tt := range []struct {
		name string
		logs plog.Logs
		want []string
	}{
		{name: "nothing", logs: plog.NewLogs()},
		{name: "no records", logs: logsOf(nil, nil)},
		{
			name: "one write for all resources",
			logs: logsOf([]string{"type=A", "type=B  stacktrace:f+0x1 g+0x2"}, []string{"type=C"}),
			want: []string{"type=A\ntype=B  stacktrace:f+0x1 g+0x2\ntype=C\n"},
		},
		{
			name: "line breaks are escaped",
			logs: logsOf([]string{"first\nsecond\r\nthird", "next"}),
			want: []string{`first\nsecond\r\nthird` + "\nnext\n"},
		},
		{name: "empty body", logs: logsOf([]string{""}), want: []string{"\n"}},
		{name: "not a string", logs: notAString, want: []string{"42\n"}},
		{name: "states of entities have no line", logs: states, want: []string{"type=A\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out writes
			require.NoError(t, lineExporter{out: &out}.consumeLogs(t.Context(), tt.logs))
			assert.Equal(t, tt.want, out.calls)
		})
	}
}

func TestWriteError(t *testing.T) {
	out := writes{err: errors.New("no space left on device")}
	err := lineExporter{out: &out}.consumeLogs(t.Context(), logsOf([]string{"a", "b"}))
	require.ErrorIs(t, err, out.err)
	assert.EqualError(t, err, "write 2 log records to standard output: no space left on device")
}

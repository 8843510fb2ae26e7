// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamv1

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var update = flag.Bool("update", false, "write what is new to testdata/wire.txt")

// An inspector of one version asks an agent of another: what was on the wire once stays. A field may go only if its number
// is reserved. What is new is written to the file by -update; what has changed is not.
func TestGoldenWire(t *testing.T) {
	path := filepath.Join("testdata", "wire.txt")
	was, err := os.ReadFile(path)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	now := wire(File_eventstream_v1_eventstream_proto)
	for line := range strings.Lines(string(was)) {
		line = strings.TrimSuffix(line, "\n")
		message, field, _ := strings.Cut(line, " ")
		number, _, _ := strings.Cut(field, " ")
		reserved := slices.Contains(now, message+" "+number+" reserved")
		assert.True(t, reserved || slices.Contains(now, line), "not on the wire any more: %s", line)
	}
	text := strings.Join(now, "\n") + "\n"
	if *update && !t.Failed() {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		was = []byte(text)
	}
	assert.Equal(t, string(was), text, "what is new belongs in %s: make golden", path)
}

// wire lists all that both sides must agree on, a line each.
func wire(file protoreflect.FileDescriptor) []string {
	var lines []string
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			lines = append(lines, fmt.Sprintf("%s %s(%s) returns (stream=%t %s)", service.FullName(), m.Name(), m.Input().Name(), m.IsStreamingServer(), m.Output().Name()))
		}
	}
	for i := range file.Messages().Len() {
		message := file.Messages().Get(i)
		for j := range message.Fields().Len() {
			f := message.Fields().Get(j)
			kind := f.Kind().String()
			if f.Message() != nil {
				kind = string(f.Message().FullName())
			}
			lines = append(lines, fmt.Sprintf("%s %d %s %s %s", message.Name(), f.Number(), f.Cardinality(), kind, f.Name()))
		}
		for j := range message.ReservedRanges().Len() {
			for r := message.ReservedRanges().Get(j); r[0] < r[1]; r[0]++ {
				lines = append(lines, fmt.Sprintf("%s %d reserved", message.Name(), r[0]))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// Bytes of several LogsData one after another are one LogsData with the records of all, and a response that holds them is the same as one
// whose field is declared as LogsData: the tag of the field, a length, and the message.
func TestLogsAreOTLP(t *testing.T) {
	var marshaler plog.ProtoMarshaler
	var joined []byte
	for _, body := range []string{"a", "b"} {
		logs := plog.NewLogs()
		logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr(body)
		raw, err := marshaler.MarshalLogs(logs)
		require.NoError(t, err)
		joined = append(joined, raw...)
	}
	var unmarshaler plog.ProtoUnmarshaler
	logs, err := unmarshaler.UnmarshalLogs(joined)
	require.NoError(t, err)
	assert.Equal(t, 2, logs.LogRecordCount())

	raw, err := proto.Marshal(&WatchResponse{Logs: joined})
	require.NoError(t, err)
	asMessage := protowire.AppendTag(nil, 1, protowire.BytesType)
	asMessage = protowire.AppendBytes(asMessage, joined)
	assert.Equal(t, asMessage, raw)
}

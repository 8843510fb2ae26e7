// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package stdoutexporter

import (
	"context"
	"fmt"
	"io"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netexporter/netexporter/internal/entity"
)

// lineExporter writes log records to out, which must be safe for concurrent writes.
type lineExporter struct {
	out io.Writer
}

// consumeLogs writes the lines of ld in one write. A batch without records is not written at all.
func (e lineExporter) consumeLogs(_ context.Context, ld plog.Logs) error {
	lines := appendLines(nil, ld)
	if len(lines) == 0 {
		return nil
	}
	if _, err := e.out.Write(lines); err != nil {
		return fmt.Errorf("write %d log records to standard output: %w", ld.LogRecordCount(), err)
	}
	return nil
}

// appendLines appends the body of every log record of ld but the states of entities to dst, each ended by a newline.
func appendLines(dst []byte, ld plog.Logs) []byte {
	for _, resource := range ld.ResourceLogs().All() {
		for _, scope := range resource.ScopeLogs().All() {
			for _, record := range scope.LogRecords().All() {
				if !entity.Is(record) {
					dst = appendLine(dst, record.Body())
				}
			}
		}
	}
	return dst
}

// appendLine appends body and a newline to dst. Line breaks inside of body are written as \n and \r:
// a line of the output is always one record, whatever a foreign body holds.
func appendLine(dst []byte, body pcommon.Value) []byte {
	line := body.AsString()
	if strings.ContainsAny(line, "\r\n") {
		line = strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(line)
	}
	dst = append(dst, line...)
	return append(dst, '\n')
}

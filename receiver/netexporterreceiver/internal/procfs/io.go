// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bytes"
	"strconv"
)

// ParseIO parses /proc/<pid>/io, lines "syscr: 12", do_io_accounting() of fs/proc/base.c. Lines of
// another form are left out.
func ParseIO(raw []byte) map[string]uint64 {
	values := map[string]uint64{}
	for line := range bytes.Lines(raw) {
		name, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if !ok {
			continue
		}
		if v, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			values[string(name)] = v
		}
	}
	return values
}

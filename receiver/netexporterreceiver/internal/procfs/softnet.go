// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Softnet is what the CPUs together did with the packets of their backlogs. The kernel counts 32
// bits a CPU, so the sums fall back by 2^32 at a time.
type Softnet struct {
	// Processed is the number of packets taken.
	Processed uint64
	// Dropped is the number of packets dropped because a backlog was full.
	Dropped uint64
	// TimeSqueeze is how often a CPU stopped with work left, for lack of budget or time.
	TimeSqueeze uint64
}

// ParseSoftnet parses net/softnet_stat: a line for each CPU that is online, of hexadecimal columns
// (softnet_seq_show() of net/core/net-procfs.c). The first three have always been these; kernels
// differ in how many follow.
func ParseSoftnet(r io.Reader) (Softnet, error) {
	var s Softnet
	cpus := 0
	scanner := bufio.NewScanner(r)
	for ; scanner.Scan(); cpus++ {
		fields := bytes.Fields(scanner.Bytes())
		for i, sum := range [...]*uint64{&s.Processed, &s.Dropped, &s.TimeSqueeze} {
			if i >= len(fields) {
				return Softnet{}, fmt.Errorf("parse softnet_stat: malformed line %q", scanner.Bytes())
			}
			v, err := strconv.ParseUint(string(fields[i]), 16, 64)
			if err != nil {
				return Softnet{}, fmt.Errorf("parse softnet_stat: %w", err)
			}
			*sum += v
		}
	}
	if err := scanner.Err(); err != nil {
		return Softnet{}, fmt.Errorf("parse softnet_stat: %w", err)
	}
	if cpus == 0 {
		return Softnet{}, errors.New("parse softnet_stat: no CPU")
	}
	return s, nil
}

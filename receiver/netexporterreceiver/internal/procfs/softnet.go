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

// Softnet is what a CPU did with the packets of its backlog, counted in 32 bits.
type Softnet struct {
	CPU int
	// Processed is the number of packets taken.
	Processed uint32
	// Dropped is the number of packets dropped because the backlog was full.
	Dropped uint32
	// TimeSqueeze is how often the CPU stopped with work left, for lack of budget or time.
	TimeSqueeze uint32
}

// softnetCPU is the column with the CPU's number, since commit 7d58e6555870 (v5.10).
const softnetCPU = 12

// ParseSoftnet parses net/softnet_stat: a line for each CPU that is online, of hexadecimal columns
// (softnet_seq_show() of net/core/net-procfs.c). The first three have always been these; kernels
// differ in how many follow. One that does not number its CPUs has them numbered by line.
func ParseSoftnet(r io.Reader) ([]Softnet, error) {
	var cpus []Softnet
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		fields := bytes.Fields(scanner.Bytes())
		if len(fields) < 3 {
			return nil, fmt.Errorf("parse softnet_stat: malformed line %q", scanner.Bytes())
		}
		s := Softnet{CPU: len(cpus)}
		for i, counter := range [...]*uint32{&s.Processed, &s.Dropped, &s.TimeSqueeze} {
			v, err := strconv.ParseUint(string(fields[i]), 16, 32)
			if err != nil {
				return nil, fmt.Errorf("parse softnet_stat: %w", err)
			}
			*counter = uint32(v)
		}
		if len(fields) > softnetCPU {
			cpu, err := strconv.ParseUint(string(fields[softnetCPU]), 16, 31)
			if err != nil {
				return nil, fmt.Errorf("parse softnet_stat: %w", err)
			}
			s.CPU = int(cpu)
		}
		cpus = append(cpus, s)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("parse softnet_stat: %w", err)
	}
	if len(cpus) == 0 {
		return nil, errors.New("parse softnet_stat: no CPU")
	}
	return cpus, nil
}

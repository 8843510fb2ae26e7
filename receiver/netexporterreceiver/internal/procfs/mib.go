// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package procfs parses the files of /proc that kernels without the collection pass are read from.
package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
)

// MIB holds the counters of one network namespace: "Tcp.OutRsts", "TcpExt.ListenDrops",
// "Udp6NoPorts". Gauges that may be negative (Tcp.MaxConn) keep their bits.
type MIB map[string]uint64

// ReadMIB reads net/snmp, net/netstat and net/snmp6 below proc, which is /proc/<pid>. Kernels
// without IPv6 have no snmp6.
func ReadMIB(proc fs.FS) (MIB, error) {
	m := MIB{}
	for _, file := range []struct {
		path     string
		parse    func(MIB, io.Reader) error
		optional bool
	}{
		{"net/snmp", MIB.parseTable, false},
		{"net/netstat", MIB.parseTable, false},
		{"net/snmp6", MIB.parseList, true},
	} {
		f, err := proc.Open(file.path)
		if file.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = file.parse(m, f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", file.path, err)
		}
	}
	return m, nil
}

// parseTable parses pairs of lines, "Tcp: InSegs OutRsts" and "Tcp: 17 4", as snmp_seq_show() and
// netstat_seq_show() of net/ipv4/proc.c print them.
func (m MIB) parseTable(r io.Reader) error {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		group, rest, ok := bytes.Cut(scanner.Bytes(), []byte(": "))
		if !ok {
			return fmt.Errorf("malformed line %q", scanner.Bytes())
		}
		prefix := string(group) + "."
		names := bytes.Fields(bytes.Clone(rest))
		if !scanner.Scan() {
			return fmt.Errorf("no values for %s", group)
		}
		valueGroup, rest, _ := bytes.Cut(scanner.Bytes(), []byte(": "))
		values := bytes.Fields(rest)
		if !bytes.Equal(append(valueGroup[:len(valueGroup):len(valueGroup)], '.'), []byte(prefix)) || len(values) != len(names) {
			return fmt.Errorf("%d names and %d values for %s", len(names), len(values), prefix[:len(prefix)-1])
		}
		for i, name := range names {
			v, err := parseValue(values[i])
			if err != nil {
				return fmt.Errorf("%s%s: %w", prefix, name, err)
			}
			m[prefix+string(name)] = v
		}
	}
	return scanner.Err()
}

// parseList parses lines "Udp6NoPorts  3", as snmp6_seq_show_item() of net/ipv6/proc.c prints them.
func (m MIB) parseList(r io.Reader) error {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		fields := bytes.Fields(scanner.Bytes())
		if len(fields) != 2 {
			return fmt.Errorf("malformed line %q", scanner.Bytes())
		}
		v, err := parseValue(fields[1])
		if err != nil {
			return fmt.Errorf("%s: %w", fields[0], err)
		}
		m[string(fields[0])] = v
	}
	return scanner.Err()
}

func parseValue(field []byte) (uint64, error) {
	if len(field) > 0 && field[0] == '-' {
		v, err := strconv.ParseInt(string(field), 10, 64)
		return uint64(v), err
	}
	return strconv.ParseUint(string(field), 10, 64)
}

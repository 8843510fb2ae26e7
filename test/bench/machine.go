// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where it was measured.
type machine struct {
	Kernel, CPU, Go string
	CPUs            int
	Memory          uint64 // B
	Buckets         string // of the hash table of TCP sockets
}

func readMachine() (machine, error) {
	m := machine{CPU: "unknown", CPUs: runtime.NumCPU(), Go: runtime.Version(), Buckets: "unknown"}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, fmt.Errorf("uname: %w", err)
	}
	m.Kernel = fmt.Sprintf("Linux %s %s", unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Machine[:]))
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, fmt.Errorf("sysinfo: %w", err)
	}
	m.Memory = info.Totalram * uint64(info.Unit)
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(raw), "model name\t: "); ok {
			m.CPU, _, _ = strings.Cut(rest, "\n")
		}
	}
	// Since 6.1.
	if raw, err := os.ReadFile("/proc/sys/net/ipv4/tcp_ehash_entries"); err == nil {
		m.Buckets = strings.TrimSpace(string(raw))
	}
	return m, nil
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package probes declares the probes, one file each.
package probes

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

//go:generate go run github.com/netexporter/netexporter/internal/cmd/probelist

type recorder = func(*metadata.MetricsBuilder, pcommon.Timestamp, int64)

// tcpMIB declares a counter of RFC 4022 by its names in the kernel's enum and in /proc/net/snmp.
func tcpMIB(mib, proc string, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{MIB: "TCP_MIB_" + mib, Proc: []string{"Tcp." + proc}}, Record: record}
}

// linuxMIB declares a counter of Linux's own by its names in the kernel's enum and in /proc/net/netstat.
func linuxMIB(mib, proc string, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{MIB: "LINUX_MIB_" + mib, Proc: []string{"TcpExt." + proc}}, Record: record}
}

// udpMIB declares a counter of RFC 4113, the sum of IPv4 and IPv6, by its names in the kernel's enum
// and in /proc/net/snmp and snmp6.
func udpMIB(mib, proc string, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{MIB: "UDP_MIB_" + mib, Proc: []string{"Udp." + proc, "Udp6" + proc}}, Record: record}
}

// ofSockets declares a counter of the TCP sockets of a namespace.
func ofSockets(of func(*netns.Sockets) uint64, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{Sockets: of}, Record: record}
}

// ofListeners declares a counter of the listening TCP sockets of a namespace.
func ofListeners(of func(*netns.Listeners) uint64, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{Listeners: of}, Record: record}
}

// ofLinks declares a counter of the interfaces of a namespace.
func ofLinks(of func(*nslink.LinkStats) uint64, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{Links: of}, Record: record}
}

// ofConntrack declares a counter of the connection tracking of a namespace.
func ofConntrack(of func(*nslink.ConntrackStats) uint64, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{Conntrack: of}, Record: record}
}

// ofTasks declares a counter of the processes in a namespace.
func ofTasks(of func(*netns.Usage) uint64, record ...recorder) probe.Counter {
	return probe.Counter{Counter: netns.Counter{Tasks: of}, Record: record}
}

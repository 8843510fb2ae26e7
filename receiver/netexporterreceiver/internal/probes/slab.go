// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"io/fs"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/procfs"
)

// Slab describes the slab cache of TCP sockets, which all namespaces share: it is a fact of the node.
func Slab() probe.Definition {
	return probe.Definition{Name: "slab", Node: func() probe.NodeReader { return readSlab }}
}

// tcpCache is the name of tcp_prot's cache (net/ipv4/tcp_ipv4.c). IPv6 has another one, TCPv6.
const tcpCache = "TCP"

type slab struct{ procfs.Slab }

func readSlab(root fs.FS) (probe.NodeSnapshot, error) {
	proc, err := fs.Sub(root, "proc")
	if err != nil {
		return nil, err
	}
	sys, err := fs.Sub(root, "sys")
	if err != nil {
		return nil, err
	}
	s, err := procfs.ReadSlab(proc, sys, tcpCache)
	return slab{s}, err
}

func (s slab) RecordHost(mb *metadata.MetricsBuilder, at pcommon.Timestamp) {
	mb.RecordInspectorPodSlabtcpslabobjactiveDataPoint(at, int64(s.ActiveObjects))
	mb.RecordInspectorPodSlabtcpslabobjnumDataPoint(at, int64(s.Objects))
	mb.RecordInspectorPodSlabtcpslabobjperslabDataPoint(at, int64(s.ObjectsPerSlab))
	mb.RecordInspectorPodSlabtcpslabobjsizeDataPoint(at, int64(s.ObjectSize))
	mb.RecordInspectorPodSlabtcpslabpagesperslabDataPoint(at, int64(s.PagesPerSlab))
}

func (s slab) RecordNode(mb *metadata.MetricsBuilder, at pcommon.Timestamp) {
	mb.RecordInspectorNodeSlabtcpslabobjactiveDataPoint(at, int64(s.ActiveObjects))
	mb.RecordInspectorNodeSlabtcpslabobjnumDataPoint(at, int64(s.Objects))
	mb.RecordInspectorNodeSlabtcpslabobjperslabDataPoint(at, int64(s.ObjectsPerSlab))
	mb.RecordInspectorNodeSlabtcpslabobjsizeDataPoint(at, int64(s.ObjectSize))
	mb.RecordInspectorNodeSlabtcpslabpagesperslabDataPoint(at, int64(s.PagesPerSlab))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// NetDev sums up the interfaces of a namespace but loopback.
func NetDev() probe.Definition {
	return probe.Definition{
		Name: "netdev",
		Counters: []probe.Counter{
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.RxBytes }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevrxbytesDataPoint),
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.RxDropped }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevrxdroppedDataPoint),
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.RxErrors }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevrxerrorsDataPoint),
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.RxPackets }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevrxpacketsDataPoint),
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.TxBytes }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevtxbytesDataPoint),
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.TxDropped }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevtxdroppedDataPoint),
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.TxErrors }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevtxerrorsDataPoint),
			ofLinks(func(s *nslink.LinkStats) uint64 { return s.TxPackets }, (*metadata.MetricsBuilder).RecordInspectorPodNetdevtxpacketsDataPoint),
		},
	}
}

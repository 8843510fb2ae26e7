// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// UDP counts what RFC 4113 (UDP-MIB) has of a namespace and what Linux adds, IPv4 and IPv6 together.
func UDP() probe.Definition {
	return probe.Definition{
		Name: "udp",
		Counters: []probe.Counter{
			udpMIB("CSUMERRORS", "InCsumErrors", (*metadata.MetricsBuilder).RecordInspectorPodUdpincsumerrorsDataPoint),
			udpMIB("IGNOREDMULTI", "IgnoredMulti", (*metadata.MetricsBuilder).RecordInspectorPodUdpignoredmultiDataPoint),
			udpMIB("INDATAGRAMS", "InDatagrams", (*metadata.MetricsBuilder).RecordInspectorPodUdpindatagramsDataPoint),
			udpMIB("INERRORS", "InErrors", (*metadata.MetricsBuilder).RecordInspectorPodUdpinerrorsDataPoint),
			udpMIB("NOPORTS", "NoPorts", (*metadata.MetricsBuilder).RecordInspectorPodUdpnoportsDataPoint),
			udpMIB("OUTDATAGRAMS", "OutDatagrams", (*metadata.MetricsBuilder).RecordInspectorPodUdpoutdatagramsDataPoint),
			udpMIB("RCVBUFERRORS", "RcvbufErrors", (*metadata.MetricsBuilder).RecordInspectorPodUdprcvbuferrorsDataPoint),
			udpMIB("SNDBUFERRORS", "SndbufErrors", (*metadata.MetricsBuilder).RecordInspectorPodUdpsndbuferrorsDataPoint),
		},
	}
}

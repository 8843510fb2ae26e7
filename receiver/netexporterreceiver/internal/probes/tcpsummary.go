// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// TCPSummary sums up the TCP sockets of a namespace: how many are established and in TIME_WAIT, and
// the bytes in their queues.
func TCPSummary() probe.Definition {
	return probe.Definition{
		Name: "tcpsummary",
		Counters: []probe.Counter{
			ofSockets(func(s *netns.Sockets) uint64 { return s.Established }, (*metadata.MetricsBuilder).RecordInspectorPodTcpsummarytcpestablishedconnDataPoint),
			ofSockets(func(s *netns.Sockets) uint64 { return s.RxQueue }, (*metadata.MetricsBuilder).RecordInspectorPodTcpsummarytcprxqueueDataPoint),
			ofSockets(func(s *netns.Sockets) uint64 { return s.TimeWait }, (*metadata.MetricsBuilder).RecordInspectorPodTcpsummarytcptimewaitconnDataPoint),
			ofSockets(func(s *netns.Sockets) uint64 { return s.TxQueue }, (*metadata.MetricsBuilder).RecordInspectorPodTcpsummarytcptxqueueDataPoint),
		},
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// TCPListen sums up the listening TCP sockets of a namespace: how many connections wait to be
// accepted, how many may, and how many sockets take no more.
func TCPListen() probe.Definition {
	return probe.Definition{
		Name: "tcplisten",
		Counters: []probe.Counter{
			ofListeners(func(l *netns.Listeners) uint64 { return l.AcceptQueue }, (*metadata.MetricsBuilder).RecordInspectorPodTcplistenacceptqueueDataPoint),
			ofListeners(func(l *netns.Listeners) uint64 { return l.Full }, (*metadata.MetricsBuilder).RecordInspectorPodTcplistenacceptqueuefullDataPoint),
			ofListeners(func(l *netns.Listeners) uint64 { return l.Limit }, (*metadata.MetricsBuilder).RecordInspectorPodTcplistenacceptqueuelimitDataPoint),
			ofListeners(func(l *netns.Listeners) uint64 { return l.Sockets }, (*metadata.MetricsBuilder).RecordInspectorPodTcplistensocketsDataPoint),
		},
	}
}

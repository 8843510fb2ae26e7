// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// Conntrack counts what the connection tracking of a namespace does and holds.
func Conntrack() probe.Definition {
	return probe.Definition{
		Name: "conntrack",
		Counters: []probe.Counter{
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.Drop }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackdropDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.EarlyDrop }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackearlydropDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.Entries }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackentriesDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.Found }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackfoundDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.Ignore }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackignoreDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.Insert }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackinsertDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.InsertFailed }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackinsertfailedDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.Invalid }, (*metadata.MetricsBuilder).RecordInspectorPodConntrackinvalidDataPoint),
			ofConntrack(func(s *nslink.ConntrackStats) uint64 { return s.SearchRestart }, (*metadata.MetricsBuilder).RecordInspectorPodConntracksearchrestartDataPoint),
		},
	}
}

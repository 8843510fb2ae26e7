// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// IO counts what the processes in a namespace read and write. It goes on where a process ends; what
// that did after the last pass is not in it.
func IO() probe.Definition {
	return probe.Definition{
		Name: "io",
		Counters: []probe.Counter{
			ofTasks(func(u *netns.Usage) uint64 { return u.IO.ReadBytes }, (*metadata.MetricsBuilder).RecordInspectorPodIoioreadbytesDataPoint),
			ofTasks(func(u *netns.Usage) uint64 { return u.IO.ReadCalls }, (*metadata.MetricsBuilder).RecordInspectorPodIoioreadsyscallDataPoint),
			ofTasks(func(u *netns.Usage) uint64 { return u.IO.WriteBytes },
				(*metadata.MetricsBuilder).RecordInspectorPodIoiowritebyresDataPoint,
				(*metadata.MetricsBuilder).RecordInspectorPodIoiowritebytesDataPoint),
			ofTasks(func(u *netns.Usage) uint64 { return u.IO.WriteCalls }, (*metadata.MetricsBuilder).RecordInspectorPodIoiowritesyscallDataPoint),
		},
	}
}

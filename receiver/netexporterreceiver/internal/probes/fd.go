// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// FD counts the file descriptors that the processes in a namespace have open.
func FD() probe.Definition {
	return probe.Definition{
		Name: "fd",
		Counters: []probe.Counter{
			ofTasks(func(u *netns.Usage) uint64 { return u.FDs }, (*metadata.MetricsBuilder).RecordInspectorPodFdopenfdDataPoint),
			ofTasks(func(u *netns.Usage) uint64 { return u.Sockets }, (*metadata.MetricsBuilder).RecordInspectorPodFdopensocketDataPoint),
		},
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"io/fs"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/monotonic"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/procfs"
)

// Softnet counts what the CPUs did with the packets in their backlogs. The kernel keeps it by CPU,
// not by namespace: it is a fact of the node.
func Softnet() probe.Definition {
	return probe.Definition{Name: "softnet", Node: newSoftnetReader}
}

type softnet struct{ processed, dropped, timeSqueeze uint64 }

func newSoftnetReader() probe.NodeReader {
	var counted monotonic.PerCPU
	return func(root fs.FS) (probe.NodeSnapshot, error) {
		f, err := root.Open("proc/net/softnet_stat")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cpus, err := procfs.ParseSoftnet(f)
		if err != nil {
			return nil, err
		}
		for _, c := range cpus {
			counted.Update(c.CPU, []uint32{c.Processed, c.Dropped, c.TimeSqueeze})
		}
		return softnet{counted.Sum(0), counted.Sum(1), counted.Sum(2)}, nil
	}
}

func (s softnet) RecordHost(mb *metadata.MetricsBuilder, at pcommon.Timestamp) {
	mb.RecordInspectorPodSoftnetdroppedDataPoint(at, int64(s.dropped))
	mb.RecordInspectorPodSoftnetprocessedDataPoint(at, int64(s.processed))
	mb.RecordInspectorPodSoftnettimesqueezeDataPoint(at, int64(s.timeSqueeze))
}

func (s softnet) RecordNode(mb *metadata.MetricsBuilder, at pcommon.Timestamp) {
	mb.RecordInspectorNodeSoftnetdroppedDataPoint(at, int64(s.dropped))
	mb.RecordInspectorNodeSoftnetprocessedDataPoint(at, int64(s.processed))
	mb.RecordInspectorNodeSoftnettimesqueezeDataPoint(at, int64(s.timeSqueeze))
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"fmt"
	"io/fs"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/procfs"
)

// Softnet counts what the CPUs did with the packets in their backlogs. The kernel keeps it by CPU,
// not by namespace: it is a fact of the node.
func Softnet() probe.Definition {
	return probe.Definition{Name: "softnet", Node: readSoftnet}
}

type softnet struct{ procfs.Softnet }

func readSoftnet(root fs.FS) (probe.NodeSnapshot, error) {
	f, err := root.Open("proc/net/softnet_stat")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := procfs.ParseSoftnet(f)
	if err != nil {
		return nil, fmt.Errorf("parse softnet_stat: %w", err)
	}
	return softnet{s}, nil
}

func (s softnet) RecordHost(mb *metadata.MetricsBuilder, at pcommon.Timestamp) {
	mb.RecordInspectorPodSoftnetdroppedDataPoint(at, int64(s.Dropped))
	mb.RecordInspectorPodSoftnetprocessedDataPoint(at, int64(s.Processed))
	mb.RecordInspectorPodSoftnettimesqueezeDataPoint(at, int64(s.TimeSqueeze))
}

func (s softnet) RecordNode(mb *metadata.MetricsBuilder, at pcommon.Timestamp) {
	mb.RecordInspectorNodeSoftnetdroppedDataPoint(at, int64(s.Dropped))
	mb.RecordInspectorNodeSoftnetprocessedDataPoint(at, int64(s.Processed))
	mb.RecordInspectorNodeSoftnettimesqueezeDataPoint(at, int64(s.TimeSqueeze))
}

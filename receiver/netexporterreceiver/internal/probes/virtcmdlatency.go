// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// VirtCmdLatency measures how long the hypervisor takes for commands that drivers of virtio-net devices
// give it. Their devices belong to the node: all that it says is of the node.
func VirtCmdLatency() probe.Definition {
	return probe.Definition{
		Name:       "virtcmdlatency",
		OptIn:      true,
		Spec:       bpf.LoadVirtcmdlatency,
		Threshold:  100 * time.Millisecond,
		Histograms: []probe.Histogram{virtCommands()},
		Collect:    collectVirtcmdlatency,
		Decode:     decodeVirtcmdlatency,
		Record:     recordVirtcmdlatency,
	}
}

func virtCommands() probe.Histogram {
	return probe.Histogram{
		Name:        "inspector_node_virtsendcmdlat",
		Documented:  "inspector_pod_virtsendcmdlat",
		Description: "Duration of virtio-net control commands.",
	}
}

// virtCommand names a command by class and number as the virtio specification does (5.1.6.5 Control
// Virtqueue), or by its numbers.
func virtCommand(class, cmd uint32) string {
	switch [2]uint32{class, cmd} {
	case [2]uint32{0, 0}:
		return "RX_PROMISC"
	case [2]uint32{0, 1}:
		return "RX_ALLMULTI"
	case [2]uint32{0, 2}:
		return "RX_ALLUNI"
	case [2]uint32{0, 3}:
		return "RX_NOMULTI"
	case [2]uint32{0, 4}:
		return "RX_NOUNI"
	case [2]uint32{0, 5}:
		return "RX_NOBCAST"
	case [2]uint32{1, 0}:
		return "MAC_TABLE_SET"
	case [2]uint32{1, 1}:
		return "MAC_ADDR_SET"
	case [2]uint32{2, 0}:
		return "VLAN_ADD"
	case [2]uint32{2, 1}:
		return "VLAN_DEL"
	case [2]uint32{3, 0}:
		return "ANNOUNCE_ACK"
	case [2]uint32{4, 0}:
		return "MQ_VQ_PAIRS_SET"
	case [2]uint32{4, 1}:
		return "MQ_RSS_CONFIG"
	case [2]uint32{4, 2}:
		return "MQ_HASH_CONFIG"
	case [2]uint32{5, 0}:
		return "GUEST_OFFLOADS_SET"
	case [2]uint32{6, 0}:
		return "NOTF_COAL_TX_SET"
	case [2]uint32{6, 1}:
		return "NOTF_COAL_RX_SET"
	case [2]uint32{6, 2}:
		return "NOTF_COAL_VQ_SET"
	case [2]uint32{6, 3}:
		return "NOTF_COAL_VQ_GET"
	case [2]uint32{8, 0}:
		return "STATS_QUERY"
	case [2]uint32{8, 1}:
		return "STATS_GET"
	}
	return fmt.Sprintf("%d/%d", class, cmd)
}

type virtCounts struct{ probe.Latencies }

func collectVirtcmdlatency(maps probe.Maps, _ probe.Alive) (probe.Snapshot, error) {
	cpus, err := probe.ReadPerCPU[bpf.VirtcmdlatencyHistogram](maps[bpf.VirtcmdlatencyMapLatencies])
	var c virtCounts
	for i := range cpus {
		c.Add((*bpf.Histogram)(&cpus[i]))
	}
	return &c, err
}

func (c *virtCounts) Namespaces() []netns.ID { return []netns.ID{{}} }

func (c *virtCounts) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, _ *probe.Names) {
	if id != (netns.ID{}) {
		return
	}
	h := virtCommands()
	mb.RecordHistogram(at, &h, &c.Latencies, "")
	mb.RecordInspectorPodVirtcmdlatency100msDataPoint(at, int64(c.Slow))
}

func decodeVirtcmdlatency(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.VirtcmdlatencyEvent](raw)
	if err != nil {
		return err
	}
	if rec.Class > 0xff || rec.Cmd > 0xff {
		return fmt.Errorf("decode virtcmdlatency: command %d of class %d", rec.Cmd, rec.Class)
	}
	*e = probe.Event{Header: rec.Hdr, Latency: rec.Latency, Type: rec.Class, Section: rec.Cmd}
	return nil
}

func recordVirtcmdlatency(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, _ *probe.Names) {
	lb.RecordVIRTCMDEXECUTEEvent(context.Background(), at, int64(e.Header.Cpu), int64(e.Latency.Ns), "VIRTCMDEXECUTE",
		int64(e.Header.Suppressed), int64(e.Latency.Pid), e.Comm(), virtCommand(e.Type, e.Section))
}

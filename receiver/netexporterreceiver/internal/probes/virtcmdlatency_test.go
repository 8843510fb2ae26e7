// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"testing"
	"unsafe"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

func TestVirtCommand(t *testing.T) {
	for want, c := range map[string][2]uint32{
		"RX_PROMISC": {0, 0}, "MAC_ADDR_SET": {1, 1}, "MQ_VQ_PAIRS_SET": {4, 0}, "STATS_GET": {8, 1}, "7/3": {7, 3}, "0/9": {0, 9},
	} {
		if got := virtCommand(c[0], c[1]); got != want {
			t.Errorf("command %v is %q, want %q", c, got, want)
		}
	}
}

func TestRecordVirtCommands(t *testing.T) {
	var c virtCounts
	c.Add(&bpf.Histogram{Slow: 1, SumNs: 3, Buckets: [27]uint64{18: 1}})
	c.Add(&bpf.Histogram{Slow: 2, SumNs: 4, Buckets: [27]uint64{18: 2, 0: 7}})
	expect(t, recorded(&c, netns.ID{}), map[string]int64{
		"inspector_pod_virtcmdlatency100ms":   3,
		"inspector_pod_virtsendcmdlat_count":  10,
		"inspector_node_virtsendcmdlat_count": 10,
	})
	expect(t, recorded(&c, netns.ID{Cookie: 1, Inode: 1}), map[string]int64{})
}

func FuzzDecodeVirtcmdlatency(f *testing.F) {
	record := make([]byte, unsafe.Sizeof(bpf.VirtcmdlatencyEvent{}))
	f.Add(record)
	f.Add(record[:10])
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if decodeVirtcmdlatency(raw, &e) == nil && (e.Type > 0xff || e.Section > 0xff || virtCommand(e.Type, e.Section) == "") {
			t.Fatalf("decoded %+v", e)
		}
	})
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// Members of the kernel's enum of soft interrupts (include/linux/interrupt.h).
const (
	netTXSoftirq = "NET_TX_SOFTIRQ"
	netRXSoftirq = "NET_RX_SOFTIRQ"
)

// NetSoftirq measures how long soft interrupts of the network wait and run. They belong to CPUs, not to
// namespaces: all that it says is of the node.
func NetSoftirq() probe.Definition {
	return probe.Definition{
		Name:       "net_softirq",
		OptIn:      true,
		Spec:       bpf.LoadNetSoftirq,
		Constants:  []string{netTXSoftirq, netRXSoftirq},
		Threshold:  10 * time.Millisecond,
		Ticks:      true,
		Histograms: []probe.Histogram{softirqSched(), softirqExecute()},
		Tune:       tuneNetSoftirq,
		Collect:    collectNetSoftirq,
		Decode:     decodeNetSoftirq,
		Record:     recordNetSoftirq,
	}
}

func softirqSched() probe.Histogram {
	return probe.Histogram{
		Name:        "inspector_pod_netsoftirqsched",
		Documented:  "inspector_pod_netsoftirqshed",
		Description: "Time from raising a network soft interrupt until it begins to run.",
		Attribute:   "vector",
	}
}

func softirqExecute() probe.Histogram {
	return probe.Histogram{
		Name:        "inspector_pod_netsoftirq",
		Description: "Time a network soft interrupt ran.",
		Attribute:   "vector",
	}
}

func tuneNetSoftirq(spec *ebpf.CollectionSpec, n *probe.Names, _ probe.Config) error {
	tx, errTX := n.Constant(netTXSoftirq)
	rx, errRX := n.Constant(netRXSoftirq)
	return errors.Join(errTX, errRX,
		spec.Variables[bpf.NetSoftirqVarNetTxNr].Set(uint32(tx)),
		spec.Variables[bpf.NetSoftirqVarNetRxNr].Set(uint32(rx)))
}

// softirqVector names a vector, empty if there is no such.
func softirqVector(v uint32) string {
	switch bpf.NetSoftirqSoftirqVector(v) {
	case bpf.NetSoftirqSoftirqVectorSOFTIRQ_VECTOR_NET_TX:
		return "NET_TX"
	case bpf.NetSoftirqSoftirqVectorSOFTIRQ_VECTOR_NET_RX:
		return "NET_RX"
	}
	return ""
}

// softirqCounts is what a vector did on all CPUs.
type softirqCounts struct{ sched, execute probe.Latencies }

type softirqs [bpf.NetSoftirqSoftirqVectorSOFTIRQ_VECTORS]softirqCounts

func collectNetSoftirq(maps probe.Maps, _ probe.Alive) (probe.Snapshot, error) {
	cpus, err := probe.ReadPerCPU[bpf.NetSoftirqSoftirqs](maps[bpf.NetSoftirqMapSoftirqs])
	return sumSoftirqs(cpus), err
}

func sumSoftirqs(cpus []bpf.NetSoftirqSoftirqs) *softirqs {
	var s softirqs
	for i := range cpus {
		for v := range s {
			in := &cpus[i].Vectors[v]
			s[v].sched.Add((*bpf.Histogram)(&in.Sched))
			s[v].execute.Add((*bpf.Histogram)(&in.Execute))
		}
	}
	return &s
}

func (s *softirqs) Namespaces() []netns.ID { return []netns.ID{{}} }

func (s *softirqs) Record(mb *probe.MetricsBuilder, at pcommon.Timestamp, id netns.ID, _ *probe.Names) {
	if id != (netns.ID{}) {
		return
	}
	sched, execute := softirqSched(), softirqExecute()
	for i := range s {
		v, vector := &s[i], softirqVector(uint32(i))
		mb.RecordInspectorPodNetSoftirqSchedslow100msDataPoint(at, int64(v.sched.Slow), vector)
		mb.RecordInspectorPodNetSoftirqExecuteslow100msDataPoint(at, int64(v.execute.Slow), vector)
		mb.RecordInspectorPodNetSoftirqExcuteslow100msDataPoint(at, int64(v.execute.Slow), vector)
		mb.RecordHistogram(at, &sched, &v.sched, vector)
		mb.RecordHistogram(at, &execute, &v.execute, vector)
	}
}

func decodeNetSoftirq(raw []byte, e *probe.Event) error {
	rec, err := probe.Decode[bpf.NetSoftirqEvent](raw)
	if err != nil {
		return err
	}
	switch bpf.NetSoftirqSoftirqType(rec.Type) {
	case bpf.NetSoftirqSoftirqTypeSOFTIRQ_TYPE_SCHED, bpf.NetSoftirqSoftirqTypeSOFTIRQ_TYPE_EXECUTE:
	default:
		return fmt.Errorf("decode net_softirq: unknown type %d", rec.Type)
	}
	if softirqVector(rec.Vector) == "" {
		return fmt.Errorf("decode net_softirq: unknown vector %d", rec.Vector)
	}
	*e = probe.Event{Header: rec.Hdr, Type: rec.Type, Latency: rec.Latency, Section: rec.Vector}
	return nil
}

func recordNetSoftirq(lb *metadata.LogsBuilder, at pcommon.Timestamp, e *probe.Event, _ *probe.Names) {
	name, record := "NETSOFTIRQ_SCHED_SLOW", (*metadata.LogsBuilder).RecordNETSOFTIRQSCHEDSLOWEvent
	if bpf.NetSoftirqSoftirqType(e.Type) == bpf.NetSoftirqSoftirqTypeSOFTIRQ_TYPE_EXECUTE {
		name, record = "NETSOFTIRQ_EXECUTE_SLOW", (*metadata.LogsBuilder).RecordNETSOFTIRQEXECUTESLOWEvent
	}
	record(lb, context.Background(), at, int64(e.Header.Cpu), int64(e.Latency.Ns), name,
		int64(e.Header.Suppressed), int64(e.Latency.Pid), softirqVector(e.Section), e.Comm())
}

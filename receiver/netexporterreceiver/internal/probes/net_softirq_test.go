// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

const (
	vectorTX = bpf.NetSoftirqSoftirqVectorSOFTIRQ_VECTOR_NET_TX
	vectorRX = bpf.NetSoftirqSoftirqVectorSOFTIRQ_VECTOR_NET_RX
)

// softirqRig runs the programs of net_softirq, attached to nothing, on the first CPU: what they do to
// its record is what the test made them do.
type softirqRig struct {
	*ebpf.Collection
	events *ringbuf.Reader
	nr     map[bpf.NetSoftirqSoftirqVector]uint64
}

func newSoftirqRig(t *testing.T, full bool) *softirqRig {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	d := NetSoftirq()
	k, err := kernel.Open("/", kernel.Query{Prefixes: d.Constants})
	if errors.Is(err, kernel.ErrNoBTF) {
		t.Skip("no BTF, no soft interrupts")
	}
	require.NoError(t, err)
	n := probe.NewNames(k, nil, []probe.Definition{d})
	spec, err := d.Spec()
	require.NoError(t, err)
	require.NoError(t, d.Tune(spec, n, probe.DefaultConfig()))
	tick, err := kernel.Tick()
	require.NoError(t, err)
	require.NoError(t, spec.Variables[bpf.NetSoftirqVarTickNs].Set(uint64(tick)))
	require.NoError(t, spec.Variables[bpf.NetSoftirqVarFullHistograms].Set(full))
	coll, err := ebpf.NewCollection(spec)
	require.NoError(t, err)
	t.Cleanup(coll.Close)
	r := &softirqRig{Collection: coll, nr: map[bpf.NetSoftirqSoftirqVector]uint64{}}
	r.nr[vectorTX], err = n.Constant(netTXSoftirq)
	require.NoError(t, err)
	r.nr[vectorRX], err = n.Constant(netRXSoftirq)
	require.NoError(t, err)
	r.events, err = ringbuf.NewReader(coll.Maps[bpf.NetSoftirqMapEvents])
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.events.Close()) })
	return r
}

// run runs a program as if its tracepoint had been hit for a vector.
func (r *softirqRig) run(t *testing.T, program string, nr uint64) {
	t.Helper()
	const onCPU = 1 // BPF_F_TEST_RUN_ON_CPU, include/uapi/linux/bpf.h
	_, err := r.Programs[program].Run(&ebpf.RunOptions{Context: [3]uint64{nr}, Flags: onCPU, CPU: 0})
	require.NoError(t, err)
}

func (r *softirqRig) raise(t *testing.T, nr uint64) {
	r.run(t, bpf.NetSoftirqProgSoftirqRawTpRaise, nr)
}

func (r *softirqRig) enter(t *testing.T, nr uint64) {
	r.run(t, bpf.NetSoftirqProgSoftirqRawTpEntry, nr)
}
func (r *softirqRig) exit(t *testing.T, nr uint64) { r.run(t, bpf.NetSoftirqProgSoftirqRawTpExit, nr) }

// records returns what the CPUs know; set gives all CPUs the record of the first.
func (r *softirqRig) records(t *testing.T) []bpf.NetSoftirqSoftirqs {
	records, err := probe.ReadPerCPU[bpf.NetSoftirqSoftirqs](r.Maps[bpf.NetSoftirqMapSoftirqs])
	require.NoError(t, err)
	return records
}

func (r *softirqRig) set(t *testing.T, records []bpf.NetSoftirqSoftirqs) {
	require.NoError(t, r.Maps[bpf.NetSoftirqMapSoftirqs].Put(uint32(0), records))
}

// event returns the next event, and fails if there is none.
func (r *softirqRig) event(t *testing.T) (e probe.Event) {
	t.Helper()
	r.events.SetDeadline(time.Unix(1, 0)) // what there is
	rec, err := r.events.Read()
	require.NoError(t, err)
	require.NoError(t, decodeNetSoftirq(rec.RawSample, &e))
	return e
}

func (r *softirqRig) noEvent(t *testing.T) {
	t.Helper()
	r.events.SetDeadline(time.Unix(1, 0))
	_, err := r.events.Read()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func sinceBoot(t *testing.T) uint64 {
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
	return uint64(ts.Nano())
}

// bucketOf returns the index of the bucket whose bounds a latency is within, as they are documented.
func bucketOf(ns uint64) int {
	bound := uint64(1000)
	for i := range len(bpf.Histogram{}.Buckets) - 1 {
		if ns <= bound {
			return i
		}
		bound *= 2
	}
	return len(bpf.Histogram{}.Buckets) - 1
}

// A soft interrupt that waited or ran for long is counted as slow, in the right bucket, and is an event.
func TestNetSoftirqLatencies(t *testing.T) {
	r := newSoftirqRig(t, true)
	var want [2][2]bpf.Histogram // by vector: sched, execute
	for _, age := range []time.Duration{
		101 * time.Millisecond, 150 * time.Millisecond, time.Second, 20 * time.Second, 33 * time.Second, 34 * time.Second, time.Minute, 40 * time.Minute,
	} {
		for _, v := range []bpf.NetSoftirqSoftirqVector{vectorTX, vectorRX} {
			records := r.records(t)
			records[0].Vectors[v].Raised = sinceBoot(t) - uint64(age)
			r.set(t, records)
			r.enter(t, r.nr[v])

			records = r.records(t)
			assert.Zero(t, records[0].Vectors[v].Raised, "it waits no longer")
			assert.NotZero(t, records[0].Vectors[v].Entered)
			records[0].Vectors[v].Entered = sinceBoot(t) - uint64(age)
			r.set(t, records)
			r.exit(t, r.nr[v])

			for i, typ := range []bpf.NetSoftirqSoftirqType{bpf.NetSoftirqSoftirqTypeSOFTIRQ_TYPE_SCHED, bpf.NetSoftirqSoftirqTypeSOFTIRQ_TYPE_EXECUTE} {
				e := r.event(t)
				assert.EqualValues(t, typ, e.Type)
				assert.EqualValues(t, v, e.Section)
				assert.Zero(t, e.Header.Cpu)
				assert.GreaterOrEqual(t, e.Latency.Ns, uint64(age))
				assert.Equal(t, netns.ID{}, e.NetNS())
				h := &want[v][i]
				h.SumNs += e.Latency.Ns
				h.Slow++
				h.Buckets[bucketOf(e.Latency.Ns)]++
			}
		}
	}
	for v, cpu0 := range r.records(t)[0].Vectors {
		assert.Equal(t, want[v][0], bpf.Histogram(cpu0.Sched), softirqVector(uint32(v)))
		assert.Equal(t, want[v][1], bpf.Histogram(cpu0.Execute), softirqVector(uint32(v)))
	}
	r.noEvent(t)
}

// By the tick of the kernel, what took less than two ticks is not measured, and the rest by whole ticks.
func TestNetSoftirqTicks(t *testing.T) {
	r := newSoftirqRig(t, false)
	// On a busy machine two ticks may pass even between these.
	unmeasured := false
	for try := 0; try < 20 && !unmeasured; try++ {
		before := r.records(t)[0].Vectors[vectorRX]
		r.raise(t, r.nr[vectorRX])
		r.enter(t, r.nr[vectorRX])
		r.exit(t, r.nr[vectorRX])
		unmeasured = r.records(t)[0].Vectors[vectorRX] == before
	}
	require.True(t, unmeasured, "what takes no tick is measured")
	slow := sumSoftirqs(r.records(t))[vectorRX]

	tick, err := kernel.Tick()
	require.NoError(t, err)
	ticks := uint64(150 * time.Millisecond / tick)
	r.raise(t, r.nr[vectorRX])
	records := r.records(t)
	records[0].Vectors[vectorRX].Raised -= ticks
	r.set(t, records)
	r.enter(t, r.nr[vectorRX])
	records = r.records(t)
	records[0].Vectors[vectorRX].Entered -= ticks
	r.set(t, records)
	r.exit(t, r.nr[vectorRX])
	for _, typ := range []bpf.NetSoftirqSoftirqType{bpf.NetSoftirqSoftirqTypeSOFTIRQ_TYPE_SCHED, bpf.NetSoftirqSoftirqTypeSOFTIRQ_TYPE_EXECUTE} {
		e := r.event(t)
		assert.EqualValues(t, typ, e.Type)
		assert.GreaterOrEqual(t, e.Latency.Ns, ticks*uint64(tick))
		assert.Zero(t, e.Latency.Ns%uint64(tick))
	}
	s := sumSoftirqs(r.records(t))
	assert.EqualValues(t, 1, s[vectorRX].sched.Slow-slow.sched.Slow)
	assert.EqualValues(t, 1, s[vectorRX].execute.Slow-slow.execute.Slow)
}

// The stamp of a soft interrupt that waits is that of its first raise, and no other vector touches it.
func TestNetSoftirqRaisedAgain(t *testing.T) {
	r := newSoftirqRig(t, true)
	other := uint64(1) // TIMER_SOFTIRQ, or whatever it is
	require.NotContains(t, []uint64{r.nr[vectorRX], r.nr[vectorTX]}, other)
	r.raise(t, other)
	r.enter(t, other)
	r.exit(t, other)
	assert.Zero(t, r.records(t)[0])

	before := sinceBoot(t)
	r.raise(t, r.nr[vectorRX])
	first := r.records(t)[0].Vectors[vectorRX].Raised
	assert.GreaterOrEqual(t, first, before)
	r.raise(t, r.nr[vectorRX])
	assert.Equal(t, first, r.records(t)[0].Vectors[vectorRX].Raised)

	r.enter(t, r.nr[vectorRX])
	r.raise(t, r.nr[vectorRX]) // while it runs: for the next run
	again := r.records(t)[0].Vectors[vectorRX].Raised
	assert.Greater(t, again, first)
	r.exit(t, r.nr[vectorRX])
	assert.Equal(t, again, r.records(t)[0].Vectors[vectorRX].Raised)
	r.enter(t, r.nr[vectorRX])
	r.exit(t, r.nr[vectorRX])
	s := sumSoftirqs(r.records(t))
	assert.EqualValues(t, 2, s[vectorRX].sched.Count())
	assert.EqualValues(t, 2, s[vectorRX].execute.Count())
	assert.Zero(t, s[vectorTX])
}

// What began before the programs were attached is not counted.
func TestNetSoftirqUnseenBegin(t *testing.T) {
	r := newSoftirqRig(t, true)
	r.exit(t, r.nr[vectorRX])
	assert.Zero(t, r.records(t)[0])
	r.enter(t, r.nr[vectorRX])
	r.exit(t, r.nr[vectorRX])
	s := sumSoftirqs(r.records(t))
	assert.Zero(t, s[vectorRX].sched.Count())
	assert.EqualValues(t, 1, s[vectorRX].execute.Count())
}

func TestRecordNetSoftirq(t *testing.T) {
	cpus := make([]bpf.NetSoftirqSoftirqs, 2)
	for i := range cpus {
		cpus[i].Vectors[vectorRX].Sched.Slow = 2
		cpus[i].Vectors[vectorRX].Execute.Slow = 1
		cpus[i].Vectors[vectorTX].Execute.Buckets[3] = 5
	}
	s := sumSoftirqs(cpus)
	expect(t, recorded(s, netns.ID{}), map[string]int64{
		"inspector_pod_net_softirq_schedslow100ms|NET_RX":   4,
		"inspector_pod_net_softirq_schedslow100ms|NET_TX":   0,
		"inspector_pod_net_softirq_executeslow100ms|NET_RX": 2,
		"inspector_pod_net_softirq_executeslow100ms|NET_TX": 0,
		"inspector_pod_net_softirq_excuteslow100ms|NET_RX":  2,
		"inspector_pod_net_softirq_excuteslow100ms|NET_TX":  0,
		"inspector_pod_netsoftirqsched_count|NET_RX":        0,
		"inspector_pod_netsoftirqsched_count|NET_TX":        0,
		"inspector_pod_netsoftirqshed_count|NET_RX":         0,
		"inspector_pod_netsoftirqshed_count|NET_TX":         0,
		"inspector_pod_netsoftirq_count|NET_RX":             0,
		"inspector_pod_netsoftirq_count|NET_TX":             10,
	})
	expect(t, recorded(s, netns.ID{Cookie: 1, Inode: 1}), map[string]int64{})
}

func FuzzDecodeNetSoftirq(f *testing.F) {
	record := make([]byte, unsafe.Sizeof(bpf.NetSoftirqEvent{}))
	f.Add(record)
	f.Add(record[:10])
	valid := bytes.Clone(record)
	binary.NativeEndian.PutUint32(valid[unsafe.Offsetof(bpf.NetSoftirqEvent{}.Type):], 2)
	copy(valid[unsafe.Offsetof(bpf.NetSoftirqEvent{}.Latency)+unsafe.Offsetof(bpf.Latency{}.Comm):], "no end of the str")
	f.Add(valid)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if decodeNetSoftirq(raw, &e) != nil {
			return
		}
		if softirqVector(e.Section) == "" || e.Type != 1 && e.Type != 2 || len(e.Comm()) > 16 {
			t.Fatalf("decoded %+v", e)
		}
	})
}

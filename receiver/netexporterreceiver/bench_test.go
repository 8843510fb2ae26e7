// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
	"github.com/netexporter/netexporter/test/bench/population"
)

// The sizes that benchmarks range over.
var (
	benchNamespaces = []int{10, 100, 1000}
	benchSockets    = []int{0, 45} // of each namespace
)

// startAlone starts an agent without the receivers around it: it keeps nothing of what it emits.
func startAlone(t testing.TB) *agent {
	t.Helper()
	requireRoot(t)
	cfg := createDefaultConfig().(*Config)
	set := receivertest.NewNopSettings(metadata.Type)
	a := newAgent(set, cfg, func() {})
	require.NoError(t, a.sendEventsTo(set, consumertest.NewNop()))
	require.NoError(t, a.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, a.Shutdown(context.Background())) })
	return a
}

func collect(t testing.TB, a *agent) pmetric.Metrics {
	t.Helper()
	metrics, err := a.collect(t.Context())
	require.NoError(t, err)
	return metrics
}

// populate makes namespaces that are there until the end of the test, which waits until the agent no longer finds any.
func populate(t testing.TB, a *agent, namespaces, sockets int) *population.Population {
	t.Helper()
	p, err := population.New(namespaces, sockets)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		waitUntilGone(t, a, p)
	})
	return p
}

// waitUntilGone waits until the kernel has freed a population. It does so in the background, hundreds a second.
func waitUntilGone(t testing.TB, a *agent, p *population.Population) {
	t.Helper()
	left := len(p.Namespaces)
	for deadline := time.Now().Add(10 * nettest.Timeout); left > 0; time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "%d of %d network namespaces are still there", left, len(p.Namespaces))
		metrics, err := a.collect(context.Background())
		require.NoError(t, err)
		left = len(byID(metrics, p))
	}
}

// byID returns the series of those namespaces of a population that metrics have.
func byID(metrics pmetric.Metrics, p *population.Population) map[population.Namespace]series {
	members := map[netnsID]population.Namespace{}
	for _, n := range p.Namespaces {
		members[netnsID{n.Inode, n.Cookie}] = n
	}
	found := map[population.Namespace]series{}
	for _, rm := range metrics.ResourceMetrics().All() {
		n, ok := members[idOf(rm.Resource())]
		if !ok {
			continue
		}
		if found[n] == nil {
			found[n] = series{}
		}
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				for _, dp := range pointsOf(m).All() {
					found[n][m.Name()+labels(dp.Attributes())] = dp.IntValue()
				}
			}
		}
	}
	return found
}

// strangers returns how many namespaces a pass met that are not of a population: the host's, and what others on the
// machine have made.
func strangers(metrics pmetric.Metrics, p *population.Population) int {
	met := map[netnsID]bool{}
	for _, rm := range metrics.ResourceMetrics().All() {
		met[idOf(rm.Resource())] = true
	}
	delete(met, netnsID{}) // facts of the node
	for _, n := range p.Namespaces {
		delete(met, netnsID{n.Inode, n.Cookie})
	}
	return len(met)
}

// netnsID is what the resource of a namespace has; the cookie is 0 on kernels without it.
type netnsID struct{ inode, cookie uint64 }

func idOf(r pcommon.Resource) netnsID {
	id := netnsID{inode: inodeOf(r)}
	if cookie, ok := r.Attributes().Get("network.netns.cookie"); ok {
		id.cookie = uint64(cookie.Int())
	}
	return id
}

// cpuTime returns the time that this process has had a CPU, in the kernel or not: unlike the time on the clock, it
// hardly depends on what else the machine does.
func cpuTime(t testing.TB) time.Duration { return readClock(t, unix.CLOCK_PROCESS_CPUTIME_ID) }

func readClock(t testing.TB, clock int32) time.Duration {
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(clock, &ts))
	return time.Duration(ts.Nano())
}

// cpuTimeOf returns the CPU time of one run of f, that of the garbage collector included, in n runs. It begins without
// the garbage of what has run before.
func cpuTimeOf(t testing.TB, n int, f func()) time.Duration {
	runtime.GC()
	before := cpuTime(t)
	for range n {
		f()
	}
	return (cpuTime(t) - before) / time.Duration(n)
}

// median returns the one in the middle, the lower one of two.
func median(times []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(times))[(len(times)-1)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// forEachSize runs a benchmark for each size of a population.
func forEachSize(b *testing.B, f func(b *testing.B, namespaces, sockets int)) {
	for _, namespaces := range benchNamespaces {
		for _, sockets := range benchSockets {
			b.Run(fmt.Sprintf("namespaces=%d/sockets=%d", namespaces, sockets), func(b *testing.B) { f(b, namespaces, sockets) })
		}
	}
}

// emptyHeap frees all garbage; what is in pools is only given up the second time.
func emptyHeap() {
	runtime.GC()
	runtime.GC()
}

// BenchmarkPass is a whole collection pass: reading the kernel, conversion to OTLP.
func BenchmarkPass(b *testing.B) {
	forEachSize(b, func(b *testing.B, namespaces, sockets int) {
		a := startAlone(b)
		collect(b, a)
		var before, after runtime.MemStats
		emptyHeap()
		runtime.ReadMemStats(&before)
		p := populate(b, a, namespaces, sockets)
		metrics := settle(b, a)
		require.Len(b, byID(metrics, p), namespaces)
		points, others := metrics.DataPointCount(), strangers(metrics, p)
		emptyHeap()
		runtime.ReadMemStats(&after)
		heap := (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / float64(namespaces)

		var times []time.Duration
		runtime.ReadMemStats(&before)
		start := cpuTime(b)
		for b.Loop() {
			now := cpuTime(b)
			collect(b, a)
			times = append(times, cpuTime(b)-now)
		}
		b.ReportMetric(milliseconds(cpuTime(b)-start)/float64(len(times)), "mean-cpu-ms/pass")
		runtime.ReadMemStats(&after)
		all := float64(points) * float64(len(times))
		b.ReportMetric(milliseconds(median(times)), "cpu-ms/pass")
		b.ReportMetric(milliseconds(slices.Min(times)), "min-cpu-ms/pass")
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/all, "allocs/datapoint")
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/all, "B/datapoint")
		b.ReportMetric(heap, "heap-B/namespace")
		b.ReportMetric(float64(points), "datapoints")
		b.ReportMetric(float64(max(others, strangers(collect(b, a), p))), "other-netns")
		b.ReportMetric(0, "ns/op") // time on the clock says nothing on a busy machine
	})
}

// passesPerNaive is how many passes are measured for each naive one. The garbage collector runs in some and not in others.
const passesPerNaive = 20

// settle makes passes until those that look for owners are over: their processes are asked five times.
func settle(t testing.TB, a *agent) pmetric.Metrics {
	t.Helper()
	for range 5 {
		collect(t, a)
	}
	return collect(t, a)
}

// BenchmarkNaiveProcfs is what BenchmarkPass collects, by reading /proc for each namespace. It measures the pass too, by
// turns, so that the ratio does not depend on what else the machine did in the meantime.
func BenchmarkNaiveProcfs(b *testing.B) {
	forEachSize(b, func(b *testing.B, namespaces, sockets int) {
		a := startAlone(b)
		p := populate(b, a, namespaces, sockets)
		others := strangers(settle(b, a), p)
		measure := func() time.Duration { return cpuTimeOf(b, passesPerNaive, func() { collect(b, a) }) }
		pass := []time.Duration{measure()}
		var naive []time.Duration
		for b.Loop() {
			naive = append(naive, cpuTimeOf(b, 1, func() { naivePass(b, p) }))
			pass = append(pass, measure())
		}
		b.ReportMetric(milliseconds(median(naive)), "cpu-ms/pass")
		b.ReportMetric(milliseconds(median(pass)), "agent-cpu-ms/pass")
		b.ReportMetric(float64(median(naive))/float64(median(pass)), "times-agent")
		b.ReportMetric(float64(max(others, strangers(collect(b, a), p))), "other-netns")
		b.ReportMetric(0, "ns/op")
	})
}

// The collection pass is the reason to be of this receiver: it must not become as dear as reading /proc.
func TestPassIsCheap(t *testing.T) {
	const namespaces, sockets, rounds = 100, 45, 3
	a := startAlone(t)
	if !a.walks(t) {
		t.Skip("this kernel cannot run the collection pass (before 5.19, or without BTF): it costs as much as the naive way")
	}
	p := populate(t, a, namespaces, sockets)
	others := strangers(settle(t, a), p)
	var naive, pass []time.Duration
	for range rounds {
		naive = append(naive, cpuTimeOf(t, 1, func() { naivePass(t, p) }))
		pass = append(pass, cpuTimeOf(t, passesPerNaive, func() { collect(t, a) }))
	}
	others = max(others, strangers(collect(t, a), p))
	t.Logf("CPU time of the naive way %v, of the pass %v with %d other namespaces", naive, pass, others)
	// Of one namespace, because the pass reads those of others too.
	ratio := float64(slices.Min(naive)) / namespaces / (float64(slices.Min(pass)) / float64(namespaces+others))
	switch buckets := ehashBuckets(); {
	case buckets < 1<<18:
		// The machine has little memory, or the kernel (before 6.1) does not tell.
		t.Logf("the ratio is not checked: the kernel's table of TCP sockets, which the naive way walks for each namespace, has %d buckets", buckets)
	case raceDetector():
		assert.Greater(t, ratio, 10.0, "slowed down by the race detector")
	default:
		assert.Greater(t, ratio, 50.0)
	}
	// And both tell the same.
	want := naivePass(t, p)
	for n, got := range byID(collect(t, a), p) {
		for name, key := range map[string]string{
			"tcpsummarytcpestablishedconn": "tcp established",
			"tcpsummarytcprxqueue":         "tcp rx_queue",
			"tcpactiveopens":               "Tcp ActiveOpens",
			"fdopensocket":                 "sockets",
		} {
			assert.EqualValues(t, want[n.PID][key], got["inspector_pod_"+name], "%s of %v", name, n)
		}
		assert.EqualValues(t, 2*population.Connections(sockets), want[n.PID]["tcp established"])
	}
}

// ehashBuckets returns the size of the table of TCP sockets, 0 if the kernel does not tell.
func ehashBuckets() int {
	raw, err := os.ReadFile("/proc/sys/net/ipv4/tcp_ehash_entries")
	if err != nil {
		return 0
	}
	buckets, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	return buckets
}

// raceDetector tells whether this program was built with it: it makes Go slow, and the kernel not.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// naivePass reads what a pass collects as one would write it: for a process of each namespace the files of /proc that
// have it, and the descriptors and I/O of each process. It returns the values by process.
func naivePass(t testing.TB, p *population.Population) map[int]map[string]uint64 {
	all := make(map[int]map[string]uint64, len(p.Namespaces))
	for _, n := range p.Namespaces {
		dir := filepath.Join("/proc", strconv.Itoa(n.PID))
		values := map[string]uint64{}
		for name, parse := range map[string]func(string, map[string]uint64) error{
			"net/snmp":         naivePairs,
			"net/netstat":      naivePairs,
			"net/snmp6":        naiveLines,
			"net/tcp":          naiveTCP,
			"net/tcp6":         naiveTCP,
			"net/dev":          naiveDev,
			"net/softnet_stat": naiveSoftnet,
			"io":               naiveLines,
		} {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.NoError(t, parse(string(raw), values))
		}
		files, err := os.ReadDir(filepath.Join(dir, "fd"))
		require.NoError(t, err)
		for _, f := range files {
			target, err := os.Readlink(filepath.Join(dir, "fd", f.Name()))
			require.NoError(t, err)
			values["fds"]++
			if strings.HasPrefix(target, "socket:") {
				values["sockets"]++
			}
		}
		all[n.PID] = values
	}
	return all
}

// naivePairs parses snmp and netstat: a line of names, a line of values.
func naivePairs(text string, values map[string]uint64) error {
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		names := strings.Fields(scanner.Text())
		scanner.Scan()
		for i, field := range strings.Fields(scanner.Text())[1:] {
			v, err := strconv.ParseInt(field, 10, 64) // Tcp.MaxConn is -1
			if err != nil {
				return err
			}
			values[strings.TrimSuffix(names[0], ":")+" "+names[i+1]] = uint64(v)
		}
	}
	return scanner.Err()
}

// naiveLines parses snmp6 and io: a name and a value on each line.
func naiveLines(text string, values map[string]uint64) error {
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		v, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return err
		}
		values[strings.TrimSuffix(fields[0], ":")] = v
	}
	return scanner.Err()
}

// naiveTCP parses tcp and tcp6: a socket on each line.
func naiveTCP(text string, values map[string]uint64) error {
	scanner := bufio.NewScanner(strings.NewReader(text))
	scanner.Scan() // the heading
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		switch fields[3] {
		case "01":
			tx, rx, _ := strings.Cut(fields[4], ":")
			for name, field := range map[string]string{"tcp tx_queue": tx, "tcp rx_queue": rx} {
				v, err := strconv.ParseUint(field, 16, 64)
				if err != nil {
					return err
				}
				values[name] += v
			}
			values["tcp established"]++
		case "06":
			values["tcp time_wait"]++
		}
	}
	return scanner.Err()
}

// naiveDev parses dev: a device on each line, after two of heading.
func naiveDev(text string, values map[string]uint64) error {
	scanner := bufio.NewScanner(strings.NewReader(text))
	scanner.Scan()
	scanner.Scan()
	for scanner.Scan() {
		device, rest, _ := strings.Cut(scanner.Text(), ":")
		for i, field := range strings.Fields(rest) {
			v, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				return err
			}
			values[strings.TrimSpace(device)+" "+strconv.Itoa(i)] = v
		}
	}
	return scanner.Err()
}

// naiveSoftnet parses softnet_stat: a CPU on each line.
func naiveSoftnet(text string, values map[string]uint64) error {
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		for i, field := range strings.Fields(scanner.Text()) {
			v, err := strconv.ParseUint(field, 16, 64)
			if err != nil {
				return err
			}
			values["softnet "+strconv.Itoa(i)] += v
		}
	}
	return scanner.Err()
}

// BenchmarkSocketWalk is the walk of all TCP sockets, run by run: the kernel holds RCU throughout a run. What is measured
// is the CPU time of the system call, some microseconds more than that of the program.
func BenchmarkSocketWalk(b *testing.B) {
	benchmarkWalk(b, netns.HookSockets, func(r bpf.NetnsNetnsRecord) uint32 { return r.EhashSize })
}

// BenchmarkListenerWalk is that of the listening ones, a table of their own.
func BenchmarkListenerWalk(b *testing.B) {
	benchmarkWalk(b, netns.HookListeners, func(r bpf.NetnsNetnsRecord) uint32 { return r.Lhash2Size })
}

func benchmarkWalk(b *testing.B, hook string, buckets func(bpf.NetnsNetnsRecord) uint32) {
	a := startAlone(b)
	p := populate(b, a, 1000, 45)
	others := strangers(collect(b, a), p)
	program := ownProgram(b, hook+"__")
	next := nextBucket(b, program)
	var record bpf.NetnsNetnsRecord
	require.NoError(b, mapOf(b, ownProgram(b, "walk__"), bpf.NetnsMapRecords).Lookup(uint32(0), &record))

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var byRun [][]time.Duration // for each run of a walk its time in each walk
	var whole []time.Duration
	for b.Loop() {
		args := bpf.NetnsSocketsArgs{Hashinfo: record.Hashinfo}
		start := readClock(b, unix.CLOCK_THREAD_CPUTIME_ID)
		for i := 0; args.First < uint64(buckets(record)); i++ {
			before := readClock(b, unix.CLOCK_THREAD_CPUTIME_ID)
			status, err := program.Run(&ebpf.RunOptions{Context: &args})
			after := readClock(b, unix.CLOCK_THREAD_CPUTIME_ID)
			require.NoError(b, err)
			require.Zero(b, status)
			if i == len(byRun) {
				byRun = append(byRun, nil)
			}
			byRun[i] = append(byRun[i], after-before)
			args.First = next()
		}
		whole = append(whole, readClock(b, unix.CLOCK_THREAD_CPUTIME_ID)-start)
	}
	var medians []time.Duration
	for _, times := range byRun {
		medians = append(medians, median(times))
	}
	b.ReportMetric(float64(len(byRun)), "runs/walk")
	b.ReportMetric(milliseconds(median(whole)), "cpu-ms/walk")
	b.ReportMetric(milliseconds(median(medians)), "cpu-ms/run")
	b.ReportMetric(milliseconds(slices.Max(medians)), "longest-cpu-ms/run")
	b.ReportMetric(milliseconds(slices.Max(slices.Concat(byRun...))), "outlier-cpu-ms/run")
	b.ReportMetric(float64(others), "other-netns")
	b.ReportMetric(0, "ns/op")
}

// ownProgram returns the BPF program that this process has loaded whose name begins so.
func ownProgram(b *testing.B, prefix string) *ebpf.Program {
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	require.NoError(b, err)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // closed meanwhile
		}
		_, rest, found := strings.Cut(string(raw), "prog_id:\t")
		if !found {
			continue
		}
		id, _, _ := strings.Cut(rest, "\n")
		number, err := strconv.ParseUint(id, 10, 32)
		require.NoError(b, err)
		program, err := ebpf.NewProgramFromID(ebpf.ProgramID(number))
		require.NoError(b, err)
		b.Cleanup(func() { _ = program.Close() })
		if info, err := program.Info(); err == nil && strings.HasPrefix(info.Name, prefix) {
			return program
		}
	}
	require.Fail(b, "this process has not loaded a program "+prefix)
	return nil
}

// mapOf returns the map of that name which a program uses.
func mapOf(b *testing.B, program *ebpf.Program, name string) *ebpf.Map {
	info, err := program.Info()
	require.NoError(b, err)
	ids, ok := info.MapIDs()
	require.True(b, ok)
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		require.NoError(b, err)
		b.Cleanup(func() { _ = m.Close() })
		info, err := m.Info()
		require.NoError(b, err)
		if info.Name == name {
			return m
		}
	}
	require.Fail(b, "a program does not use the map "+name)
	return nil
}

// nextBucket returns what reads where the next run of a walk goes on.
func nextBucket(b *testing.B, program *ebpf.Program) func() uint64 {
	spec, err := bpf.LoadNetns()
	require.NoError(b, err)
	variable := spec.Variables[bpf.NetnsVarNextBucket]
	m := mapOf(b, program, variable.SectionName)
	return func() uint64 {
		raw, err := m.LookupBytes(uint32(0))
		require.NoError(b, err)
		return uint64(spec.ByteOrder.Uint32(raw[variable.Offset:]))
	}
}

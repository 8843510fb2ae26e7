// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver"
)

//go:embed overhead.md.tmpl
var overheadLayout string

const (
	// transactions of a run are some 30 ms, and of runs the lower quartile counts: what others on the machine do
	// can only add to them, and does to some.
	transactions = 1500
	runs         = 12
	// counted is how many transactions tell the time of each program.
	counted = 20_000
)

// subject is a set of probes whose cost is measured.
type subject struct {
	Name     string
	defaults bool
	probes   []string
	full     bool
}

// optIn are the probes of the packet path and of what it runs in, which are not in the default set.
func optIn() []string { return []string{"net_softirq", "socketlatency", "kernellatency", "netiftxlat"} }

func subjects() []subject {
	all := []subject{
		{Name: "nothing (the error of the method)"},
		{Name: "the default set", defaults: true},
	}
	for _, name := range optIn() {
		all = append(all, subject{Name: "`" + name + "`", probes: []string{name}})
	}
	path := optIn()[1:]
	return append(all,
		subject{Name: "the three of the packet path", probes: path},
		subject{Name: "**all**: the default set and these four", defaults: true, probes: optIn()},
		subject{Name: "the three of the packet path, `full_histograms`", probes: path, full: true},
	)
}

// start starts the receiver with the probes, in a metrics and a logs pipeline that lead nowhere. It makes no pass.
func (s subject) start() (stop func() error, err error) {
	probes := map[string]any{}
	for _, name := range s.probes {
		settings := map[string]any{"enabled": true}
		if s.full {
			settings["full_histograms"] = true
		}
		probes[name] = settings
	}
	factory := netexporterreceiver.NewFactory()
	cfg := factory.CreateDefaultConfig()
	err = confmap.NewFromStringMap(map[string]any{
		"collection_interval": "1h", "initial_delay": "1h", "default_probes": s.defaults, "probes": probes,
	}).Unmarshal(cfg)
	if err != nil {
		return nil, err
	}
	ctx, set := context.Background(), receivertest.NewNopSettings(factory.Type())
	metrics, err := factory.CreateMetrics(ctx, set, cfg, consumertest.NewNop())
	if err != nil {
		return nil, err
	}
	logs, err := factory.CreateLogs(ctx, set, cfg, consumertest.NewNop())
	if err != nil {
		return nil, err
	}
	var started []component.Component
	stop = func() (err error) {
		for _, c := range started {
			err = errors.Join(err, c.Shutdown(ctx))
		}
		return err
	}
	for _, c := range []component.Component{metrics, logs} {
		if err := c.Start(ctx, componenttest.NewNopHost()); err != nil {
			return nil, errors.Join(err, stop())
		}
		started = append(started, c)
	}
	return stop, nil
}

// overhead is what probes cost.
type overhead struct {
	Machine  machine
	Pairs    int
	Subjects []difference
	Programs []programCost
	Empty    float64 // ns that a program takes that does nothing
}

// difference is the cost of a subject: CPU time for each transaction with it, in relation to that without it.
type difference struct {
	Name            string
	Without         float64 // ns, median
	Mean, Low, High float64 // %, of all pairs, and the limits of the 95 % confidence interval
}

// programCost is the time of one kernel program.
type programCost struct {
	Probe, Name string
	Hits        float64 // a transaction
	Net         float64 // ns, without what an empty one takes
}

func measureOverhead(output string, pairs int) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it needs root: loads BPF programs, makes network namespaces")
	}
	o := overhead{Pairs: pairs}
	if o.Machine, err = readMachine(); err != nil {
		return err
	}
	r, err := newRoundTrips()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for _, s := range subjects() {
		d, err := s.compare(r, pairs)
		if err != nil {
			return fmt.Errorf("measure %s: %w", s.Name, err)
		}
		fmt.Fprintf(os.Stderr, "==> %s: %+.1f %% (%+.1f to %+.1f) of %.0f ns\n", d.Name, d.Mean, d.Low, d.High, d.Without)
		o.Subjects = append(o.Subjects, d)
	}
	if err := o.countPrograms(r); err != nil {
		return fmt.Errorf("measure single programs: %w", err)
	}
	document, err := o.document()
	if err != nil {
		return err
	}
	return os.WriteFile(output, document, 0o644)
}

// compare measures with and without the subject by turns, in changing order.
func (s subject) compare(r *roundTrips, pairs int) (difference, error) {
	with := func() (float64, error) {
		stop, err := s.start()
		if err != nil {
			return 0, err
		}
		ns, err := typical(r)
		return ns, errors.Join(err, stop())
	}
	without := func() (float64, error) { return typical(r) }
	d := difference{Name: s.Name}
	var logs, bare []float64
	for i := range pairs + 1 {
		var a, b float64
		var errA, errB error
		if i%2 == 0 {
			a, errA = without()
			b, errB = with()
		} else {
			b, errB = with()
			a, errA = without()
		}
		if err := errors.Join(errA, errB); err != nil {
			return d, err
		}
		if i == 0 {
			continue // the first pair warms up
		}
		logs, bare = append(logs, math.Log(b/a)), append(bare, a)
	}
	mean, half := interval95(logs)
	percent := func(l float64) float64 { return 100 * (math.Exp(l) - 1) }
	d.Without, d.Mean, d.Low, d.High = median(bare), percent(mean), percent(mean-half), percent(mean+half)
	return d, nil
}

// typical returns the lower quartile of some runs.
func typical(r *roundTrips) (float64, error) {
	var all []float64
	for i := range runs + 1 {
		ns, err := r.run(transactions)
		if err != nil {
			return 0, err
		}
		if i > 0 { // the first one fills caches
			all = append(all, ns)
		}
	}
	slices.Sort(all)
	return all[len(all)/4], nil
}

// interval95 returns the mean of values and half the width of its confidence interval.
func interval95(values []float64) (mean, half float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	var variance float64
	for _, v := range values {
		variance += (v - mean) * (v - mean) / (n - 1)
	}
	// Student's t for 95 % is 1.96 and a bit: this approximation is right to 1 % from 8 values up.
	t := 1.96 + 2.4/(n-1) + 3/((n-1)*(n-1))
	return mean, t * math.Sqrt(variance/n)
}

// countPrograms lets the kernel take the time of each program. It costs itself, so nothing else is measured meanwhile.
// A program that another one calls has none, so each probe runs alone.
func (o *overhead) countPrograms(r *roundTrips) (err error) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return fmt.Errorf("BPF_ENABLE_STATS: %w", err)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.RawTracepoint, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, empty.Close()) }()
	attached, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "net_dev_queue", Program: empty})
	if err != nil {
		return err
	}
	if _, err := r.run(counted); err != nil {
		return err
	}
	if err := attached.Close(); err != nil {
		return err
	}
	if _, o.Empty, err = spentIn(empty); err != nil {
		return err
	}
	for _, name := range append([]string{"packetloss", "tcpreset", "tcptwrcv"}, optIn()...) {
		if err := o.countProbe(r, name); err != nil {
			// A probe that this kernel, or this version, does not have.
			fmt.Fprintf(os.Stderr, "==> %s is left out: %v\n", name, err)
		}
	}
	return nil
}

func (o *overhead) countProbe(r *roundTrips, name string) error {
	before, err := programs()
	if err != nil {
		return err
	}
	stop, err := subject{probes: []string{name}}.start()
	if err != nil {
		return err
	}
	_, err = r.run(counted)
	var after map[ebpf.ProgramID]bool
	if err == nil {
		after, err = programs()
	}
	for _, id := range ids(after) {
		if err != nil || before[id] {
			continue
		}
		var p programCost
		if p, err = o.count(id); err == nil && p.Hits >= 0.1 {
			p.Probe = name
			o.Programs = append(o.Programs, p)
		}
	}
	return errors.Join(err, stop())
}

func ids(set map[ebpf.ProgramID]bool) []ebpf.ProgramID {
	var all []ebpf.ProgramID
	for id := range set {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

// programs returns the kernel programs that this process holds.
func programs() (map[ebpf.ProgramID]bool, error) {
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		return nil, err
	}
	all := map[ebpf.ProgramID]bool{}
	for _, file := range files {
		info, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		// Links have the ID of their program, too.
		if _, rest, ok := strings.Cut(string(info), "\nprog_id:\t"); ok {
			var id ebpf.ProgramID
			if _, err := fmt.Sscan(rest, &id); err != nil {
				return nil, fmt.Errorf("read %s: %w", file, err)
			}
			all[id] = true
		}
	}
	return all, nil
}

func (o *overhead) count(id ebpf.ProgramID) (programCost, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return programCost{}, nil
	}
	if err != nil {
		return programCost{}, err
	}
	defer func() { _ = p.Close() }()
	info, err := p.Info()
	if err != nil {
		return programCost{}, err
	}
	name := info.Name // cut off after 15 bytes
	if functions, err := info.FuncInfos(); err == nil && len(functions) > 0 {
		name = functions[0].Func.Name
	}
	hits, ns, err := spentIn(p)
	return programCost{Name: name, Hits: hits / counted, Net: ns - o.Empty}, err
}

// spentIn returns how often a program ran, and how long on average.
func spentIn(p *ebpf.Program) (hits, ns float64, err error) {
	stats, err := p.Stats()
	if err != nil || stats.RunCount == 0 {
		return 0, 0, err
	}
	return float64(stats.RunCount), float64(stats.Runtime) / float64(stats.RunCount), nil
}

// document returns the text of docs/overhead.md.
func (o overhead) document() ([]byte, error) {
	t, err := template.New("overhead.md").Funcs(template.FuncMap{
		"percent": func(v float64) string { return strings.Replace(fmt.Sprintf("%+.1f", v), "-", "−", 1) },
		"ns":      func(v float64) string { return fmt.Sprintf("%.0f", v) },
		"us":      func(v float64) string { return fmt.Sprintf("%.1f", v/1000) },
		"hits":    func(v float64) string { return fmt.Sprintf("%.1f", v) },
	}).Parse(overheadLayout)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, o); err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	return out.Bytes(), nil
}

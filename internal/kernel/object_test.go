// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// program returns a program that does nothing, or one that no kernel accepts.
func program(section string, valid bool) *ebpf.ProgramSpec {
	p := &ebpf.ProgramSpec{
		Type: ebpf.RawTracepoint, SectionName: section, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
	_, p.AttachTo, _ = strings.Cut(section, "/")
	if !valid {
		p.Instructions = asm.Instructions{asm.Mov.Reg(asm.R0, asm.R5), asm.Return()} // R5 was never set
	}
	return p
}

// load loads programs as a kernel object; their order says which variant is preferred.
func load(t *testing.T, programs map[string]*ebpf.ProgramSpec) (*Object, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	k, err := Open("/", Query{})
	if err != nil && !errors.Is(err, ErrNoBTF) {
		t.Fatal(err)
	}
	o, err := k.Load(&ebpf.CollectionSpec{Programs: programs})
	if err == nil {
		t.Cleanup(func() {
			if err := o.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return o, err
}

func TestLoadTakesTheNextVariant(t *testing.T) {
	second := program("raw_tp/sched_switch", true)
	first := program("tp_btf/sched_switch", false)
	o, err := load(t, map[string]*ebpf.ProgramSpec{"a__tp_btf": first, "a__raw_tp": second})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Hooks) != 1 || o.Hooks[0].Variant != "raw_tp" || o.Hooks[0].Err == nil {
		t.Fatalf("got %+v, want hook a by raw_tp with the reason why not by tp_btf", o.Hooks)
	}
}

func TestVariantsInTheirOrder(t *testing.T) {
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{}}
	for name, section := range map[string]string{
		"a__kprobe": "kprobe/f", "a__last_raw_tp": "raw_tp/t", "a__fentry_1": "fentry/f", "a__fentry_2": "fentry/g",
		"a__tp_btf": "tp_btf/t", "b__raw_tp": "raw_tp/t",
	} {
		spec.Programs[name] = program(section, true)
	}
	all, err := variants(spec)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range all {
		got = append(got, v.hook+" "+v.kind)
	}
	if want := []string{"a tp_btf", "a fentry", "a kprobe", "a raw_tp", "b raw_tp"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLoadGoesOnWithoutAHook(t *testing.T) {
	o, err := load(t, map[string]*ebpf.ProgramSpec{
		"a__raw_tp": program("raw_tp/sched_switch", true),
		"b__raw_tp": program("raw_tp/no_such_tracepoint", true),
	})
	if err != nil {
		t.Fatal(err)
	}
	if o.Hooks[0].Variant != "raw_tp" || o.Hooks[1].Variant != NoVariant || o.Hooks[1].Err == nil {
		t.Fatalf("got %+v", o.Hooks)
	}
	if o.Programs["b__raw_tp"] != nil {
		t.Error("the program of the hook that does not run is still there")
	}
}

// All programs of a variant run, or none.
func TestLoadTakesVariantsWhole(t *testing.T) {
	o, err := load(t, map[string]*ebpf.ProgramSpec{
		"a__tp_btf_1": program("tp_btf/sched_switch", true),
		"a__tp_btf_2": program("tp_btf/sched_switch", false),
		"a__raw_tp":   program("raw_tp/sched_switch", true),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Programs) != 1 || o.Programs["a__raw_tp"] == nil || len(o.links) != 1 {
		t.Fatalf("got programs %v and %d links", o.Programs, len(o.links))
	}
}

func TestLoadFailsWithoutAnyHook(t *testing.T) {
	_, err := load(t, map[string]*ebpf.ProgramSpec{"a__raw_tp": program("raw_tp/sched_switch", false)})
	if err == nil || !strings.Contains(err.Error(), "hook a") {
		t.Fatalf("got %v, want an error that names the hook", err)
	}
}

func TestLoadRefusesBadNames(t *testing.T) {
	for name, section := range map[string]string{"a": "raw_tp/sched_switch", "a__x": "socket"} {
		k := &Kernel{}
		if _, err := k.Load(&ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{name: program(section, true)}}); err == nil {
			t.Errorf("no error for program %s in section %s", name, section)
		}
	}
}

// A program at the entry and one at the return of a function are one variant; functions to choose from
// make a variant each, in the order of the section.
func TestVariants(t *testing.T) {
	got, err := variants(&ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"a__kprobe":    program("kprobe/new,old", true),
		"a__kretprobe": program("kretprobe/new,old", true),
		"a__fentry":    program("fentry/new,old", true),
		"a__fentry_2":  program("fentry/same", true),
		"a__fexit":     program("fexit/new,old", true),
		"a__raw_tp":    program("raw_tp/x", true),
		"b__fexit":     program("fexit/x", true),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range got {
		names = append(names, fmt.Sprint(v.hook, " ", v.kind, " ", v.name, " ", v.programs))
	}
	want := []string{
		"a raw_tp raw_tp [a__raw_tp]",
		"a fentry fentry/new [a__fentry a__fentry_2 a__fexit]",
		"a fentry fentry/old [a__fentry a__fentry_2 a__fexit]",
		"a kprobe kprobe/new [a__kprobe a__kretprobe]",
		"a kprobe kprobe/old [a__kprobe a__kretprobe]",
		"b fentry fentry [b__fexit]",
	}
	if !slices.Equal(names, want) {
		t.Errorf("got %q\nwant %q", names, want)
	}
	for section, want := range map[string]string{"fentry/new,old": "old", "fentry/same": "same", "raw_tp": ""} {
		p := program(section, true)
		if got := aimed(p, 1); got.AttachTo != want || !strings.HasSuffix(got.SectionName, want) || p.SectionName != section {
			t.Errorf("%s: second alternative is %q, %q", section, got.SectionName, got.AttachTo)
		}
	}
	_, err = variants(&ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"a__fentry_1": program("fentry/a,b", true), "a__fentry_2": program("fentry/a,b,c", true),
	}})
	if err == nil {
		t.Error("no error for programs of one variant with different numbers of functions to choose from")
	}
}

// A function that no kernel has is no obstacle to the next alternative, and the reason names it.
func TestLoadTakesTheNextFunction(t *testing.T) {
	first, second := program("raw_tp/sched_switch", true), program("fentry/no_such_function,no_such_either", true)
	second.Type, second.AttachType = ebpf.Tracing, ebpf.AttachTraceFEntry
	o, err := load(t, map[string]*ebpf.ProgramSpec{"a__raw_tp": first, "b__fentry": second})
	if err != nil {
		t.Fatal(err)
	}
	reason := o.Hooks[1].Err
	for _, want := range []string{"fentry/no_such_function: ", "fentry/no_such_either: ", "no such function"} {
		if reason == nil || !strings.Contains(reason.Error(), want) {
			t.Errorf("got %v, want %q in it", reason, want)
		}
	}
}

// What a raw_tp program lists is tried in turn too.
func TestLoadTakesTheNextTracepoint(t *testing.T) {
	o, err := load(t, map[string]*ebpf.ProgramSpec{"a__raw_tp": program("raw_tp/no_such_tracepoint,sched_switch", true)})
	if err != nil {
		t.Fatal(err)
	}
	if o.Hooks[0].Variant != "raw_tp" || o.Hooks[0].Err == nil || !strings.Contains(o.Hooks[0].Err.Error(), "raw_tp/no_such_tracepoint") {
		t.Errorf("got %+v", o.Hooks)
	}
}

// counting returns a program that counts in a map of its object and calls the next one at its tracepoint.
func counting(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	p := program("tp_btf/sched_switch", true)
	p.Type, p.AttachType = ebpf.Tracing, ebpf.AttachTraceRawTp
	p.Instructions = asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, 0).WithReference("runs"),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "next"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("next"),
		asm.LoadMapPtr(asm.R2, 0).WithReference("after_sched_switch"),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}
	return &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{"a__tp_btf": p},
		Maps: map[string]*ebpf.MapSpec{
			"runs":               {Name: "runs", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1},
			"after_sched_switch": {Name: "after_sched_swi", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1},
		},
	}
}

// runsNow tells whether the program of an object runs, by waiting that its count rises.
func runsNow(t *testing.T, o *Object) bool {
	t.Helper()
	count := func() (sum uint64) {
		var perCPU []uint64
		if err := o.Maps["runs"].Lookup(uint32(0), &perCPU); err != nil {
			t.Fatal(err)
		}
		for _, n := range perCPU {
			sum += n
		}
		return sum
	}
	before := count()
	for range 1000 {
		time.Sleep(time.Millisecond) // makes the scheduler switch
		if count() > before {
			return true
		}
	}
	return false
}

// Of the programs of several objects at one tracepoint one is attached, all run, and each can go without the others.
func TestLoadChainsPrograms(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	k, err := Open("/", Query{})
	if errors.Is(err, ErrNoBTF) {
		t.Skip("tp_btf needs BTF of the kernel")
	}
	if err != nil {
		t.Fatal(err)
	}
	for leaves := range 3 {
		objects := make([]*Object, 3)
		for i := range objects {
			if objects[i], err = k.Load(counting(t)); err != nil {
				t.Fatal(err)
			}
		}
		for i, o := range objects {
			if !runsNow(t, o) {
				t.Errorf("program %d of 3 does not run", i)
			}
			if attached := o.links[0].(*member).link != nil; attached != (i == 0) {
				t.Errorf("program %d of 3 is attached: %t", i, attached)
			}
		}
		if err := objects[leaves].Close(); err != nil {
			t.Fatal(err)
		}
		for i, o := range objects {
			if i == leaves {
				continue
			}
			if !runsNow(t, o) {
				t.Errorf("program %d of 3 does not run any more without %d", i, leaves)
			}
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(k.chains.by["tp_btf/sched_switch"]); n != 0 {
			t.Errorf("%d programs left in the chain", n)
		}
	}
}

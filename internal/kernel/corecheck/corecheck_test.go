// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package corecheck

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden file")

const (
	objectDir = "../../../bpf"
	corpusDir = "../../../testdata/btf"
)

func objects(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	objects, err := Objects(objectDir)
	require.NoError(t, err)
	return objects
}

// kernels returns the corpus by the names of the kernels, and those in order of age.
func kernels(t *testing.T) (map[string]*btf.Spec, []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(corpusDir, "*.btf.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	corpus := map[string]*btf.Spec{}
	for _, file := range files {
		f, err := os.Open(file)
		require.NoError(t, err)
		defer f.Close()
		zipped, err := gzip.NewReader(f)
		require.NoError(t, err)
		raw, err := io.ReadAll(zipped)
		require.NoError(t, err)
		spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
		require.NoError(t, err, file)
		corpus[strings.TrimSuffix(filepath.Base(file), ".btf.gz")] = spec
	}
	age := func(name string) (major, minor int) {
		_, err := fmt.Sscanf(name, "%d.%d", &major, &minor)
		require.NoError(t, err, name)
		return major, minor
	}
	names := slices.SortedFunc(maps.Keys(corpus), func(a, b string) int {
		major, minor := age(a)
		otherMajor, otherMinor := age(b)
		return (major-otherMajor)<<16 + minor - otherMinor
	})
	return corpus, names
}

// What becomes of each program on each kernel is as testdata/btf/expected.txt says, and no program
// comes upon what a kernel lacks without having asked.
func TestGoldenKernels(t *testing.T) {
	objects := objects(t)
	needs, err := Needs(objects)
	require.NoError(t, err)
	known, err := os.ReadFile(filepath.Join(corpusDir, "needs.txt"))
	require.NoError(t, err)
	for _, n := range needs {
		// A corpus that was made without it would show it as missing everywhere.
		if !slices.Contains(strings.Split(string(known), "\n"), n.String()) {
			assert.Fail(t, "the BTF in testdata/btf was reduced before a program wanted "+n.String()+": run `make btf-corpus golden`")
		}
	}
	if t.Failed() {
		return
	}
	corpus, names := kernels(t)
	became := map[string][]string{} // by object and program, in the order of the kernels
	for _, kernel := range names {
		for object, spec := range objects {
			results, err := Check(spec, corpus[kernel])
			require.NoError(t, err, "object %s on kernel %s", object, kernel)
			for _, r := range results {
				assert.False(t, r.Broken(), "object %s, program %s, kernel %s: %s", object, r.Program, kernel, r)
				became[object+" "+r.Program] = append(became[object+" "+r.Program], r.String())
			}
		}
	}
	var text strings.Builder
	text.WriteString("# What becomes of each program on each kernel, as far as its BTF tells. Written by `make golden`.\n")
	for _, program := range slices.Sorted(maps.Keys(became)) {
		text.WriteString(program + "\n")
		results := became[program]
		if len(slices.Compact(slices.Clone(results))) == 1 {
			text.WriteString("\tall   " + results[0] + "\n")
			continue
		}
		for i, kernel := range names {
			fmt.Fprintf(&text, "\t%-5s %s\n", kernel, results[i])
		}
	}
	file := filepath.Join(corpusDir, "expected.txt")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), text.String(), "what is not meant is a fault; what is: `make golden`")
}

// A field that goes away breaks those programs that read it without asking, and no others.
func TestMissingField(t *testing.T) {
	objects := objects(t)
	corpus, names := kernels(t)
	needs, err := Needs(objects)
	require.NoError(t, err)
	without := func(lost ...string) *btf.Spec {
		rest := slices.DeleteFunc(slices.Clone(needs), func(n Need) bool { return slices.Contains(lost, n.String()) })
		require.Len(t, rest, len(needs)-len(lost))
		raw, err := Minimize(corpus[names[len(names)-1]], rest)
		require.NoError(t, err)
		spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
		require.NoError(t, err)
		return spec
	}
	find := func(object, program string, kernel *btf.Spec) Result {
		results, err := Check(objects[object], kernel)
		require.NoError(t, err)
		i := slices.IndexFunc(results, func(r Result) bool { return r.Program == program })
		require.GreaterOrEqual(t, i, 0, program)
		return results[i]
	}
	assert.Equal(t, "ok", find("tcptwrcv", "processed__fentry", without()).String())

	broken := find("tcptwrcv", "processed__fentry", without("field inet_timewait_sock.tw_substate"))
	assert.True(t, broken.Broken())
	assert.Equal(t, "BROKEN: not guarded: field inet_timewait_sock.tw_substate", broken.String())

	guarded := find("tcptwrcv", "processed__fentry", without("field net.net_cookie"))
	assert.False(t, guarded.Broken())
	assert.Equal(t, "ok without field net.net_cookie", guarded.String())

	refuses := find("tcptwrcv", "processed__last_raw_tp", without("field trace_event_raw_kfree_skb.rx_sk"))
	assert.False(t, refuses.Broken())
	assert.Equal(t, "refuses", refuses.String())

	gone := find("tcptwrcv", "processed__fentry", without("function tcp_timewait_state_process"))
	assert.False(t, gone.Broken())
	assert.Equal(t, "lacks function tcp_timewait_state_process", gone.String())
}

// A program under a kprobe finds its arguments on arm64, too, where struct pt_regs has them in an array.
func TestKprobeOnArm64(t *testing.T) {
	u64 := &btf.Int{Name: "unsigned long long", Size: 8}
	regs := &btf.Array{Index: &btf.Int{Name: "int", Size: 4}, Type: u64, Nelems: 31}
	user := []btf.Member{{Name: "regs", Type: regs}, {Name: "sp", Type: u64, Offset: 31 * 64}}
	b, err := btf.NewBuilder([]btf.Type{&btf.Struct{ // arch/arm64/include/asm/ptrace.h
		Name: "pt_regs", Size: 40 * 8, Members: []btf.Member{
			{Type: &btf.Union{Size: 33 * 8, Members: []btf.Member{
				{Name: "user_regs", Type: &btf.Struct{Name: "user_pt_regs", Size: 33 * 8, Members: user}},
				{Type: &btf.Struct{Size: 33 * 8, Members: user}},
			}}},
			{Name: "orig_x0", Type: u64, Offset: 33 * 64},
		},
	}}, nil)
	require.NoError(t, err)
	raw, err := b.Marshal(nil, nil)
	require.NoError(t, err)
	arm64, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	require.NoError(t, err)
	spec := objects(t)["virtcmdlatency"]
	results, err := Check(spec, arm64)
	require.NoError(t, err)
	i := slices.IndexFunc(results, func(r Result) bool { return r.Program == "command__kprobe" })
	require.GreaterOrEqual(t, i, 0)
	assert.Equal(t, "ok without field pt_regs.dx, field pt_regs.si", results[i].String())
	var offsets []string
	for _, fixup := range fixups(t, spec.Programs["command__kprobe"], arm64) {
		if strings.HasPrefix(fixup, "byte_off=") {
			offsets = append(offsets, fixup)
		}
	}
	assert.Equal(t, []string{"byte_off=poison", "byte_off=8->8", "byte_off=poison", "byte_off=16->16"}, offsets,
		"second and third argument: x1 and x2")
}

// What is left of a kernel's BTF tells the same as all of it.
func TestMinimizeLosesNothing(t *testing.T) {
	full, err := btf.LoadSpec("/sys/kernel/btf/vmlinux")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("this kernel has no BTF to try it with")
	}
	require.NoError(t, err)
	objects := objects(t)
	needs, err := Needs(objects)
	require.NoError(t, err)
	raw, err := Minimize(full, needs)
	require.NoError(t, err)
	assert.Less(t, len(raw), 32<<10)
	reduced, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	require.NoError(t, err)
	for object, spec := range objects {
		want, err := Check(spec, full)
		require.NoError(t, err)
		got, err := Check(spec, reduced)
		require.NoError(t, err)
		assert.Equal(t, want, got, object)
		for _, p := range spec.Programs {
			assert.Equal(t, fixups(t, p, full), fixups(t, p, reduced), "%s of %s", p.Name, object)
		}
	}
}

// fixups returns what relocation makes of a program.
func fixups(t *testing.T, p *ebpf.ProgramSpec, kernel *btf.Spec) []string {
	t.Helper()
	var relos []*btf.CORERelocation
	for i := range p.Instructions {
		if r := btf.CORERelocationMetadata(&p.Instructions[i]); r != nil {
			relos = append(relos, r)
		}
	}
	resolved, err := btf.CORERelocate(relos, []*btf.Spec{kernel}, p.ByteOrder, func(btf.Type) (btf.TypeID, error) { return 1, nil })
	require.NoError(t, err)
	var all []string
	for i := range resolved {
		fixup := resolved[i].String()
		if strings.HasPrefix(fixup, "target_type_id=") {
			fixup, _, _ = strings.Cut(fixup, "->") // the reduced BTF numbers its types anew
		}
		all = append(all, fixup)
	}
	return all
}

func TestReachable(t *testing.T) {
	exists := func(n int32) asm.Instructions { // what bpf_core_field_exists() becomes, and what it guards
		return asm.Instructions{
			asm.Mov.Imm(asm.R6, n),
			asm.FnKtimeGetNs.Call(),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.And.Imm(asm.R1, 1),
			asm.JEq.Imm(asm.R1, 0, "out"),
			asm.BuiltinFunc(btf.COREBadRelocationSentinel).Call(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		}
	}
	for name, test := range map[string]struct {
		insns asm.Instructions
		want  bool
	}{
		"guarded":   {exists(0), false},
		"there":     {exists(1), true},
		"unguarded": {asm.Instructions{asm.BuiltinFunc(btf.COREBadRelocationSentinel).Call(), asm.Return()}, true},
		"a call forgets": {asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.FnKtimeGetNs.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.BuiltinFunc(btf.COREBadRelocationSentinel).Call(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		}, true},
		"in a loop": {asm.Instructions{
			asm.Mov.Imm(asm.R6, 0),
			asm.JEq.Imm(asm.R6, 3, "bad").WithSymbol("again"),
			asm.Add.Imm(asm.R6, 1),
			asm.Ja.Label("again"),
			asm.BuiltinFunc(btf.COREBadRelocationSentinel).Call().WithSymbol("bad"),
			asm.Return(),
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			insns := slices.Clone(test.insns)
			jumps(insns)
			got, err := reachable(insns)
			require.NoError(t, err)
			i := slices.IndexFunc(insns, func(ins asm.Instruction) bool { return poisoned(&ins) })
			assert.Equal(t, test.want, got[i])
		})
	}
}

// jumps puts distances in the place of labels, as a compiled object has them. All instructions here
// are of one width.
func jumps(insns asm.Instructions) {
	for i := range insns {
		if label := insns[i].Reference(); label != "" {
			to := slices.IndexFunc(insns, func(ins asm.Instruction) bool { return ins.Symbol() == label })
			insns[i] = insns[i].WithReference("")
			insns[i].Offset = int16(to - i - 1)
		}
	}
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package corecheck

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Result is what becomes of a program on a kernel.
type Result struct {
	Program string
	// Target is what the program is attached to, the first if it may be one of several, if the kernel
	// lacks it. What is in a module is not in the kernel's own BTF.
	Target Need
	// Refuses is true if the program comes upon a REQUIRE() that does not hold.
	Refuses bool
	// Missing are relocations that the kernel cannot resolve and that nothing guards: the verifier
	// comes upon them.
	Missing []Need
	// Without are those that it does not come upon, because the program has asked before.
	Without []Need
}

// Broken tells whether the program fails on the kernel and nobody meant it to.
func (r Result) Broken() bool { return r.Target.Kind == "" && !r.Refuses && len(r.Missing) > 0 }

func (r Result) String() string {
	switch {
	case r.Target.Kind != "":
		return "lacks " + r.Target.String()
	case r.Refuses:
		return "refuses"
	case len(r.Missing) > 0:
		return "BROKEN: not guarded: " + list(r.Missing)
	case len(r.Without) > 0:
		return "ok without " + list(r.Without)
	}
	return "ok"
}

func list(needs []Need) string {
	names := make([]string, len(needs))
	for i, n := range needs {
		names[i] = n.String()
	}
	return strings.Join(names, ", ")
}

// Check resolves the relocations of all programs of an object against a kernel, in the order of their names.
func Check(spec *ebpf.CollectionSpec, kernel *btf.Spec) ([]Result, error) {
	var results []Result
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		r, err := check(spec, spec.Programs[name], kernel)
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		r.Program = name
		results = append(results, r)
	}
	return results, nil
}

func check(spec *ebpf.CollectionSpec, program *ebpf.ProgramSpec, kernel *btf.Spec) (Result, error) {
	var (
		result Result
		insns  = slices.Clone(program.Instructions)
		relos  []*btf.CORERelocation
		at     []int
	)
	targets := targetsOf(program)
	there := func(t Need) bool {
		_, err := kernel.AnyTypesByName(t.Name)
		return err == nil
	}
	if len(targets) > 0 && !slices.ContainsFunc(targets, there) {
		result.Target = targets[0]
	}
	for i := range insns {
		if r := btf.CORERelocationMetadata(&insns[i]); r != nil {
			relos, at = append(relos, r), append(at, i)
		}
	}
	fixups, err := btf.CORERelocate(relos, []*btf.Spec{kernel}, program.ByteOrder,
		func(btf.Type) (btf.TypeID, error) { return 1, nil })
	if err != nil {
		return result, err
	}
	relocated := map[int]*btf.CORERelocation{}
	for i, fixup := range fixups {
		if err := fixup.Apply(&insns[at[i]]); err != nil {
			return result, fmt.Errorf("%s: %w", relos[i], err)
		}
		relocated[at[i]] = relos[i]
	}
	reached, err := reachable(insns)
	if err != nil {
		return result, err
	}
	missing, without := map[string]Need{}, map[string]Need{}
	for i := range insns {
		// What stands for a relocation of a wide load is no call.
		wide := insns[i].IsConstantLoad(8) && insns[i].Constant == btf.COREBadRelocationSentinel
		if !poisoned(&insns[i]) && !wide {
			continue
		}
		relo := relocated[i]
		if relo == nil {
			result.Refuses = result.Refuses || reached[i]
			continue
		}
		need, err := needOf(spec.Types, relo)
		if err != nil {
			return result, err
		}
		if reached[i] {
			missing[need.String()] = need
		} else {
			without[need.String()] = need
		}
	}
	result.Missing, result.Without = sorted(missing), sorted(without)
	return result, nil
}

func sorted(needs map[string]Need) []Need {
	var all []Need
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		all = append(all, needs[name])
	}
	return all
}

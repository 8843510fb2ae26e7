// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package corecheck tells, without loading anything, what becomes of each program on a kernel of
// which only the BTF is at hand: whether all that it reads is there, whether it refuses by itself, or
// whether it would come upon a field that the kernel lacks.
package corecheck

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Objects loads the BPF objects in a directory, by their names.
func Objects(dir string) (map[string]*ebpf.CollectionSpec, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_bpfel.o"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no BPF objects in %s", dir)
	}
	objects := map[string]*ebpf.CollectionSpec{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), "_bpfel.o")
		// The corpus is of x86-64; what is compiled for arm64 alone has a twin for it.
		if strings.HasSuffix(name, "_arm64") {
			continue
		}
		if objects[name], err = ebpf.LoadCollectionSpec(file); err != nil {
			return nil, fmt.Errorf("load %s: %w", file, err)
		}
	}
	return objects, nil
}

// Need is one thing that a program wants of the kernel's BTF.
type Need struct {
	// Kind is "field", "type" or "enum" for relocations, "function" or "typedef" for what the program
	// is attached to.
	Kind string
	// Name is the name of a type, without the flavor (___x), or of a function.
	Name string
	// Path leads to a field through the names of members, those without a name and the indexes of
	// arrays left out; of an enum it is the name of a value.
	Path []string
}

func (n Need) String() string {
	return n.Kind + " " + strings.Join(append([]string{n.Name}, n.Path...), ".")
}

// relocation is what (*btf.CORERelocation).String tells; the type itself has no accessors.
var relocation = regexp.MustCompile(`^CORERelocation\((\w+), .*\[([\d:]+)\], local_id=(\d+)\)$`)

// needOf returns what a relocation wants. types is the BTF of its object.
func needOf(types *btf.Spec, r *btf.CORERelocation) (Need, error) {
	parts := relocation.FindStringSubmatch(r.String())
	if parts == nil {
		return Need{}, fmt.Errorf("cannot read %s", r)
	}
	kind := parts[1]
	if kind == "local_type_id" {
		return Need{}, nil
	}
	id, err := strconv.ParseUint(parts[3], 10, 32)
	if err != nil {
		return Need{}, err
	}
	typ, err := types.TypeByID(btf.TypeID(id))
	if err != nil {
		return Need{}, fmt.Errorf("%s: %w", r, err)
	}
	n := Need{Kind: "type", Name: essential(btf.UnderlyingType(typ).TypeName())}
	if n.Name == "" { // a struct that only a typedef names
		n.Name = essential(typ.TypeName())
	}
	if strings.HasPrefix(kind, "type_") {
		return n, nil
	}
	var indexes []int
	for s := range strings.SplitSeq(parts[2], ":") {
		i, err := strconv.Atoi(s)
		if err != nil {
			return Need{}, err
		}
		indexes = append(indexes, i)
	}
	if strings.HasPrefix(kind, "enumval_") {
		enum, ok := btf.As[*btf.Enum](typ)
		if !ok || indexes[0] >= len(enum.Values) {
			return Need{}, fmt.Errorf("%s: no such value", r)
		}
		return Need{"enum", n.Name, []string{enum.Values[indexes[0]].Name}}, nil
	}
	n.Kind = "field"
	for _, i := range indexes[1:] { // the first is an index of the whole, as of an array
		var members []btf.Member
		switch t := btf.UnderlyingType(typ).(type) {
		case *btf.Array:
			typ = t.Type
			continue
		case *btf.Struct:
			members = t.Members
		case *btf.Union:
			members = t.Members
		}
		if i >= len(members) {
			return Need{}, fmt.Errorf("%s: no such field", r)
		}
		if members[i].Name != "" {
			n.Path = append(n.Path, members[i].Name)
		}
		typ = members[i].Type
	}
	return n, nil
}

// essential cuts the flavor off the name of a type, as CO-RE does.
func essential(name string) string {
	if i := strings.LastIndex(name, "___"); i > 0 {
		return name[:i]
	}
	return name
}

// targetsOf returns what may be in the kernel's BTF for a program to be attached, one of them; none if
// it needs nothing there. A section lists several with commas between.
func targetsOf(p *ebpf.ProgramSpec) []Need {
	kind, list, _ := strings.Cut(p.SectionName, "/")
	if list == "" {
		return nil
	}
	var targets []Need
	for target := range strings.SplitSeq(list, ",") {
		switch kind {
		case "fentry", "fexit":
			targets = append(targets, Need{Kind: "function", Name: target})
		case "iter":
			targets = append(targets, Need{Kind: "function", Name: "bpf_iter_" + target})
		case "raw_tp", "tp_btf":
			targets = append(targets, Need{Kind: "typedef", Name: "btf_trace_" + target})
		}
	}
	return targets // kprobes go by the kernel's symbols
}

// Needs lists all that programs want of a kernel, sorted.
func Needs(objects map[string]*ebpf.CollectionSpec) ([]Need, error) {
	byName := map[string]Need{}
	for object, spec := range objects {
		for name, p := range spec.Programs {
			for _, t := range targetsOf(p) {
				byName[t.String()] = t
			}
			for i := range p.Instructions {
				r := btf.CORERelocationMetadata(&p.Instructions[i])
				if r == nil {
					continue
				}
				n, err := needOf(spec.Types, r)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", object, name, err)
				}
				if n.Kind != "" {
					byName[n.String()] = n
				}
			}
		}
	}
	needs := make([]Need, 0, len(byName))
	for _, n := range byName {
		needs = append(needs, n)
	}
	slices.SortFunc(needs, func(a, b Need) int { return strings.Compare(a.String(), b.String()) })
	return needs, nil
}

// poisoned tells whether an instruction is the call that stands for what a kernel cannot do: that of
// REQUIRE() and that of a relocation which was not resolved (as libbpf has it).
func poisoned(ins *asm.Instruction) bool {
	return ins.IsBuiltinCall() && ins.Constant == btf.COREBadRelocationSentinel
}

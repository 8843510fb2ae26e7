// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package corecheck

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf/btf"
)

// Minimize returns the BTF of a kernel without all that needs do not name: types keep their sizes,
// fields their places, and what is not there is not there.
func Minimize(kernel *btf.Spec, needs []Need) ([]byte, error) {
	m := minimizer{fields: map[btf.Type]map[int]bool{}, built: map[btf.Type]btf.Type{}}
	var roots []btf.Type
	for _, n := range needs {
		types, err := kernel.AnyTypesByName(n.Name)
		if errors.Is(err, btf.ErrNotFound) {
			continue // this kernel lacks it
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		for _, t := range types {
			if !m.mark(t, n) {
				continue
			}
			if !slices.Contains(roots, t) {
				roots = append(roots, t)
			}
		}
	}
	b, err := btf.NewBuilder(nil, nil)
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if _, err := b.Add(m.build(root, needs)); err != nil {
			return nil, fmt.Errorf("keep %s: %w", root, err)
		}
	}
	return b.Marshal(nil, nil)
}

type minimizer struct {
	fields map[btf.Type]map[int]bool // members to keep, by the kernel's struct or union
	built  map[btf.Type]btf.Type
}

// mark notes what a need keeps of a type of its name; it returns false if the type is of another kind.
func (m *minimizer) mark(t btf.Type, n Need) bool {
	switch n.Kind {
	case "function":
		_, ok := t.(*btf.Func)
		return ok
	case "typedef":
		_, ok := t.(*btf.Typedef)
		return ok
	}
	switch t.(type) {
	case *btf.Func, *btf.Var, *btf.Datasec:
		return false
	}
	m.markPath(t, n.Path)
	return true
}

// markPath follows a path of names from a type on, and returns whether it is there. All members of
// an anonymous struct or union count as those of the one around it.
func (m *minimizer) markPath(t btf.Type, path []string) bool {
	t = btf.UnderlyingType(t)
	if array, ok := t.(*btf.Array); ok {
		return m.markPath(array.Type, path)
	}
	if len(path) == 0 {
		return true
	}
	found := false
	for i, member := range membersOf(t) {
		switch {
		case member.Name == path[0]:
			found = m.markPath(member.Type, path[1:]) || len(path) == 1
		case member.Name == "" && m.markPath(member.Type, path):
			found = true
		default:
			continue
		}
		if m.fields[t] == nil {
			m.fields[t] = map[int]bool{}
		}
		m.fields[t][i] = true
	}
	return found
}

func membersOf(t btf.Type) []btf.Member {
	switch t := t.(type) {
	case *btf.Struct:
		return t.Members
	case *btf.Union:
		return t.Members
	}
	return nil
}

// build copies what was marked of a type.
func (m *minimizer) build(t btf.Type, needs []Need) btf.Type {
	if done, ok := m.built[t]; ok {
		return done
	}
	keep := func(made btf.Type) btf.Type {
		m.built[t] = made
		return made
	}
	switch v := t.(type) {
	case *btf.Struct:
		made := &btf.Struct{Name: v.Name, Size: v.Size}
		keep(made)
		made.Members = m.members(t, needs)
		return made
	case *btf.Union:
		made := &btf.Union{Name: v.Name, Size: v.Size}
		keep(made)
		made.Members = m.members(t, needs)
		return made
	case *btf.Enum:
		made := &btf.Enum{Name: v.Name, Size: v.Size, Signed: v.Signed}
		for _, value := range v.Values {
			if slices.ContainsFunc(needs, func(n Need) bool {
				return n.Kind == "enum" && n.Name == v.Name && n.Path[0] == value.Name
			}) {
				made.Values = append(made.Values, value)
			}
		}
		return keep(made)
	case *btf.Array:
		return keep(&btf.Array{Index: m.build(v.Index, needs), Type: m.build(v.Type, needs), Nelems: v.Nelems})
	case *btf.Pointer:
		return keep(&btf.Pointer{Target: (*btf.Void)(nil)}) // no relocation looks behind it
	case *btf.Typedef:
		return keep(&btf.Typedef{Name: v.Name, Type: m.build(v.Type, needs)})
	case *btf.Func:
		return keep(&btf.Func{Name: v.Name, Type: &btf.FuncProto{Return: (*btf.Void)(nil)}, Linkage: v.Linkage})
	case *btf.Const, *btf.Volatile, *btf.Restrict, *btf.TypeTag:
		return keep(m.build(btf.UnderlyingType(t), needs))
	case *btf.FuncProto:
		return keep(&btf.FuncProto{Return: (*btf.Void)(nil)})
	}
	return t // numbers and forward declarations
}

func (m *minimizer) members(t btf.Type, needs []Need) []btf.Member {
	var kept []btf.Member
	for i, member := range membersOf(t) {
		if m.fields[t][i] {
			member.Type = m.build(member.Type, needs)
			member.Tags = nil
			kept = append(kept, member)
		}
	}
	return kept
}

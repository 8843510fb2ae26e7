// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package kernel answers what the running kernel is and can do: its BTF and the names in it, its
// symbols, its clocks, the privileges of this process. It also loads BPF programs, choosing for
// every hook the first variant that the kernel accepts.
package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// ErrNoBTF says that no BTF of the running kernel was found.
var ErrNoBTF = errors.New("no BTF of the running kernel found")

// ErrWrongBTF says that BTF does not describe the running kernel, although it seemed to.
var ErrWrongBTF = errors.New("the BTF does not describe the running kernel")

// Kernel is the running kernel as its BTF describes it.
type Kernel struct {
	// Release is the kernel release, as uname -r prints it.
	Release string
	// Source is where the BTF was read.
	Source BTFSource

	// types is the BTF, nil if there is none; cache keeps what loading reads of the kernel's own.
	types  *btf.Spec
	cache  *btf.Cache
	chains chains
	// enums holds the enums that were asked for when the kernel was opened.
	enums map[string]map[string]uint64
	// values holds the members of anonymous enums, such as the MIB indexes.
	values map[string]uint64
}

// Release returns the kernel release, as uname -r prints it.
func Release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// Query names what Open shall read from the BTF, which is walked once and then dropped.
type Query struct {
	// Enums are names of enums, for example "skb_drop_reason".
	Enums []string
	// Prefixes are the beginnings of members of anonymous enums, for example "LINUX_MIB_".
	Prefixes []string
}

// Open finds and reads the BTF of the running kernel below root ("/" or the mount point of the
// host's root directory). Without BTF it returns a Kernel that knows no names, and ErrNoBTF.
func Open(root string, q Query) (*Kernel, error) {
	k := &Kernel{cache: btf.NewCache(), enums: map[string]map[string]uint64{}, values: map[string]uint64{}}
	var err error
	if k.Release, err = Release(); err != nil {
		return k, err
	}
	if k.Source, err = FindBTF(root, k.Release); err != nil {
		return k, err
	}
	if k.types, err = k.Source.load(k.cache); err != nil {
		return k, err
	}
	if err := k.read(q); err != nil {
		return k, fmt.Errorf("read %s: %w", k.Source.Path, err)
	}
	return k, nil
}

func (k *Kernel) read(q Query) error {
	want := map[string]bool{}
	for _, name := range q.Enums {
		want[name] = true
	}
	for typ, err := range k.types.All() {
		if err != nil {
			return err
		}
		enum, ok := typ.(*btf.Enum)
		if !ok {
			continue
		}
		if enum.Name == "" {
			for _, v := range enum.Values {
				for _, p := range q.Prefixes {
					if strings.HasPrefix(v.Name, p) {
						k.values[v.Name] = v.Value
					}
				}
			}
			continue
		}
		if want[enum.Name] {
			members := make(map[string]uint64, len(enum.Values))
			for _, v := range enum.Values {
				members[v.Name] = v.Value
			}
			k.enums[enum.Name] = members
		}
	}
	return nil
}

// Enum returns the members of a named enum; it is empty if this kernel has no such enum.
func (k *Kernel) Enum(name string) map[string]uint64 { return k.enums[name] }

// Value returns a member of an anonymous enum, for example the index "TCP_MIB_OUTRSTS".
func (k *Kernel) Value(name string) (uint64, bool) {
	v, ok := k.values[name]
	return v, ok
}

// Names returns the members of an enum by their value, each without the first of prefixes that fits.
func (k *Kernel) Names(enum string, prefixes ...string) map[uint32]string {
	names := make(map[uint32]string, len(k.enums[enum]))
	for name, v := range k.enums[enum] {
		for _, p := range prefixes {
			if short, ok := strings.CutPrefix(name, p); ok {
				name = short
				break
			}
		}
		names[uint32(v)] = name
	}
	return names
}

// Distrust drops the BTF, which was found to be wrong: nothing loads with it any more.
func (k *Kernel) Distrust() {
	k.Source = BTFSource{}
	k.FlushTypes()
}

// FlushTypes drops the parsed BTF, which takes several megabytes and only loading needs. Another
// Load reads it again.
func (k *Kernel) FlushTypes() {
	k.types = nil
	k.cache = btf.NewCache()
}

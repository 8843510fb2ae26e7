// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// NoVariant is the variant of a hook that does not run.
const NoVariant = "none"

// Hook is one thing that an object observes or does, by the variant that runs on this kernel.
type Hook struct {
	Name string
	// Variant is the section prefix of the programs that run, or NoVariant. With fentry may be fexit
	// programs, with kprobe kretprobe programs.
	Variant string
	// Err says why the variants before this one do not run; nil if there is none.
	Err error
}

// Object is a loaded BPF object of which every hook runs at most one variant.
type Object struct {
	Maps      map[string]*ebpf.Map
	Variables map[string]*ebpf.Variable
	// Programs are the loaded programs by name, those of the variants that run.
	Programs map[string]*ebpf.Program
	Hooks    []Hook

	links []io.Closer
}

// Program returns the program that runs of a hook which has but one, nil if none does.
func (o *Object) Program(hook string) *ebpf.Program {
	for name, program := range o.Programs {
		if of, _, _ := strings.Cut(name, "__"); of == hook {
			return program
		}
	}
	return nil
}

// variant is a set of programs that do the work of a hook together.
type variant struct {
	hook, kind string
	rank       int // the lowest is tried first
	programs   []string
	// alternative is which of the functions that its sections list the programs are attached to.
	alternative int
	// name is what errors call it: kind, or where there are alternatives, the section of one program.
	name string
}

// lastRank is added to the rank of a variant that comes last; there are fewer kinds.
const lastRank = 100

// kindOf returns what a program's section makes it, and the rank of that; -1 for sections of no known kind.
// What user space runs may do most as a system call. Else tracepoints come first: they are a stable interface
// and show more. Trampolines cost less than probes. A program at the entry of a function and one at its return
// are of one kind: they do their work together.
func kindOf(program *ebpf.ProgramSpec) (kind string, rank int) {
	kinds := [][]string{{"syscall"}, {"tp_btf"}, {"raw_tp"}, {"iter"}, {"fentry", "fexit"}, {"kprobe", "kretprobe"}}
	prefix, _, _ := strings.Cut(program.SectionName, "/")
	rank = slices.IndexFunc(kinds, func(k []string) bool { return slices.Contains(k, prefix) })
	if rank < 0 {
		return prefix, rank
	}
	return kinds[rank][0], rank
}

// targets returns what a program may be attached to. A section that lists several functions,
// "fentry/new_name,old_name", is for kernels that have one or the other.
func targets(program *ebpf.ProgramSpec) []string { return strings.Split(program.AttachTo, ",") }

// aimed returns a copy of a program that is for one of its targets.
func aimed(program *ebpf.ProgramSpec, alternative int) *ebpf.ProgramSpec {
	all := targets(program)
	copied := program.Copy()
	if len(all) > 1 {
		copied.AttachTo = all[alternative]
		copied.SectionName = strings.TrimSuffix(program.SectionName, program.AttachTo) + copied.AttachTo
	}
	return copied
}

// variants groups the programs of a spec by hook and kind, best first within each hook. One that sees
// less than the others, whatever its kind, is named <hook>__last_... and tried after them.
func variants(spec *ebpf.CollectionSpec) ([]variant, error) {
	byKey := map[[2]string]*variant{}
	alternatives := map[[2]string]int{} // how many
	for name, program := range spec.Programs {
		hook, part, ok := strings.Cut(name, "__")
		kind, rank := kindOf(program)
		if !ok || rank < 0 {
			return nil, fmt.Errorf("program %s in section %s: want a name <hook>__<variant> and a known kind of section", name, program.SectionName)
		}
		key := [2]string{hook, kind}
		if byKey[key] == nil {
			byKey[key] = &variant{hook: hook, kind: kind, rank: rank}
			if strings.HasPrefix(part, "last_") {
				byKey[key].rank += lastRank
			}
		}
		byKey[key].programs = append(byKey[key].programs, name)
		n := len(targets(program))
		if alternatives[key] > 1 && n > 1 && alternatives[key] != n {
			return nil, fmt.Errorf("program %s in section %s: its variant has others with %d functions to choose from", name, program.SectionName, alternatives[key])
		}
		alternatives[key] = max(alternatives[key], n)
	}
	var out []variant
	for key, v := range byKey {
		slices.Sort(v.programs)
		for i := range alternatives[key] {
			v.alternative, v.name = i, v.kind
			if alternatives[key] > 1 {
				v.name = aimed(spec.Programs[v.programs[0]], i).SectionName
			}
			out = append(out, *v)
		}
	}
	slices.SortFunc(out, func(a, b variant) int {
		return cmp.Or(cmp.Compare(a.hook, b.hook), cmp.Compare(a.rank, b.rank), cmp.Compare(a.alternative, b.alternative))
	})
	return out, nil
}

// Load creates the maps of spec, then loads and attaches, for each hook, the first variant that
// this kernel accepts in full. Feature tests are not trusted: only loading for real tells. A hook
// without a working variant is in Hooks with its reasons; Load fails only if no hook works at all.
// It takes ownership of spec.
func (k *Kernel) Load(spec *ebpf.CollectionSpec) (*Object, error) { return k.LoadWith(nil, spec) }

// LoadWith is Load for an object that takes over maps, by name, of another one of the same source, which may be closed then.
func (k *Kernel) LoadWith(inherited map[string]*ebpf.Map, spec *ebpf.CollectionSpec) (*Object, error) {
	all, err := variants(spec)
	if err != nil {
		return nil, err
	}
	programs := spec.Programs
	spec.Programs = nil
	opts := ebpf.CollectionOptions{Cache: k.cache}
	if !k.Source.Own && k.Source.Path != "" {
		if k.types == nil { // flushed
			if k.types, err = k.Source.load(k.cache); err != nil {
				return nil, err
			}
		}
		opts.Programs.KernelTypes = k.types
	}
	opts.MapReplacements = inherited
	base, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return nil, fmt.Errorf("create maps: %w", err)
	}
	opts.MapReplacements = base.Maps
	o := &Object{Maps: base.Maps, Variables: base.Variables, Programs: map[string]*ebpf.Program{}}
	for _, v := range all {
		if len(o.Hooks) == 0 || o.Hooks[len(o.Hooks)-1].Name != v.hook {
			o.Hooks = append(o.Hooks, Hook{Name: v.hook, Variant: NoVariant})
		}
		hook := &o.Hooks[len(o.Hooks)-1]
		if hook.Variant != NoVariant {
			continue
		}
		if err := k.run(o, v, spec, programs, opts); err != nil {
			hook.Err = errors.Join(hook.Err, fmt.Errorf("%s: %w", v.name, err))
			continue
		}
		hook.Variant = v.kind
	}
	if errs := o.idle(); len(errs) == len(o.Hooks) {
		return nil, &NoHookError{o.Hooks, errors.Join(append(errs, o.Close())...)}
	}
	return o, nil
}

// NoHookError says that this kernel runs no hook of an object.
type NoHookError struct {
	// Hooks are those of the object, each with its reasons.
	Hooks []Hook
	Err   error
}

func (e *NoHookError) Error() string { return e.Err.Error() }
func (e *NoHookError) Unwrap() error { return e.Err }

// idle returns the reasons of the hooks that do not run.
func (o *Object) idle() []error {
	var errs []error
	for _, h := range o.Hooks {
		if h.Variant == NoVariant {
			errs = append(errs, fmt.Errorf("hook %s: %w", h.Name, h.Err))
		}
	}
	return errs
}

// run loads and attaches all programs of a variant, or none.
func (k *Kernel) run(o *Object, v variant, spec *ebpf.CollectionSpec, programs map[string]*ebpf.ProgramSpec, opts ebpf.CollectionOptions) (err error) {
	part := spec.Copy()
	part.Programs = map[string]*ebpf.ProgramSpec{}
	for _, name := range v.programs {
		part.Programs[name] = aimed(programs[name], v.alternative)
	}
	coll, err := ebpf.NewCollectionWithOptions(part, opts)
	if v.kind == "fentry" && errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("this kernel and its modules have no such function, or no BTF of it: %w", err)
	}
	if err != nil {
		return err
	}
	var links []io.Closer
	defer func() {
		if err != nil {
			err = errors.Join(err, closeLinks(links))
		}
		coll.Close() // its maps are clones, the programs that run have been detached from it
	}()
	for _, name := range v.programs {
		l, err := k.attach(o, part.Programs[name], coll.Programs[name])
		if err != nil {
			return fmt.Errorf("attach %s to %s: %w", name, part.Programs[name].SectionName, err)
		}
		if l != nil {
			links = append(links, l)
		}
	}
	for _, name := range v.programs {
		o.Programs[name] = coll.DetachProgram(name)
	}
	o.links = append(o.links, links...)
	return nil
}

// attach attaches a program, or puts it into a chain if its object has a map for that.
func (k *Kernel) attach(o *Object, spec *ebpf.ProgramSpec, program *ebpf.Program) (io.Closer, error) {
	if after := o.Maps[afterPrefix+spec.AttachTo]; after != nil && spec.AttachType == ebpf.AttachTraceRawTp {
		return k.chains.join(spec, program, after)
	}
	return attach(spec, program)
}

// attach attaches a program to the hook that its section names. Programs that are run or opened by
// user space (a system call, a raw_tp section without a tracepoint, an iterator) have none.
func attach(spec *ebpf.ProgramSpec, program *ebpf.Program) (io.Closer, error) {
	switch {
	case spec.Type == ebpf.RawTracepoint && spec.AttachTo != "":
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: spec.AttachTo, Program: program})
	case spec.Type == ebpf.RawTracepoint, spec.Type == ebpf.Syscall, spec.AttachType == ebpf.AttachTraceIter:
		return nil, nil
	case spec.Type == ebpf.Tracing:
		return link.AttachTracing(link.TracingOptions{Program: program})
	case spec.Type == ebpf.Kprobe && strings.HasPrefix(spec.SectionName, "kretprobe/"):
		return link.Kretprobe(spec.AttachTo, program, nil)
	case spec.Type == ebpf.Kprobe:
		return link.Kprobe(spec.AttachTo, program, nil)
	default:
		return nil, fmt.Errorf("cannot attach a program of type %s", spec.Type)
	}
}

func closeLinks(links []io.Closer) error {
	var errs []error
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Detach stops the programs; what they have written stays until Close.
func (o *Object) Detach() error {
	err := closeLinks(o.links)
	o.links = nil
	return err
}

// Close detaches and frees everything.
func (o *Object) Close() error {
	err := o.Detach()
	for _, p := range o.Programs {
		err = errors.Join(err, p.Close())
	}
	for _, m := range o.Maps {
		err = errors.Join(err, m.Close())
	}
	return err
}

// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
)

// afterPrefix is what the name of the map begins with by which a program calls the next one at its
// tracepoint, see bpf/include/path.h; the tracepoint's name follows.
const afterPrefix = "after_"

// chains are the programs of all objects that share a tracepoint. For the kernel to enter a program costs more
// than what those of the packet path do, so that only the first is attached, and each calls the next.
type chains struct {
	mu sync.Mutex
	by map[string][]*member // by section
}

// member is a program in a chain.
type member struct {
	chains  *chains
	spec    *ebpf.ProgramSpec
	program *ebpf.Program
	after   *ebpf.Map // where the next one is
	link    io.Closer // of the first one
}

// join lets a program run at the tracepoint that its section names, behind those that are there.
func (c *chains) join(spec *ebpf.ProgramSpec, program *ebpf.Program, after *ebpf.Map) (io.Closer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &member{chains: c, spec: spec, program: program, after: after}
	before := c.by[spec.SectionName]
	var err error
	if len(before) == 0 {
		err = m.attach()
	} else {
		err = before[len(before)-1].call(program)
	}
	if err != nil {
		return nil, err
	}
	if c.by == nil {
		c.by = map[string][]*member{}
	}
	c.by[spec.SectionName] = append(before, m)
	return m, nil
}

func (m *member) attach() (err error) {
	m.link, err = attach(m.spec, m.program)
	return err
}

func (m *member) call(next *ebpf.Program) error {
	if err := m.after.Update(uint32(0), next, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("put %s behind %s: %w", next, m.program, err)
	}
	return nil
}

// Close takes the program out of its chain. Those behind it go on.
func (m *member) Close() error {
	m.chains.mu.Lock()
	defer m.chains.mu.Unlock()
	all := m.chains.by[m.spec.SectionName]
	i := slices.Index(all, m)
	var errs []error
	// Not before: no packet passes the next one twice.
	if m.link != nil {
		errs = append(errs, m.link.Close())
	}
	switch {
	case i > 0 && i+1 < len(all):
		errs = append(errs, all[i-1].call(all[i+1].program))
	case i > 0:
		errs = append(errs, all[i-1].after.Delete(uint32(0)))
	case i+1 < len(all):
		errs = append(errs, all[1].attach())
	}
	m.chains.by[m.spec.SectionName] = slices.Delete(all, i, i+1)
	return errors.Join(errs...)
}

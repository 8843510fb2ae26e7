// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package corecheck

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// value is what is known of a register: nothing yet, a number, or that it can be anything.
type value struct {
	kind byte
	n    uint64
}

const (
	unset byte = iota
	number
	anything
)

// registers is the state before an instruction.
type registers [11]value

// join makes a state that covers both, and tells whether it is another than r.
func (r *registers) join(other registers) bool {
	changed := false
	for i, v := range other {
		switch {
		case v.kind == unset || r[i] == v || r[i].kind == anything:
			continue
		case r[i].kind == unset:
			r[i] = v
		default:
			r[i] = value{kind: anything}
		}
		changed = true
	}
	return changed
}

// unknown is the state at the entry of a function.
func unknown() (r registers) {
	for i := range r {
		r[i].kind = anything
	}
	return r
}

// reachable tells of each instruction of a program with its functions whether the verifier comes
// there. It follows numbers through registers, as the verifier does, so that what
// bpf_core_field_exists() guards is dead where the field is not. Where ways meet it knows less than
// the verifier, which follows each by itself: it may call reachable what is not, never the reverse.
func reachable(insns asm.Instructions) ([]bool, error) {
	var (
		states  = make([]*registers, len(insns))
		byOff   = map[asm.RawInstructionOffset]int{}
		offset  = make([]asm.RawInstructionOffset, len(insns))
		symbols = map[string]int{}
		pending []int
	)
	for it := insns.Iterate(); it.Next(); {
		byOff[it.Offset], offset[it.Index] = it.Index, it.Offset
		if s := it.Ins.Symbol(); s != "" {
			symbols[s] = it.Index
		}
	}
	enter := func(i int, r registers) {
		if states[i] == nil {
			states[i] = &registers{}
			*states[i] = r
		} else if !states[i].join(r) {
			return
		}
		pending = append(pending, i)
	}
	enter(0, unknown())
	for len(pending) > 0 {
		i := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		ins := &insns[i]
		r := *states[i]
		if ins.IsFunctionReference() {
			target, ok := symbols[ins.Reference()]
			if !ok {
				return nil, fmt.Errorf("instruction %d: no function %q", i, ins.Reference())
			}
			enter(target, unknown())
		}
		next, jump := true, false
		switch class := ins.OpCode.Class(); {
		case poisoned(ins):
			continue // the verifier stops here
		case class.IsJump():
			switch op := ins.OpCode.JumpOp(); op {
			case asm.Exit:
				continue
			case asm.Call:
				for reg := asm.R0; reg <= asm.R5; reg++ {
					r[reg] = value{kind: anything}
				}
			case asm.Ja:
				next, jump = false, true
			default:
				next, jump = branches(ins, &r)
			}
		case class.IsALU():
			r[ins.Dst] = compute(ins, &r)
		case ins.IsConstantLoad(asm.DWord):
			r[ins.Dst] = value{number, uint64(ins.Constant)}
		case class == asm.LdClass, class == asm.LdXClass:
			r[ins.Dst] = value{kind: anything}
		case class == asm.StXClass && ins.OpCode.Mode() == asm.AtomicMode:
			r[ins.Src], r[asm.R0] = value{kind: anything}, value{kind: anything} // fetch, compare and exchange
		}
		if next {
			if i+1 == len(insns) {
				return nil, fmt.Errorf("instruction %d: the program has no end", i)
			}
			enter(i+1, r)
		}
		if jump {
			distance := int64(ins.Offset)
			if ins.OpCode.JumpOp() == asm.Ja && ins.OpCode.Class() == asm.Jump32Class {
				distance = ins.Constant
			}
			target, ok := byOff[asm.RawInstructionOffset(int64(offset[i])+1+distance)]
			if !ok {
				return nil, fmt.Errorf("instruction %d: jumps to no instruction", i)
			}
			enter(target, r)
		}
	}
	reached := make([]bool, len(insns))
	for i := range insns {
		reached[i] = states[i] != nil
	}
	return reached, nil
}

// operand is the right-hand side of an instruction.
func operand(ins *asm.Instruction, r *registers) value {
	if ins.OpCode.Source() == asm.RegSource {
		return r[ins.Src]
	}
	return value{number, uint64(ins.Constant)}
}

// compute returns what an arithmetic instruction leaves in its destination.
func compute(ins *asm.Instruction, r *registers) value {
	a, b := r[ins.Dst], operand(ins, r)
	op := ins.OpCode.ALUOp()
	if b.kind != number || op != asm.Mov && a.kind != number {
		return value{kind: anything}
	}
	n := b.n
	switch op {
	case asm.Mov:
	case asm.Add:
		n = a.n + b.n
	case asm.And:
		n = a.n & b.n
	case asm.Or:
		n = a.n | b.n
	case asm.Xor:
		n = a.n ^ b.n
	case asm.LSh:
		n = a.n << (b.n & 63)
	case asm.RSh:
		n = a.n >> (b.n & 63)
	default:
		return value{kind: anything}
	}
	if ins.OpCode.Class() == asm.ALUClass {
		n = uint64(uint32(n))
	}
	return value{number, n}
}

// branches tells which ways a conditional jump goes.
func branches(ins *asm.Instruction, r *registers) (next, jump bool) {
	a, b := r[ins.Dst], operand(ins, r)
	if a.kind != number || b.kind != number {
		return true, true
	}
	x, y := a.n, b.n
	sx, sy := int64(x), int64(y)
	if ins.OpCode.Class() == asm.Jump32Class {
		sx, sy = int64(int32(x)), int64(int32(y))
		x, y = uint64(uint32(x)), uint64(uint32(y))
	}
	switch ins.OpCode.JumpOp() {
	case asm.JEq:
		jump = x == y
	case asm.JNE:
		jump = x != y
	case asm.JGT:
		jump = x > y
	case asm.JGE:
		jump = x >= y
	case asm.JLT:
		jump = x < y
	case asm.JLE:
		jump = x <= y
	case asm.JSGT:
		jump = sx > sy
	case asm.JSGE:
		jump = sx >= sy
	case asm.JSLT:
		jump = sx < sy
	case asm.JSLE:
		jump = sx <= sy
	case asm.JSet:
		jump = x&y != 0
	default:
		return true, true
	}
	return !jump, jump
}

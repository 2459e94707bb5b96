package seccomp

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func known(op specs.LinuxSeccompOperator) bool {
	return slices.Contains([]specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}, op)
}

// condition goes on if the argument compares as arg says, and jumps to other if
// not. Arguments have 64 bits, the machine 32: the high halves decide unless they
// are equal.
func (a *asm) condition(abi arch, arg specs.LinuxSeccompArg, other label) {
	low := uint32(offArgs + 8*arg.Index)
	high := low + 4
	if abi.bigEndian() {
		low, high = high, low
	}
	vl, vh := uint32(arg.Value), uint32(arg.Value>>32)
	switch arg.Op {
	case specs.OpEqualTo:
		a.load(high)
		a.jumpIfNot(unix.BPF_JEQ, vh, other)
		a.load(low)
		a.jumpIfNot(unix.BPF_JEQ, vl, other)
	case specs.OpMaskedEqual: // value is the mask, valueTwo what is compared with
		a.load(high)
		a.and(vh)
		a.jumpIfNot(unix.BPF_JEQ, uint32(arg.ValueTwo>>32), other)
		a.load(low)
		a.and(vl)
		a.jumpIfNot(unix.BPF_JEQ, uint32(arg.ValueTwo), other)
	case specs.OpNotEqual:
		holds := a.newLabel()
		a.load(high)
		a.jumpIfNot(unix.BPF_JEQ, vh, holds)
		a.load(low)
		a.jumpIf(unix.BPF_JEQ, vl, other)
		a.place(holds)
	case specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan:
		a.order(arg.Op, low, high, vl, vh, other)
	}
}

// order compiles the comparisons of size.
func (a *asm) order(op specs.LinuxSeccompOperator, low, high, vl, vh uint32, other label) {
	holds := a.newLabel()
	greater, less := holds, other
	if op == specs.OpLessEqual || op == specs.OpLessThan {
		greater, less = other, holds
	}
	a.load(high)
	a.jumpIf(unix.BPF_JGT, vh, greater)
	a.jumpIfNot(unix.BPF_JEQ, vh, less)
	a.load(low)
	switch op {
	case specs.OpGreaterEqual:
		a.jumpIfNot(unix.BPF_JGE, vl, other)
	case specs.OpGreaterThan:
		a.jumpIfNot(unix.BPF_JGT, vl, other)
	case specs.OpLessEqual:
		a.jumpIf(unix.BPF_JGT, vl, other)
	case specs.OpLessThan:
		a.jumpIf(unix.BPF_JGE, vl, other)
	}
	a.place(holds)
}

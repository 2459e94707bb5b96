package seccomp

import (
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// maxLen is BPF_MAXINSNS, the kernel's limit for a filter.
const maxLen = 4096

// label is a place in a program, known once it is placed.
type label int

// instr is an instruction, a jump or a place. Jumps go forward only.
type instr struct {
	filter unix.SockFilter
	kind   kind
	to     label // kindJump, kindBranch
	unless bool  // kindBranch: jump if the comparison fails
}

type kind uint8

const (
	kindPlain kind = iota
	kindJump
	kindBranch
	kindPlace
)

// asm is a program under construction.
type asm struct {
	code   []instr
	labels int
}

func (a *asm) newLabel() label {
	a.labels++
	return label(a.labels - 1)
}

func (a *asm) place(l label) { a.code = append(a.code, instr{kind: kindPlace, to: l}) }

func (a *asm) emit(code uint16, k uint32) {
	a.code = append(a.code, instr{filter: unix.SockFilter{Code: code, K: k}})
}

func (a *asm) load(off uint32)   { a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, off) }
func (a *asm) and(mask uint32)   { a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask) }
func (a *asm) ret(action uint32) { a.emit(unix.BPF_RET|unix.BPF_K, action) }
func (a *asm) jump(to label)     { a.code = append(a.code, instr{kind: kindJump, to: to}) }

// jumpIf jumps if the accumulator compares to k by op (BPF_JEQ, JGT, JGE);
// jumpIfNot if it does not.
func (a *asm) jumpIf(op uint16, k uint32, to label) { a.branch(op, k, to, false) }

func (a *asm) jumpIfNot(op uint16, k uint32, to label) { a.branch(op, k, to, true) }

func (a *asm) branch(op uint16, k uint32, to label, unless bool) {
	f := unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k}
	a.code = append(a.code, instr{filter: f, kind: kindBranch, to: to, unless: unless})
}

// assemble builds the program from its end, where the distance of every jump is
// known. A branch reaches 255 instructions; one further away skips a jump.
func (a *asm) assemble() ([]unix.SockFilter, error) {
	var out []unix.SockFilter // reversed
	places := make([]int, a.labels)
	for i := range places {
		places[i] = -1
	}
	for i := len(a.code) - 1; i >= 0; i-- {
		in := a.code[i]
		if in.kind == kindPlace {
			places[in.to] = len(out)
			continue
		}
		if in.kind == kindPlain {
			out = append(out, in.filter)
			continue
		}
		if places[in.to] < 0 {
			return nil, fmt.Errorf("assemble filter: jump at %d goes backward", i)
		}
		dist := len(out) - places[in.to]
		if in.kind == kindJump {
			out = append(out, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(dist)})
			continue
		}
		f := in.filter
		take, pass := dist, 0
		if dist > math.MaxUint8 {
			out = append(out, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(dist)})
			take, pass = 0, 1
		}
		if in.unless {
			take, pass = pass, take
		}
		f.Jt, f.Jf = uint8(take), uint8(pass)
		out = append(out, f)
	}
	slices.Reverse(out)
	if len(out) > maxLen {
		return nil, fmt.Errorf("assemble filter: %d instructions, want at most %d: the profile has too many conditions", len(out), maxLen)
	}
	return out, nil
}

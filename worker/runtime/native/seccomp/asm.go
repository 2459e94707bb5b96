package seccomp

import (
	"fmt"
	"math"

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

// asm is a program under construction. Jumps go forward only, over any
// distance: a condition skips one instruction, and that one jumps.
type asm struct {
	code   []unix.SockFilter
	places []int         // of labels; -1 while not placed
	jumps  map[int]label // unconditional jumps to be fixed up
}

func (a *asm) newLabel() label {
	a.places = append(a.places, -1)
	return label(len(a.places) - 1)
}

func (a *asm) place(l label) { a.places[l] = len(a.code) }

func (a *asm) emit(code uint16, jt, jf uint8, k uint32) {
	a.code = append(a.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
}

func (a *asm) load(off uint32)   { a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, off) }
func (a *asm) and(mask uint32)   { a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, mask) }
func (a *asm) ret(action uint32) { a.emit(unix.BPF_RET|unix.BPF_K, 0, 0, action) }

func (a *asm) jump(to label) {
	if a.jumps == nil {
		a.jumps = make(map[int]label)
	}
	a.jumps[len(a.code)] = to
	a.emit(unix.BPF_JMP|unix.BPF_JA, 0, 0, 0)
}

// jumpIf jumps if the accumulator compares to k by op (BPF_JEQ, JGT, JGE, JSET);
// jumpIfNot if it does not.
func (a *asm) jumpIf(op uint16, k uint32, to label) {
	a.emit(unix.BPF_JMP|op|unix.BPF_K, 0, 1, k)
	a.jump(to)
}

func (a *asm) jumpIfNot(op uint16, k uint32, to label) {
	a.emit(unix.BPF_JMP|op|unix.BPF_K, 1, 0, k)
	a.jump(to)
}

func (a *asm) assemble() ([]unix.SockFilter, error) {
	for at, l := range a.jumps {
		dist := a.places[l] - at - 1
		if a.places[l] < 0 || dist < 0 || dist > math.MaxInt32 {
			return nil, fmt.Errorf("assemble filter: jump at %d goes nowhere", at)
		}
		a.code[at].K = uint32(dist)
	}
	if len(a.code) > maxLen {
		return nil, fmt.Errorf("assemble filter: %d instructions, want at most %d: the profile has too many conditions", len(a.code), maxLen)
	}
	return a.code, nil
}

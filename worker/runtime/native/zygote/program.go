package zygote

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kind of an operation.
type opKind uint8

const (
	opCall   opKind = iota // a system call
	opExec                 // execve; its error is noted, the next operation goes on
	opInside               // fail unless mem, where getcwd wrote to, begins with a slash
	opFail                 // the end, if no execve succeeded
)

// How an operation's error passes.
const (
	passNone   uint8 = iota
	passAbsent       // ENOENT: the thing is not there, nor what follows in skip
	passDenied       // EACCES, EPERM
	passAll
)

// op is one operation of a program. Nothing in it is decided by the child but
// what the fields say.
type op struct {
	nr   uintptr
	a    [6]uintptr
	refs uint8 // bit i: a[i] is the number of a slot, not a value
	out  int8  // slot that the result goes to; none if < 0
	fail int8  // slot that the errno of a passed error goes to; none if < 0
	when int8  // runs only if that slot is not zero; always if < 0
	kind opKind
	pass uint8
	skip uint8 // operations left out after a passed error
	mem  *byte
	name string
}

const (
	slots    = 128
	slotErr  = 0 // descriptor that a failure is reported on
	maxExecs = 64
)

// report is what a child that fails writes to its error descriptor.
type report struct {
	op    int32
	errno int32
	execs [maxExecs]int32 // errno of each execve tried
}

// program is a list of operations for a child to carry out, with the memory that
// they point to.
type program struct {
	ops   []op
	keep  []any
	slot  [slots]uintptr
	next  int8
	rep   report
	noted int // execve operations so far
	args  cloneArgs
	pidfd int32
	share bool
}

func newProgram(errfd int) *program {
	p := &program{next: slotErr + 1}
	p.slot[slotErr] = uintptr(errfd)
	return p
}

// call adds a system call.
func (p *program) call(name string, nr uintptr, a ...uintptr) *op {
	o := op{nr: nr, out: -1, fail: -1, when: -1, name: name}
	copy(o.a[:], a)
	p.ops = append(p.ops, o)
	return &p.ops[len(p.ops)-1]
}

// newSlot returns the number of an unused slot.
func (p *program) newSlot() int8 {
	if int(p.next) >= slots-1 {
		panic("zygote: a program has too many results")
	}
	p.next++
	return p.next - 1
}

// result has the call's result kept and returns its slot.
func (p *program) result(o *op) int8 {
	o.out = p.newSlot()
	return o.out
}

// use makes argument i of the call the content of a slot.
func (o *op) use(i int, slot int8) *op {
	o.a[i] = uintptr(slot)
	o.refs |= 1 << i
	return o
}

// passing lets errors of a class pass; skip more operations are left out then.
func (o *op) passing(class, skip uint8) *op {
	o.pass, o.skip = class, skip
	return o
}

// str returns the address of a NUL-terminated copy of s.
func (p *program) str(s string) uintptr {
	b := make([]byte, len(s)+1)
	copy(b, s)
	p.keep = append(p.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// strs returns the address of a NULL-terminated array of strings.
func (p *program) strs(list []string) uintptr {
	ptrs := make([]uintptr, len(list)+1)
	for i, s := range list {
		ptrs[i] = p.str(s)
	}
	p.keep = append(p.keep, ptrs)
	return uintptr(unsafe.Pointer(&ptrs[0]))
}

// ptr keeps v alive and returns its address.
func ptr[T any](p *program, v *T) uintptr {
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(v))
}

// exec adds the execution of a file, tried if those before it failed.
func (p *program) exec(file string, argv, env uintptr) error {
	if p.noted == maxExecs {
		return fmt.Errorf("PATH has more than %d directories", maxExecs)
	}
	p.call("exec "+file, unix.SYS_EXECVE, p.str(file), argv, env).kind = opExec
	p.noted++
	return nil
}

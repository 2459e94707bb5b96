package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Version 2 has no files for devices: a group carries an eBPF program that is
// asked on each access. Its argument, in r1, is
//
//	struct bpf_cgroup_dev_ctx { u32 access_type, major, minor; }
//
// with the type of device in the low half of access_type and the access in the
// high half; it returns 1 to allow.

// insn is struct bpf_insn.
type insn struct {
	code uint8
	regs uint8 // destination in the low half, source in the high half
	off  int16
	imm  int32
}

const (
	ldxW   = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	movK   = 0xb0 | unix.BPF_ALU | unix.BPF_K // 32 bits wide, as all of these
	movX   = 0xb0 | unix.BPF_ALU | unix.BPF_X
	andK   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	rshK   = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	mov64K = 0xb0 | unix.BPF_ALU64 | unix.BPF_K
	jneK   = 0x50 | unix.BPF_JMP | unix.BPF_K
	exit   = 0x90 | unix.BPF_JMP
)

// compile returns the program of a policy.
func (p policy) compile() []insn {
	// r2 type, r3 access, r4 major, r5 minor; r0 and r1 are free after that.
	code := []insn{
		{ldxW, 2 | 1<<4, 0, 0},
		{movX, 3 | 2<<4, 0, 0},
		{andK, 2, 0, 0xffff},
		{rshK, 3, 0, 16},
		{ldxW, 4 | 1<<4, 4, 0},
		{ldxW, 5 | 1<<4, 8, 0},
	}
	verdict := func(allow bool) []insn {
		v := int32(0)
		if allow {
			v = 1
		}
		return []insn{{mov64K, 0, 0, v}, {exit, 0, 0, 0}}
	}
	for _, d := range p.exceptions {
		code = append(code, d.compile(p.allow, verdict(!p.allow))...)
	}
	return append(code, verdict(p.allow)...)
}

// compile returns the part of a program that ends in verdict if an access is to
// this device: for an exception that allows, an access that it covers; for one
// that denies, an access that it touches.
func (d device) compile(denies bool, verdict []insn) []insn {
	kind := int32(1) // BPF_DEVCG_DEV_BLOCK
	if d.kind == 'c' {
		kind = 2
	}
	bits := int32(0)
	for _, c := range d.access {
		bits |= map[rune]int32{'m': 1, 'r': 2, 'w': 4}[c]
	}
	code := []insn{{jneK, 2, 0, kind}}
	if d.major >= 0 {
		code = append(code, insn{jneK, 4, 0, int32(d.major)})
	}
	if d.minor >= 0 {
		code = append(code, insn{jneK, 5, 0, int32(d.minor)})
	}
	code = append(code, insn{movX, 1 | 3<<4, 0, 0})
	if denies {
		// Any bit in common: skip the verdict on none.
		code = append(code, insn{andK, 1, 0, bits}, insn{0x10 | unix.BPF_JMP | unix.BPF_K, 1, 0, 0})
	} else {
		// No bit beyond: skip the verdict on one.
		code = append(code, insn{andK, 1, 0, ^bits}, insn{jneK, 1, 0, 0})
	}
	code = append(code, verdict...)
	for i := range code { // every jump leads behind the verdict
		if code[i].code == jneK || code[i].code == 0x10|unix.BPF_JMP|unix.BPF_K {
			code[i].off = int16(len(code) - i - 1)
		}
	}
	return code
}

// programs are those that the kernel has checked already, by their code. They
// are few, and live as long as the process.
var programs struct {
	mu sync.Mutex
	m  map[string]*os.File
}

// license is at a fixed address, unlike what may lie on a stack. The program
// calls no function that asks for another one.
var license = []byte("Apache\x00")

func load(code []insn) (*os.File, error) {
	key := string(unsafe.Slice((*byte)(unsafe.Pointer(&code[0])), len(code)*int(unsafe.Sizeof(insn{}))))
	programs.mu.Lock()
	f := programs.m[key]
	programs.mu.Unlock()
	if f != nil {
		return f, nil
	}
	log := make([]byte, 64<<10)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // the halves of regs are bit fields
		for i, in := range code {
			code[i].regs = in.regs>>4 | in.regs<<4
		}
	}
	attr := make([]byte, 120) // union bpf_attr of BPF_PROG_LOAD
	put := binary.NativeEndian.PutUint64
	binary.NativeEndian.PutUint32(attr[0:], unix.BPF_PROG_TYPE_CGROUP_DEVICE)
	binary.NativeEndian.PutUint32(attr[4:], uint32(len(code)))
	put(attr[8:], uint64(uintptr(unsafe.Pointer(&code[0]))))
	put(attr[16:], uint64(uintptr(unsafe.Pointer(&license[0]))))
	binary.NativeEndian.PutUint32(attr[24:], 1) // log_level
	binary.NativeEndian.PutUint32(attr[28:], uint32(len(log)))
	put(attr[32:], uint64(uintptr(unsafe.Pointer(&log[0]))))
	fd, err := bpf(unix.BPF_PROG_LOAD, attr)
	runtime.KeepAlive(code)
	runtime.KeepAlive(log)
	if err != nil {
		return nil, fmt.Errorf("load device program: %w (%s)", err, unix.ByteSliceToString(log))
	}
	unix.CloseOnExec(fd)
	f = os.NewFile(uintptr(fd), "device program")
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if programs.m == nil {
		programs.m = make(map[string]*os.File)
	}
	if other := programs.m[key]; other != nil {
		f.Close()
		return other, nil
	}
	programs.m[key] = f
	return f, nil
}

// attachV2 has a group's accesses checked by the policy's program.
func (p policy) attachV2(dir string) error {
	prog, err := load(p.compile())
	if err != nil {
		return err
	}
	group, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open control group", Path: dir, Err: err}
	}
	defer unix.Close(group)
	attr := make([]byte, 32) // target, program, attach type, flags, ...
	for i, v := range []uint32{uint32(group), uint32(prog.Fd()), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI} {
		binary.NativeEndian.PutUint32(attr[4*i:], v)
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, attr); err != nil {
		return fmt.Errorf("attach device program to control group %s: %w", dir, err)
	}
	return nil
}

func bpf(cmd int, attr []byte) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return -1, errno
		}
	}
}

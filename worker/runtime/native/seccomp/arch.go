package seccomp

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is one row of a system call table.
type call struct {
	name string
	nr   uint32
}

// x32Bit marks the calls of the x32 ABI, which shares its audit architecture
// with x86_64.
const x32Bit = 0x40000000

// arch is an ABI that a filter can tell apart.
type arch struct {
	name  specs.Arch
	audit uint32
	calls []call
}

// find returns the architectures of names that the machine can execute; names
// of other machines are left out, as a profile lists them all.
func find(names []specs.Arch) ([]arch, error) {
	if len(names) == 0 {
		names = []specs.Arch{Native}
	}
	var out []arch
	hasNative := false
	for _, n := range names {
		for _, a := range arches() {
			if a.name == n {
				out = append(out, a)
				hasNative = hasNative || n == Native
			}
		}
	}
	if !hasNative {
		return nil, fmt.Errorf("architectures %v: want %s, the machine's own, among them", names, Native)
	}
	return out, nil
}

// x32Calls are numbered as on x86_64, but for those whose arguments differ
// (arch/x86/entry/syscalls/syscall_64.tbl).
func x32Calls(calls64 []call) []call {
	special := map[string]uint32{
		"rt_sigaction": 512, "rt_sigreturn": 513, "ioctl": 514, "readv": 515, "writev": 516,
		"recvfrom": 517, "sendmsg": 518, "recvmsg": 519, "execve": 520, "ptrace": 521,
		"rt_sigpending": 522, "rt_sigtimedwait": 523, "rt_sigqueueinfo": 524, "sigaltstack": 525,
		"timer_create": 526, "mq_notify": 527, "kexec_load": 528, "waitid": 529,
		"set_robust_list": 530, "get_robust_list": 531, "vmsplice": 532, "move_pages": 533,
		"preadv": 534, "pwritev": 535, "rt_tgsigqueueinfo": 536, "recvmmsg": 537, "sendmmsg": 538,
		"process_vm_readv": 539, "process_vm_writev": 540, "setsockopt": 541, "getsockopt": 542,
		"io_setup": 543, "io_submit": 544, "execveat": 545, "preadv2": 546, "pwritev2": 547,
	}
	out := make([]call, len(calls64))
	for i, c := range calls64 {
		if nr, ok := special[c.name]; ok {
			c.nr = nr
		}
		out[i] = call{c.name, c.nr | x32Bit}
	}
	return out
}

const bigEndianArch = unix.AUDIT_ARCH_S390X

// bigEndian reports whether the high half of an argument comes first.
func (a arch) bigEndian() bool { return a.audit == bigEndianArch }

package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Native is the architecture of the machine.
const Native = specs.ArchX86_64

func arches() []arch {
	return []arch{
		{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, callsAmd64},
		{specs.ArchX32, unix.AUDIT_ARCH_X86_64, x32Calls(callsAmd64)},
		{specs.ArchX86, unix.AUDIT_ARCH_I386, calls386},
	}
}

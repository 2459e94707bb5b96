package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Native is the architecture of the machine.
const Native = specs.ArchAARCH64

func arches() []arch {
	return []arch{
		{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, callsArm64},
		{specs.ArchARM, unix.AUDIT_ARCH_ARM, callsArm},
	}
}

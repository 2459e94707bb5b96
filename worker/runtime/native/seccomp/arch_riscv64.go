package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Native is the architecture of the machine.
const Native = specs.ArchRISCV64

func arches() []arch {
	return []arch{{specs.ArchRISCV64, unix.AUDIT_ARCH_RISCV64, callsRiscv64}}
}

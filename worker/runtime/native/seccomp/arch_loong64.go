package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Native is the architecture of the machine.
const Native = specs.ArchLOONGARCH64

func arches() []arch {
	return []arch{{specs.ArchLOONGARCH64, unix.AUDIT_ARCH_LOONGARCH64, callsLoong64}}
}

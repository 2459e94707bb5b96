package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Native is the architecture of the machine.
const Native = specs.ArchS390X

func arches() []arch {
	return []arch{{specs.ArchS390X, unix.AUDIT_ARCH_S390X, callsS390x}}
}

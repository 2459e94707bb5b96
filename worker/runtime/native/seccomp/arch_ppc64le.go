package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Native is the architecture of the machine.
const Native = specs.ArchPPC64LE

func arches() []arch {
	return []arch{{specs.ArchPPC64LE, unix.AUDIT_ARCH_PPC64LE, callsPpc64le}}
}

package seccomp

import (
	"golang.org/x/sys/unix"
)

// Call is a system call of one architecture, as a listener hears of it.
type Call struct{ Arch, Nr uint32 }

// Notify returns a filter that asks a listener about the calls that names has on
// all architectures that the machine can execute, and lets all others pass.
func Notify(names func(arch string) []string) ([]unix.SockFilter, map[Call]string, error) {
	a := &asm{}
	ask := a.newLabel()
	calls := map[Call]string{}
	for _, abi := range arches() {
		next := a.newLabel()
		a.load(offArch)
		a.jumpIfNot(unix.BPF_JEQ, abi.audit, next)
		a.load(offNr)
		for _, name := range names(string(abi.name)) {
			for _, c := range abi.calls {
				if c.name == name {
					calls[Call{abi.audit, c.nr}] = name
					a.jumpIf(unix.BPF_JEQ, c.nr, ask)
				}
			}
		}
		a.place(next)
	}
	a.ret(unix.SECCOMP_RET_ALLOW)
	a.place(ask)
	a.ret(unix.SECCOMP_RET_USER_NOTIF)
	code, err := a.assemble()
	return code, calls, err
}

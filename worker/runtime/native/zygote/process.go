package zygote

import (
	"path"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	errorFD  = 3 // of the child, where a failure is reported
	firstFD  = 4 // and all above are closed
	bitAdmin = 1 << unix.CAP_SYS_ADMIN
)

// planProcess lays out what makes the child the process that was asked for, once
// it is in its namespaces.
func planProcess(b base, p *program, proc *Process, std [3]fd, user *userNS, owners *owners) error {
	p.call("join session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).passing(passAll, 0)
	p.call("start session", unix.SYS_SETSID)
	planStreams(p, proc, std)
	planFiles(b, p, proc)
	for _, r := range proc.Rlimits {
		lim := &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		p.call("set resource limit "+strconv.Itoa(r.Resource), unix.SYS_PRLIMIT64, 0, uintptr(r.Resource), ptr(p, lim), 0)
	}
	if user != nil {
		user.plan(p)
	}
	// The root and all other descriptors of the zygote go before the working
	// directory is looked up: no path must lead to them.
	p.call("keep error descriptor", unix.SYS_DUP3, p.slot[slotErr], errorFD, unix.O_CLOEXEC).out = slotErr
	first := uintptr(firstFD)
	if owners != nil {
		p.call("keep socket", unix.SYS_DUP3, uintptr(owners.theirs), ownerFD, unix.O_CLOEXEC)
		first = ownerFD + 1
	}
	p.call("close descriptors", unix.SYS_CLOSE_RANGE, first, uintptr(^uint32(0)), 0)
	if proc.Personality != nil {
		p.call("set personality", unix.SYS_PERSONALITY, uintptr(*proc.Personality))
	}
	p.call("set umask", unix.SYS_UMASK, uintptr(proc.Umask))
	// Once as root, which reaches what the user may not; if root may not either
	// (a file system of another user namespace), once as the user.
	cwd := "change to working directory " + proc.Cwd
	o := p.call(cwd, unix.SYS_CHDIR, p.str(proc.Cwd)).passing(passDenied, 0)
	denied := p.newSlot()
	o.fail = denied
	planUser(p, proc)
	p.call(cwd, unix.SYS_CHDIR, p.str(proc.Cwd)).when = denied
	buf := make([]byte, unix.PathMax)
	p.keep = append(p.keep, buf)
	p.call(cwd, unix.SYS_GETCWD, uintptr(unsafe.Pointer(&buf[0])), unix.PathMax)
	inside := p.call(cwd, 0)
	inside.kind, inside.mem = opInside, &buf[0]
	if err := planPrivileges(p, proc, owners); err != nil {
		return err
	}
	return planExec(p, proc)
}

func planStreams(p *program, proc *Process, std [3]fd) {
	for i, f := range std {
		p.call("set standard stream "+strconv.Itoa(i), unix.SYS_DUP3, uintptr(f), uintptr(i), 0)
	}
	if proc.Terminal {
		p.call("set controlling terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
}

// planFiles writes to the child's own files of the host's /proc, which no image
// can have put there.
func planFiles(b base, p *program, proc *Process) {
	write := func(what, file, text string) {
		f := p.result(p.call(what, unix.SYS_OPENAT, uintptr(b.proc), p.str(file), unix.O_WRONLY|unix.O_CLOEXEC, 0))
		p.call(what, unix.SYS_WRITE, 0, p.str(text), uintptr(len(text))).use(0, f)
	}
	if proc.OOMScoreAdj != nil {
		write("set OOM score", "self/oom_score_adj", strconv.Itoa(*proc.OOMScoreAdj))
	}
	if proc.AppArmor != "" {
		write("set AppArmor profile "+proc.AppArmor, "self/attr/apparmor/exec", "exec "+proc.AppArmor)
	}
}

// planUser drops the bounding set and becomes the user, keeping the rest of the
// capabilities for what is still to do.
func planUser(p *program, proc *Process) {
	for c := uint(0); c <= lastCap(); c++ {
		if proc.Bounding&(1<<c) == 0 {
			p.call("drop capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		}
	}
	p.call("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	groups := make([]uint32, len(proc.Groups)+1)
	for i, g := range proc.Groups {
		groups[i] = uint32(g)
	}
	p.keep = append(p.keep, groups)
	// A user namespace with one ID denies it, and has no groups to drop.
	p.call("set groups", unix.SYS_SETGROUPS, uintptr(len(proc.Groups)), uintptr(unsafe.Pointer(&groups[0]))).passing(passDenied, 0)
	gid, uid := uintptr(proc.GID), uintptr(proc.UID)
	p.call("set group to "+strconv.Itoa(proc.GID), unix.SYS_SETRESGID, gid, gid, gid)
	p.call("set user to "+strconv.Itoa(proc.UID), unix.SYS_SETRESUID, uid, uid, uid)
}

type capData struct {
	hdr  unix.CapUserHeader
	data [2]unix.CapUserData
}

func planCaps(p *program, effective, permitted, inheritable uint64) {
	c := &capData{hdr: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
	for i := range c.data {
		shift := 32 * i
		c.data[i] = unix.CapUserData{
			Effective:   uint32(effective >> shift),
			Permitted:   uint32(permitted >> shift),
			Inheritable: uint32(inheritable >> shift),
		}
	}
	p.keep = append(p.keep, c)
	p.call("set capabilities", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&c.hdr)), uintptr(unsafe.Pointer(&c.data)))
}

// planPrivileges sets capabilities and the seccomp filter. To load a filter
// without no_new_privs takes CAP_SYS_ADMIN, so that goes last; what follows the
// filter must be allowed by it.
func planPrivileges(p *program, proc *Process, owners *owners) error {
	permitted := proc.Permitted | proc.Effective
	loader := uint64(0)
	if proc.NoNewPrivs {
		p.call("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	} else if len(proc.Filter) > 0 || owners != nil {
		loader = bitAdmin
	}
	planCaps(p, proc.Effective|loader, permitted|loader, proc.Inheritable)
	none := &sigset{}
	p.call("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, ptr(p, none), 0, unsafe.Sizeof(*none))
	if owners != nil {
		if err := owners.plan(p); err != nil {
			return err
		}
	}
	if len(proc.Filter) > 0 {
		filter := append([]byte(nil), proc.Filter...)
		p.keep = append(p.keep, filter)
		prog := &unix.SockFprog{
			Len:    uint16(len(filter) / int(unsafe.Sizeof(unix.SockFilter{}))),
			Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0])),
		}
		p.call("load seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, proc.FilterFlags, ptr(p, prog))
	}
	if loader != 0 {
		planCaps(p, proc.Effective, permitted, proc.Inheritable)
	}
	for c := uint(0); c <= lastCap(); c++ {
		if proc.Ambient&proc.Inheritable&permitted&(1<<c) != 0 {
			p.call("raise ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0)
		}
	}
	return nil
}

// planExec has each file tried that the command may stand for.
func planExec(p *program, proc *Process) error {
	argv, env := p.strs(proc.Args), p.strs(proc.Env)
	for _, file := range candidates(proc) {
		if err := p.exec(file, argv, env); err != nil {
			return err
		}
	}
	p.call("execute", 0).kind = opFail
	return nil
}

// candidates are the files that the command may stand for, by the PATH of its own
// environment. Of an empty element, which would be the working directory, Go and
// runc make nothing, and so do we.
func candidates(proc *Process) []string {
	name := proc.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var files []string
	for _, e := range proc.Env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		files = nil // the last one counts
		for _, dir := range strings.Split(list, ":") {
			if path.IsAbs(dir) {
				files = append(files, path.Join(dir, name))
			}
		}
	}
	return files
}

// lastCap is the highest capability that the kernel knows.
var lastCap = sync.OnceValue(func() uint {
	last := uint(0)
	for c := uint(0); c < 64; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil {
			break
		}
		last = c
	}
	return last
})

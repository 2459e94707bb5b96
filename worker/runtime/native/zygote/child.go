package zygote

import (
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigset is the kernel's.
type sigset [64 / 8 / unsafe.Sizeof(uintptr(0))]uintptr

// cloneArgs is struct clone_args.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fork makes a child that carries out the program. The child is a copy of the
// calling thread alone; of the Go runtime nothing works in it, which is why all
// that it does is laid out beforehand. flags are further clone flags; cgroup is
// a descriptor for CLONE_INTO_CGROUP.
//
// With share the child has no copy of the zygote's memory but the memory itself,
// which saves a fifth of a container's cost. The calling thread waits in the
// kernel until the child executes or exits, so share must not be asked for where
// the child can be held up: by a process that can stop it, or by one that it
// waits for.
func (p *program) fork(flags uint64, cgroup int, share bool) (pid, pidfd int, err error) {
	p.share = share && canShare
	if p.share {
		flags |= unix.CLONE_VM | unix.CLONE_VFORK
	}
	// All that the kernel is given the address of lies in p, which is on the heap:
	// a stack may move.
	p.args = cloneArgs{
		flags:      flags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd:      uint64(uintptr(unsafe.Pointer(&p.pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if flags&unix.CLONE_INTO_CGROUP != 0 {
		p.args.cgroup = uint64(cgroup)
	}
	all := sigset{}
	for i := range all {
		all[i] = ^uintptr(0)
	}
	var old sigset
	collection.RLock()
	defer collection.RUnlock()
	// The runtime's signals must not reach the child, where their handlers have
	// no runtime to run in.
	sigprocmask(&all, &old)
	n, errno := p.run()
	sigprocmask(&old, nil)
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, -1, errno
	}
	return int(n), int(p.pidfd), nil
}

// collection keeps garbage collections and forks apart. A collector cannot look at
// the stack of a thread that forks, and would spin on all processors until it can.
var collection sync.RWMutex

// collectEvery is after how many processes garbage is collected: some megabytes.
const collectEvery = 64

// collectRarely stops the collector from running when it likes. It still does if
// the heap grows out of all proportion.
func collectRarely() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(256 << 20)
}

// collect collects garbage while no fork is under way.
func collect() {
	collection.Lock()
	defer collection.Unlock()
	runtime.GC()
}

func sigprocmask(set, old *sigset) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(*set), 0, 0)
}

// run forks, and in the child never returns. In the child nothing may allocate,
// grow the stack or call into the runtime: raw system calls and arithmetic only.
//
//go:norace
//go:noinline
func (p *program) run() (uintptr, syscall.Errno) {
	var pid uintptr
	var errno syscall.Errno
	if p.share {
		var e uintptr
		pid, e = vfork(unsafe.Pointer(&p.args), unsafe.Sizeof(p.args))
		errno = syscall.Errno(e)
	} else {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&p.args)), unsafe.Sizeof(p.args), 0, 0, 0, 0)
	}
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	execs := 0
	for i := 0; i < len(p.ops); i++ {
		o := &p.ops[i]
		if o.when >= 0 && p.slot[o.when] == 0 {
			continue
		}
		switch o.kind {
		case opInside:
			if *o.mem != '/' {
				p.exit(i, syscall.ENOENT)
			}
			continue
		case opFail:
			p.exit(i, 0)
		}
		var a [6]uintptr
		for j := range a {
			a[j] = o.a[j]
			if o.refs&(1<<j) != 0 {
				a[j] = p.slot[o.a[j]&(slots-1)]
			}
		}
		r, _, e := syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
		switch {
		case o.kind == opExec:
			p.rep.execs[execs&(maxExecs-1)] = int32(e)
			execs++
			if e != syscall.ENOENT && e != syscall.ENOTDIR && e != syscall.EACCES {
				p.exit(i, e)
			}
		case e == 0:
			if o.out >= 0 {
				p.slot[o.out] = r
			}
		case !passes(o.pass, e):
			p.exit(i, e)
		default:
			if o.fail >= 0 {
				p.slot[o.fail] = uintptr(e)
			}
			i += int(o.skip)
		}
	}
	p.exit(len(p.ops)-1, 0)
	return 0, 0
}

//go:norace
//go:nosplit
func passes(class uint8, e syscall.Errno) bool {
	switch class {
	case passAll:
		return true
	case passAbsent:
		return e == syscall.ENOENT
	case passDenied:
		return e == syscall.EACCES || e == syscall.EPERM
	}
	return false
}

// exit reports the failure of operation i and ends the child.
//
//go:norace
//go:nosplit
func (p *program) exit(i int, e syscall.Errno) {
	p.rep.op, p.rep.errno = int32(i), int32(e)
	syscall.RawSyscall6(unix.SYS_WRITE, p.slot[slotErr], uintptr(unsafe.Pointer(&p.rep)), unsafe.Sizeof(p.rep), 0, 0, 0)
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 1, 0, 0, 0, 0, 0)
	}
}

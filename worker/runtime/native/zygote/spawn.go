package zygote

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process is a child that executes what was asked for.
type process struct {
	pid    int
	pidfd  int
	master *os.File // of its terminal, if it has one
	pts    fd       // of a new container; noFD otherwise
}

func (p *process) close() {
	unix.Close(p.pidfd)
	p.pts.close()
}

// execError says that the command could not be executed, through no fault of the
// container.
type execError struct {
	text             string
	notFound, denied bool
}

func (e *execError) Error() string { return e.text }

// spawn makes a container and its first process (join is nil), or a further
// process of container join, on a thread of its own that ends with it.
func spawn(b base, r *Request, join *member, std []fd) (*process, error) {
	type result struct {
		p   *process
		err error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread's namespaces are not fit for anything else,
		// and with a goroutine that ends locked its thread ends.
		runtime.LockOSThread()
		s := newSetup(b, r.Container, &r.Process, std)
		defer s.close()
		var p *process
		var err error
		if join != nil {
			p, err = s.join(join)
		} else {
			p, err = s.create()
		}
		done <- result{p, err}
	}()
	res := <-done
	return res.p, res.err
}

// create makes the container and its first process.
func (s *setup) create() (*process, error) {
	if err := s.prepare(); err != nil {
		return nil, err
	}
	var user *userNS
	if s.c.UIDMap != "" {
		var err error
		if user, err = newUserNS(s.c.UIDMap, s.c.GIDMap); err != nil {
			return nil, err
		}
		defer user.close()
	}
	flags := uint64(0)
	if s.cgroup >= 0 {
		flags |= unix.CLONE_INTO_CGROUP
	}
	p, err := s.fork(flags, user, func(p *program) error {
		if s.cgroup >= 0 {
			p.call("make cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
		}
		return s.planMounts(p)
	})
	if err != nil {
		return nil, err
	}
	if s.pts >= 0 { // kept for terminals of processes that join
		n, err := unix.FcntlInt(uintptr(s.pts), unix.F_DUPFD_CLOEXEC, firstFD)
		if err != nil {
			p.kill()
			return nil, fmt.Errorf("keep devpts: %w", err)
		}
		p.pts = fd(n)
	}
	return p, nil
}

// fork makes the child, with what plan lays out before the rest, and waits until
// it executes its command or reports why not.
func (s *setup) fork(flags uint64, user *userNS, plan func(*program) error) (*process, error) {
	s.home()
	std, err := s.streams()
	if err != nil {
		return nil, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	var keep *owners
	if s.p.KeepOwner && s.base.own >= 0 {
		if keep, err = newOwners(); err != nil {
			unix.Close(pipe[1])
			return nil, err
		}
		defer keep.close()
	}
	p := newProgram(pipe[1])
	err = plan(p)
	if err == nil {
		err = planProcess(s.base, p, s.p, std, user, keep)
	}
	var pid, pidfd int
	if err == nil {
		if pid, pidfd, err = p.fork(flags, int(s.cgroup), user == nil && s.c != nil); err != nil {
			err = fmt.Errorf("fork: %w", err)
		}
	}
	unix.Close(pipe[1])
	if err != nil {
		return nil, err
	}
	proc := &process{pid: pid, pidfd: pidfd, pts: noFD}
	if user != nil && user.join < 0 {
		err = user.serve(s.base.proc, pidfd)
	}
	if err == nil {
		err = s.outcome(p, pipe[0])
	}
	if err != nil {
		proc.kill()
		return nil, err
	}
	if keep != nil {
		keep.serve(s.base)
	}
	if s.master >= 0 {
		n, err := unix.FcntlInt(uintptr(s.master), unix.F_DUPFD_CLOEXEC, firstFD)
		if err != nil {
			proc.kill()
			return nil, fmt.Errorf("keep terminal: %w", err)
		}
		proc.master = os.NewFile(uintptr(n), "terminal")
	}
	return proc, nil
}

// kill ends a process that nobody has heard of yet.
func (p *process) kill() {
	_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
	_, _ = p.wait()
	p.close()
}

func (p *process) wait() (unix.WaitStatus, error) {
	var status unix.WaitStatus
	_, err := retry(func() (int, error) { return unix.Wait4(p.pid, &status, 0, nil) })
	return status, err
}

// streams returns the descriptors of the standard streams and gives them to the
// process's user, as far as they belong to nobody else.
func (s *setup) streams() ([3]fd, error) {
	var std [3]fd
	if s.p.Terminal {
		if err := unix.Fchown(int(s.slave), s.p.StreamUID, -1); err != nil && err != unix.EPERM && err != unix.EINVAL {
			return std, fmt.Errorf("give terminal to user: %w", err)
		}
		return [3]fd{s.slave, s.slave, s.slave}, nil
	}
	if len(s.std) != 3 {
		return std, fmt.Errorf("%d standard streams, want 3", len(s.std))
	}
	for i, f := range s.std {
		std[i] = f
		if mode, err := std[i].mode(); err == nil && (mode == unix.S_IFIFO || mode == unix.S_IFSOCK) {
			_ = unix.Fchown(int(std[i]), s.p.StreamUID, -1) // a convenience
		}
	}
	return std, nil
}

// outcome waits until the child has executed its command, which closes the pipe,
// or has reported a failure.
func (s *setup) outcome(p *program, pipe int) error {
	var rep report
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&rep)), unsafe.Sizeof(rep))
	n, err := retry(func() (int, error) { return unix.Read(pipe, buf) })
	switch {
	case err != nil:
		return fmt.Errorf("wait for process: %w", err)
	case n == 0:
		return nil
	case n != len(buf) || rep.op < 0 || int(rep.op) >= len(p.ops):
		return errors.New("wait for process: it sent no proper report")
	}
	o := p.ops[rep.op]
	errno := unix.Errno(rep.errno)
	if o.kind == opExec || o.kind == opFail {
		return s.explain(rep.execs[:p.noted], errno)
	}
	if errno == unix.ENOENT && o.kind == opInside {
		return fmt.Errorf("%s: it is not inside the container", o.name)
	}
	return fmt.Errorf("%s: %w", o.name, errno)
}

// explain says why the command was not executed, in the words of Go's os/exec,
// which are runc's.
func (s *setup) explain(tried []int32, errno unix.Errno) error {
	name := s.p.Args[0]
	for _, e := range tried {
		if errno == 0 && unix.Errno(e) == unix.EACCES {
			errno = unix.EACCES
		}
	}
	switch {
	case errno == unix.EACCES:
		return &execError{text: fmt.Sprintf("exec: %q: permission denied", name), denied: true}
	case errno != 0:
		return &execError{text: fmt.Sprintf("exec: %q: %v", name, errno), denied: true}
	}
	for _, file := range candidates(s.p) {
		if s.exists(file) {
			return &execError{text: fmt.Sprintf("exec: %q: no such file or directory (the file is there, its interpreter or loader is not)", file), notFound: true}
		}
	}
	if name == "" || !hasSlash(name) {
		return &execError{text: fmt.Sprintf("exec: %q: executable file not found in $PATH", name), notFound: true}
	}
	return &execError{text: fmt.Sprintf("exec: %q: stat %s: no such file or directory", name, name), notFound: true}
}

func hasSlash(s string) bool {
	for i := range s {
		if s[i] == '/' {
			return true
		}
	}
	return false
}

// exists looks for a regular file inside the container's root.
func (s *setup) exists(file string) bool {
	if s.root < 0 {
		return false
	}
	f, err := s.root.open(file, 0)
	if err != nil {
		return false
	}
	defer f.close()
	mode, err := f.mode()
	return err == nil && mode == unix.S_IFREG
}

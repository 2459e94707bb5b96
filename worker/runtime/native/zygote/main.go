package zygote

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Name is argv[0] of the zygote.
const Name = "buildd-init"

// rootlessArg tells a zygote that it has privileges in a user namespace only.
const rootlessArg = "rootless"

// controlFD is where the zygote finds its connection to the daemon.
const controlFD = 3

// Is reports whether this process was started to be a zygote.
func Is() bool { return len(os.Args) > 0 && os.Args[0] == Name }

// The first thread of a program cannot end before the program does, so none of
// the threads that containers are made on must be it: the main goroutine keeps it
// for itself. Only while packages initialise is it certain to be there.
func init() {
	if Is() {
		runtime.LockOSThread()
	}
}

// Main is the zygote. It returns never.
func Main() {
	go func() {
		if err := serve(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}()
	select {}
}

// server is the zygote's state.
type server struct {
	base base

	mu sync.Mutex // guards what follows
	// running are the containers that processes can join.
	running map[string]*member
}

func serve() error {
	// No other process may look into this one: its children, until they execute,
	// share what it holds, and one that joins a container is seen there.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become undumpable: %w", err)
	}
	unix.Umask(0)
	collectRarely()
	// A thread that forks sharing memory keeps its place while it waits.
	runtime.GOMAXPROCS(2*runtime.NumCPU() + 2)
	if err := noticeSignals(); err != nil {
		return err
	}
	control, err := fileConn(controlFile())
	if err != nil {
		return fmt.Errorf("open control connection: %w", err)
	}
	b, err := newBase(len(os.Args) > 1 && os.Args[1] == rootlessArg)
	if err != nil {
		_ = writeMessage(control, Reply{Error: err.Error()})
		return err
	}
	if err := writeMessage(control, Reply{Started: true}); err != nil {
		return err
	}
	s := &server{base: b, running: make(map[string]*member)}
	for n := 1; ; n++ {
		if n%collectEvery == 0 {
			collect()
		}
		var hello struct{}
		fds, err := readMessage(control, &hello)
		if errors.Is(err, io.EOF) {
			return nil // the daemon is gone, and with this process all containers
		}
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		go s.handle(fds)
	}
}

// noticeSignals takes the mark off signals that whoever started the daemon had it
// ignore (nohup, a shell's background): containers would inherit it.
func noticeSignals() error {
	type action struct {
		handler, flags, restorer uintptr
		mask                     sigset
	}
	const last, ignore = 64, 1
	for sig := uintptr(1); sig <= last; sig++ {
		var a action
		_, _, e := unix.Syscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a.mask), 0, 0)
		if e != 0 || a.handler != ignore {
			continue
		}
		a = action{}
		if _, _, e = unix.Syscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&a)), 0, unsafe.Sizeof(a.mask), 0, 0); e != 0 {
			return fmt.Errorf("reset signal %d: %w", sig, e)
		}
	}
	return nil
}

// controlFile stays open, so that no other file ever gets its number, which in
// children is errorFD.
var controlFile = sync.OnceValue(func() *os.File { return os.NewFile(controlFD, "control") })

// fileConn makes a connection of a socket.
func fileConn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	return u, nil
}

// handle serves one process from its request to its end. fds are the connection
// and the standard streams.
func (s *server) handle(fds []int) {
	if len(fds) == 0 {
		return
	}
	std := make([]fd, 0, 3)
	for _, n := range fds[1:] {
		std = append(std, fd(n))
	}
	closeStd := sync.OnceFunc(func() {
		for _, f := range std {
			f.close()
		}
	})
	defer closeStd()
	f := os.NewFile(uintptr(fds[0]), "request")
	conn, err := fileConn(f)
	f.Close()
	if err != nil {
		return
	}
	defer conn.Close()
	var r Request
	if _, err := readMessage(conn, &r); err != nil {
		return
	}
	p, err := s.start(&r, std)
	closeStd() // or their end would not be seen
	if err != nil {
		_ = writeMessage(conn, failure(err))
		return
	}
	s.attend(&r, p, conn)
}

var errGone = errors.New("no such container")

func failure(err error) Reply {
	r := Reply{Error: err.Error(), Gone: errors.Is(err, errGone)}
	var e *execError
	if errors.As(err, &e) {
		r.NotFound, r.Denied = e.notFound, e.denied
	}
	return r
}

func (s *server) start(r *Request, std []fd) (*process, error) {
	if r.Container != nil {
		return spawn(s.base, r, nil, std)
	}
	s.mu.Lock()
	m := s.running[r.ID]
	if m != nil {
		m = m.clone()
	}
	s.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("join %s: %w", r.ID, errGone)
	}
	defer m.close()
	return spawn(s.base, r, m, std)
}

// attend tells the daemon of the process's start and end, and passes orders on.
// If the daemon's side closes, the process is not wanted any more.
func (s *server) attend(r *Request, p *process, conn *net.UnixConn) {
	if r.Container != nil {
		s.add(r, p)
	}
	var fds []int
	if p.master != nil {
		fds = append(fds, int(p.master.Fd()))
	}
	if err := writeMessage(conn, Reply{Started: true}, fds...); err != nil {
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
	}
	if p.master != nil {
		p.master.Close()
	}
	orders := make(chan struct{})
	go func() {
		defer close(orders)
		for {
			var o Order
			if _, err := readMessage(conn, &o); err != nil {
				o.Signal = int(unix.SIGKILL)
			}
			if err := unix.PidfdSendSignal(p.pidfd, unix.Signal(o.Signal), nil, 0); err != nil || unix.Signal(o.Signal) == unix.SIGKILL {
				return
			}
		}
	}()
	status, err := p.wait()
	if r.Container != nil {
		s.remove(r.ID)
	}
	reply := Reply{Ended: true, Status: uint32(status)}
	if err != nil {
		reply.Error = fmt.Sprintf("wait for process: %v", err)
	}
	_ = writeMessage(conn, reply)
	_ = conn.CloseRead()
	<-orders // it uses pidfd
	p.close()
}

func (s *server) add(r *Request, p *process) {
	c := r.Container
	m := &member{
		pidfd: p.pidfd, pts: p.pts,
		tasks: c.Tasks, cgroup: c.Cgroup,
		ownNet: c.NewNet || c.Net != "",
		user:   c.UIDMap != "",
	}
	s.mu.Lock()
	s.running[r.ID] = m
	s.mu.Unlock()
}

func (s *server) remove(id string) {
	s.mu.Lock()
	delete(s.running, id)
	s.mu.Unlock()
}

// clone returns a member with descriptors of its own.
func (m *member) clone() *member {
	c := *m
	dup := func(n int) int {
		d, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, firstFD)
		if err != nil {
			return -1 // its use fails
		}
		return d
	}
	c.pidfd = dup(m.pidfd)
	if m.pts >= 0 {
		c.pts = fd(dup(int(m.pts)))
	}
	return &c
}

func (m *member) close() {
	fd(m.pidfd).close()
	m.pts.close()
}

package zygote

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Zygote is the daemon's end of a zygote process.
type Zygote struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended

	mu   sync.Mutex // guards conn, whose messages must not mix
	conn *net.UnixConn
}

// ErrEnded is returned when the zygote ended, and with it every container.
var ErrEnded = errors.New("the process that containers are made by has ended")

// ErrNotAsked is returned with ErrEnded when the zygote has not even seen the
// request: another one can be asked.
var ErrNotAsked = errors.New("it was not asked for a container")

// Start starts a zygote and waits until it is ready. It ends when the daemon
// does, and on Close.
func Start(rootless bool) (*Zygote, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	exe, err := sealedSelf()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer exe.Close()
	cmd := &exec.Cmd{
		Path:       "/proc/self/fd/" + strconv.Itoa(int(exe.Fd())),
		Args:       []string{Name},
		Env:        []string{"GOTRACEBACK=single"},
		Dir:        "/",
		Stderr:     os.Stderr,
		ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWPID,
			Pdeathsig:  syscall.SIGKILL,
		},
	}
	if rootless {
		cmd.Args = append(cmd.Args, rootlessArg)
	}
	z := &Zygote{cmd: cmd, done: make(chan struct{}), conn: ours}
	started := make(chan error)
	go z.reap(started)
	if err := <-started; err != nil {
		ours.Close()
		return nil, fmt.Errorf("start %s: %w", Name, err)
	}
	theirs.Close() // or its end would not be seen
	var ready Reply
	if _, err := readMessage(ours, &ready); err != nil || !ready.Started {
		z.Close()
		if ready.Error != "" {
			return nil, fmt.Errorf("start %s: %s", Name, ready.Error)
		}
		return nil, fmt.Errorf("start %s: it ended before it was ready: %w", Name, err)
	}
	return z, nil
}

// reap starts the process and waits for it, on one thread: the kernel takes the
// end of the thread that started it for the end of the parent.
func (z *Zygote) reap(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(z.done)
	err := z.cmd.Start()
	started <- err
	if err == nil {
		_ = z.cmd.Wait()
	}
}

// Close ends the zygote and every container.
func (z *Zygote) Close() {
	z.mu.Lock()
	z.conn.Close()
	z.mu.Unlock()
	_ = z.cmd.Process.Kill()
	<-z.done
}

// Done is closed when the zygote has ended.
func (z *Zygote) Done() <-chan struct{} { return z.done }

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "zygote"), os.NewFile(uintptr(fds[1]), "zygote")
	c, err := fileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return c, theirs, nil
}

// Running is a process that the zygote runs for the daemon.
type Running struct {
	conn *net.UnixConn
	// Terminal is the master of the process's terminal, if it has one.
	Terminal *os.File
	end      Reply
	err      error
	over     chan struct{}
}

// Failed is a process that was not executed; the reply says why.
type Failed struct{ Reply Reply }

func (f *Failed) Error() string { return f.Reply.Error }

// Run asks for a process; std are its three standard streams, or none for a
// process with a terminal. The error is *Failed if the zygote said no. The
// process is killed if canceled closes before it is known to execute.
func (z *Zygote) Run(canceled <-chan struct{}, r *Request, std []*os.File) (*Running, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	fds := []int{int(theirs.Fd())}
	for _, f := range std {
		fds = append(fds, int(f.Fd()))
	}
	z.mu.Lock()
	err = writeMessage(z.conn, struct{}{}, fds...)
	z.mu.Unlock()
	theirs.Close()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w: %w", ErrEnded, ErrNotAsked, err)
	}
	if err := writeMessage(conn, r); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", ErrEnded, err)
	}
	started := make(chan struct{})
	kill := make(chan struct{})
	go func() { // ends with Run
		defer close(kill)
		select {
		case <-canceled:
			_ = writeMessage(conn, Order{Signal: int(unix.SIGKILL)})
		case <-started:
		}
	}()
	var reply Reply
	got, err := readMessage(conn, &reply)
	close(started)
	<-kill
	if err != nil || reply.Error != "" {
		conn.Close()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEnded, err)
		}
		return nil, &Failed{reply}
	}
	run := &Running{conn: conn, over: make(chan struct{})}
	if len(got) > 0 {
		_ = unix.SetNonblock(got[0], true) // so that a read ends when it is closed
		run.Terminal = os.NewFile(uintptr(got[0]), "terminal")
	}
	go run.await()
	return run, nil
}

// await belongs to the process and ends with it.
func (r *Running) await() {
	defer close(r.over)
	defer r.conn.Close()
	_, r.err = readMessage(r.conn, &r.end)
	switch {
	case errors.Is(r.err, io.EOF), errors.Is(r.err, syscall.ECONNRESET):
		r.err = ErrEnded
	case r.err == nil && r.end.Error != "":
		r.err = errors.New(r.end.Error)
	}
}

// Signal sends the process a signal.
func (r *Running) Signal(s syscall.Signal) {
	_ = writeMessage(r.conn, Order{Signal: int(s)}) // it may have ended
}

// Over is closed when the process has ended.
func (r *Running) Over() <-chan struct{} { return r.over }

// Status returns how the process ended, once Over is closed.
func (r *Running) Status() (unix.WaitStatus, error) { return unix.WaitStatus(r.end.Status), r.err }

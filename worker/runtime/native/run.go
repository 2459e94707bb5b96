package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native/zygote"
)

// drainTime is how long output is still read after its process has ended, where
// something else holds the other end: a process that an Exec left behind in the
// container.
const drainTime = time.Second

// run has the zygote execute a process and waits for its end and its output.
func (r *Runtime) run(ctx context.Context, req *zygote.Request, p runtime.Process) (syscall.WaitStatus, error) {
	defer func() {
		if p.Stdin != nil {
			p.Stdin.Close()
		}
	}()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	std := &streams{p: p, left: req.Container == nil}
	if !req.Process.Terminal {
		if err := std.open(); err != nil {
			return 0, err
		}
	}
	running, err := r.ask(ctx, req, std.child)
	std.closeChild()
	if err != nil {
		std.abort()
		return 0, startError(ctx, err)
	}
	std.start(running.Terminal)
	if p.Started != nil {
		p.Started()
	}
	attend(ctx, running, p, running.Terminal)
	status, err := running.Status()
	copyErr := std.finish()
	if err == nil && copyErr != nil && status == 0 {
		err = fmt.Errorf("write output of process: %w", copyErr)
	}
	if errors.Is(err, zygote.ErrEnded) && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return syscall.WaitStatus(status), err
}

// ask sends the request to the zygote, and to a new one if the last has ended and
// nobody has noticed yet.
func (r *Runtime) ask(ctx context.Context, req *zygote.Request, std []*os.File) (*zygote.Running, error) {
	z, err := r.process()
	if err != nil {
		return nil, err
	}
	running, err := z.Run(ctx.Done(), req, std)
	if !errors.Is(err, zygote.ErrNotAsked) {
		return running, err
	}
	<-z.Done()
	if z, err = r.process(); err != nil {
		return nil, err
	}
	return z.Run(ctx.Done(), req, std)
}

// startError translates what the zygote said of a process that was not executed.
func startError(ctx context.Context, err error) error {
	var f *zygote.Failed
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	if !errors.As(err, &f) {
		return err
	}
	switch {
	case f.Reply.NotFound:
		return &runtime.ExitError{Code: runtime.ExitNotFound, Err: err}
	case f.Reply.Denied:
		return &runtime.ExitError{Code: runtime.ExitNotExecutable, Err: err}
	case f.Reply.Gone:
		return runtime.ErrNotRunning
	}
	return err
}

// attend passes on signals and sizes until the process has ended, and kills it
// if ctx ends.
func attend(ctx context.Context, running *zygote.Running, p runtime.Process, terminal *os.File) {
	done := ctx.Done()
	for {
		select {
		case <-running.Over():
			return
		case <-done:
			running.Signal(syscall.SIGKILL)
			done = nil
		case s, ok := <-p.Signal:
			if !ok {
				p.Signal = nil
				continue
			}
			running.Signal(s)
		case size, ok := <-p.Resize:
			if !ok {
				p.Resize = nil
				continue
			}
			if terminal != nil {
				_ = resize(terminal, size)
			}
		}
	}
}

func resize(terminal *os.File, size runtime.WinSize) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	ws := &unix.Winsize{Row: uint16(min(size.Rows, 0xffff)), Col: uint16(min(size.Cols, 0xffff))}
	cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, ws) })
	return errors.Join(cerr, err)
}

// streams connect a process's standard streams. Files are handed over as they
// are; all else goes through pipes.
type streams struct {
	p      runtime.Process
	left   bool       // processes may be left that write
	child  []*os.File // the process's three
	owned  []*os.File // of child: ours to close
	input  *os.File   // written from p.Stdin
	copies []*transfer
	wg     sync.WaitGroup
}

// transfer is one stream of output on its way.
type transfer struct {
	from *os.File
	to   io.Writer
	err  error
}

// copy copies until the end, or past the deadline until nothing is left to read.
func (t *transfer) copy() error {
	for {
		_, err := io.Copy(t.to, t.from)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			n := 0
			raw, rerr := t.from.SyscallConn()
			if rerr == nil {
				_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
			}
			if n == 0 {
				return nil
			}
			_ = t.from.SetReadDeadline(time.Now().Add(drainTime))
		case errors.Is(err, syscall.EIO), errors.Is(err, os.ErrClosed):
			return nil // the end of a terminal
		default:
			return err
		}
	}
}

func (s *streams) open() error {
	err := s.openAll()
	if err != nil {
		s.closeChild()
		s.abort()
	}
	return err
}

func (s *streams) openAll() error {
	switch in := s.p.Stdin.(type) {
	case nil:
		if err := s.null(os.O_RDONLY); err != nil {
			return err
		}
	case *os.File:
		s.child = append(s.child, in)
	default:
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
		s.child, s.owned, s.input = append(s.child, r), append(s.owned, r), w
	}
	for _, out := range []io.WriteCloser{s.p.Stdout, s.p.Stderr} {
		switch out := out.(type) {
		case nil:
			if err := s.null(os.O_WRONLY); err != nil {
				return err
			}
		case *os.File:
			s.child = append(s.child, out)
		default:
			r, w, err := os.Pipe()
			if err != nil {
				return fmt.Errorf("make pipe: %w", err)
			}
			s.child, s.owned = append(s.child, w), append(s.owned, w)
			s.copies = append(s.copies, &transfer{from: r, to: out})
		}
	}
	return nil
}

func (s *streams) null(flag int) error {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err != nil {
		return fmt.Errorf("open standard stream: %w", err)
	}
	s.child, s.owned = append(s.child, f), append(s.owned, f)
	return nil
}

// closeChild closes the process's ends, once it has them.
func (s *streams) closeChild() {
	for _, f := range s.owned {
		f.Close()
	}
	s.owned = nil
}

// abort closes our ends of streams that were never used.
func (s *streams) abort() {
	if s.input != nil {
		s.input.Close()
	}
	for _, c := range s.copies {
		c.from.Close()
	}
}

// start begins to copy. The copy of standard input ends when the process does:
// its stream is closed then.
func (s *streams) start(terminal *os.File) {
	if terminal != nil {
		s.input = terminal
		var to io.Writer = io.Discard
		if s.p.Stdout != nil {
			to = s.p.Stdout
		}
		s.copies = append(s.copies, &transfer{from: terminal, to: to})
	}
	if s.input != nil && s.p.Stdin != nil {
		go func() {
			_, _ = io.Copy(s.input, s.p.Stdin)
			if terminal == nil {
				s.input.Close()
			}
		}()
	}
	for _, c := range s.copies {
		s.wg.Go(func() {
			c.err = c.copy()
			if terminal == nil {
				c.from.Close() // a process that goes on writing learns that nobody reads
			}
		})
	}
}

// finish waits until all output is written and closes our ends.
func (s *streams) finish() error {
	if s.left {
		for _, c := range s.copies {
			_ = c.from.SetReadDeadline(time.Now().Add(drainTime))
		}
	}
	s.wg.Wait()
	var errs []error
	for _, c := range s.copies {
		c.from.Close()
		errs = append(errs, c.err)
	}
	if s.input != nil {
		s.input.Close()
	}
	return errors.Join(errs...)
}

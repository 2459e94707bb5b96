package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
)

// call is one call of the program that lasts as long as a process of a
// container.
type call struct {
	r        *Runtime
	id       string
	dir      string // of the call's own files
	p        runtime.Process
	terminal bool
	size     *specs.Box // of the terminal, to begin with
	args     []string
	signal   func(ctx context.Context, sig string) error // to the process; an error if it is not there yet
	oom      func() bool

	cmd     *exec.Cmd
	console *console
}

// drainTime is how long output is still read after a process has ended, where
// something else holds the other end.
const drainTime = time.Second

func (c *call) run(ctx context.Context) error {
	defer func() {
		if c.p.Stdin != nil {
			c.p.Stdin.Close()
		}
	}()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The kernel takes the end of the thread that starts a process for the end of
	// its parent.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	log := filepath.Join(c.dir, "log.json")
	args := append([]string{"--root", c.r.state(), "--log", log, "--log-format", "json"}, c.r.config.Args...)
	// Not by CommandContext: to kill the program would leave its container.
	c.cmd = exec.Command(c.r.config.Binary)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.cmd.WaitDelay = drainTime
	if err := c.streams(); err != nil {
		return err
	}
	c.cmd.Args = append(append([]string{c.r.config.Binary}, args...), append(c.args, c.id)...)
	err := c.cmd.Start()
	if c.console != nil {
		c.console.start()
		defer c.console.finish()
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", c.r.config.Binary, err)
	}
	err = c.attend(ctx)
	return c.outcome(ctx, err, log)
}

func (c *call) streams() error {
	if c.terminal {
		var err error
		if c.console, err = newConsole(c.p); err != nil {
			return err
		}
		t := c.console.slave
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = t, t, t
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
		if size := c.size; size != nil {
			c.console.resize(runtime.WinSize{Rows: uint32(size.Height), Cols: uint32(size.Width)})
		}
		return nil
	}
	// exec.Cmd waits for its reader of Stdin if it copies; it must not wait for
	// one that has nothing to say, so the copy is made here.
	switch in := c.p.Stdin.(type) {
	case nil:
	case *os.File:
		c.cmd.Stdin = in
	default:
		pipe, err := c.cmd.StdinPipe()
		if err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
		go func() { // ends with Stdin, which run closes
			_, _ = io.Copy(pipe, in)
			pipe.Close()
		}()
	}
	if c.p.Stdout != nil {
		c.cmd.Stdout = c.p.Stdout
	}
	if c.p.Stderr != nil {
		c.cmd.Stderr = c.p.Stderr
	}
	return nil
}

// attend waits for the end of the program, passes signals on and kills the
// process if ctx ends.
func (c *call) attend(ctx context.Context) error {
	over := make(chan struct{})
	alive, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.watch(ctx, over) })
	wg.Go(func() { c.passSignals(alive) })
	if c.p.Started != nil {
		wg.Go(func() { c.awaitStart(alive) })
	}
	err := c.cmd.Wait()
	close(over)
	end()
	wg.Wait()
	return err
}

// watch kills the process when ctx ends, and changes the size of its terminal.
func (c *call) watch(ctx context.Context, over <-chan struct{}) {
	sizes := c.p.Resize
	for {
		select {
		case <-over:
			return
		case <-ctx.Done():
			c.kill(context.WithoutCancel(ctx), over)
			return
		case size, ok := <-sizes:
			if !ok {
				sizes = nil
				continue
			}
			if c.console != nil {
				c.console.resize(size)
			}
		}
	}
}

// passSignals passes signals on, in order. One may come before the process is
// there: it waits for it. Until the container runs it would hit the program.
func (c *call) passSignals(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-c.p.Signal:
			if !ok || c.r.running(ctx, c.id) != nil {
				return
			}
			pause := newPause()
			for c.signal(ctx, strconv.Itoa(int(s))) != nil {
				select {
				case <-ctx.Done():
					return
				case <-pause.next():
				}
			}
		}
	}
}

// kill kills the process until the program has noticed: the container may only
// just be made. In the end the program itself is killed.
func (c *call) kill(ctx context.Context, over <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	pause := newPause()
	for {
		_ = c.signal(ctx, killSignal)
		select {
		case <-over:
			return
		case <-ctx.Done():
			_ = c.cmd.Process.Kill()
			return
		case <-pause.next():
		}
	}
}

// awaitStart calls Started once the container runs.
func (c *call) awaitStart(ctx context.Context) {
	if c.r.running(ctx, c.id) == nil {
		c.p.Started()
	}
}

// outcome tells the end of the process from a failure of the program: the latter
// is in its log.
func (c *call) outcome(ctx context.Context, err error, log string) error {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w", filepath.Base(c.r.config.Binary), err)
	}
	code := c.cmd.ProcessState.ExitCode()
	if code == 0 {
		return nil
	}
	if msg := readLog(log); msg != "" {
		failure := fmt.Errorf("%s: %s", filepath.Base(c.r.config.Binary), msg)
		switch {
		case ctx.Err() != nil:
			return &runtime.ExitError{Code: 128 + int(unix.SIGKILL), Signal: unix.SIGKILL, Err: context.Cause(ctx)}
		case notFound(msg):
			return &runtime.ExitError{Code: runtime.ExitNotFound, Err: failure}
		case denied(msg):
			return &runtime.ExitError{Code: runtime.ExitNotExecutable, Err: failure}
		}
		return failure
	}
	if code < 0 { // the program itself was killed
		code = 128 + int(unix.SIGKILL)
	}
	e := runtime.NewExitError(code)
	e.OOM = c.oom()
	if ctx.Err() != nil && e.Signal == unix.SIGKILL {
		e.Err = context.Cause(ctx)
	}
	return e
}

// notFound and denied read the messages of runc and crun, which have no codes.
func notFound(msg string) bool {
	return strings.Contains(msg, "executable file not found") ||
		strings.Contains(msg, "executable file `") && strings.Contains(msg, "not found") ||
		strings.Contains(msg, "exec") && strings.Contains(msg, "no such file or directory") ||
		strings.Contains(strings.ToLower(msg), "open executable") && strings.Contains(strings.ToLower(msg), "no such file or directory")
}

func denied(msg string) bool {
	low := strings.ToLower(msg)
	return strings.Contains(low, "exec") && (strings.Contains(low, "permission denied") || strings.Contains(low, "exec format error")) ||
		strings.Contains(low, "executable path is a directory") || strings.Contains(low, "path is not executable")
}

// readLog returns the last error of a log in JSON lines.
func readLog(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	msg := ""
	for line := range bytes.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			msg = entry.Msg
		}
	}
	return msg
}

// killSignal is SIGKILL as programs take it.
var killSignal = strconv.Itoa(int(unix.SIGKILL))

// signalPID sends a signal to the process of a pid file.
func signalPID(file, sig string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("pid file holds %q", text)
	}
	n, err := strconv.Atoi(sig)
	if err != nil {
		return err
	}
	return unix.Kill(pid, unix.Signal(n))
}

// pause is a wait that grows.
type pause struct{ d time.Duration }

func newPause() *pause { return &pause{5 * time.Millisecond} }

func (p *pause) next() <-chan time.Time {
	d := p.d
	p.d = min(2*p.d, 200*time.Millisecond)
	return time.After(d)
}

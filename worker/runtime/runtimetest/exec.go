package runtimetest

import (
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/buildd/buildd/worker/runtime"
)

// background runs a container until the test ends, and returns its ID once it
// runs.
func (s *suite) background(t *testing.T, change ...func(*container)) (id string, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	started, done := make(chan struct{}), make(chan struct{})
	var r result
	var out buffer
	go func() {
		defer close(done)
		r = s.run(t, append([]func(*container){func(c *container) {
			c.Args = []string{"/bin/probe", "sleep", "first"}
			c.ctx = ctx
			id = c.ID
			c.process = func(p *runtime.Process) { p.Stdout, p.Started = &out, func() { close(started) } }
		}}, change...)...)
	}()
	select {
	case <-started:
	case <-done:
		t.Fatalf("container ended: %v %s", r.err, r.stderr)
	case <-time.After(timeout):
		t.Fatal("container does not start")
	}
	out.waitFor(t, "ready")
	return id, func() { cancel(); <-done }
}

func process(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}}
}

func (s *suite) exec(t *testing.T) {
	id, end := s.background(t)
	defer end()
	run := func(p *specs.Process, in string) result {
		var stdout, stderr buffer
		err := s.rt.Exec(t.Context(), id, runtime.Process{
			Spec: p, Stdin: io.NopCloser(strings.NewReader(in)), Stdout: &stdout, Stderr: &stderr,
		})
		return result{err, stdout.String(), stderr.String()}
	}
	out := run(process("sh", "-c", "cat; ps; hostname; grep -E '^(CapBnd|Seccomp):' /proc/self/status"), "input\n").ok(t)
	for _, want := range []string{"input", "probe sleep first", "buildkitsandbox", "CapBnd:\t00000000a80425fb", "Seccomp:\t2"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		a := run(process("readlink", "/proc/1/ns/"+ns), "").ok(t)
		if b := run(process("readlink", "/proc/self/ns/"+ns), "").ok(t); a != b {
			t.Errorf("%s namespace: %s, want the container's %s", ns, b, a)
		}
	}
	var files map[int]string
	decode(t, run(process("probe", "files"), "").ok(t), &files)
	if len(files) != 3 {
		t.Errorf("descriptors: %v", files)
	}
	run(process("sh", "-c", "exit 9"), "").code(t, 9)
	run(process("nosuchcommand"), "").code(t, runtime.ExitNotFound)
	run(&specs.Process{Args: []string{"id", "-u"}, Cwd: "/tmp", Env: []string{"PATH=/bin"}, User: specs.User{UID: 5}}, "").ok(t)
	p := process("pwd")
	p.Cwd = "/no/such"
	if r := run(p, ""); r.err == nil && !s.lacks(Cwd) {
		t.Error("working directory is missing: no error")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.rt.Exec(ctx, id, runtime.Process{Spec: process("probe", "sleep", "second")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	if out := run(process("ps"), "").ok(t); strings.Contains(out, "second") || !strings.Contains(out, "first") {
		t.Errorf("after the cancel of one: %s", out)
	}

	// A signal that is there before the process is.
	early := make(chan syscall.Signal, 1)
	early <- syscall.SIGKILL
	var e *runtime.ExitError
	if err := s.rt.Exec(t.Context(), id, runtime.Process{Spec: process("probe", "sleep", "early"), Signal: early}); !errors.As(err, &e) || e.Code != 137 {
		t.Errorf("killed before it started: %v, want exit code 137", err)
	}

	done := make(chan error)
	go func() { done <- s.rt.Exec(t.Context(), id, runtime.Process{Spec: process("probe", "sleep", "third")}) }()
	time.Sleep(200 * time.Millisecond)
	end()
	e = nil
	if err := <-done; !errors.As(err, &e) || e.Code != 137 {
		t.Errorf("at the container's end: %v, want exit code 137", err)
	}
	if err := s.rt.Exec(t.Context(), id, runtime.Process{Spec: process("true")}); !errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("after the container's end: %v", err)
	}
}

func (s *suite) terminal(t *testing.T) {
	var out buffer
	in, keys := io.Pipe()
	sizes := make(chan runtime.WinSize, 2)
	sizes <- runtime.WinSize{Rows: 33, Cols: 111}
	r := s.sh(t, "test -t 0 && test -t 1 && test -t 2 && echo all-tty; tty; read line; echo got:$line; stty size; ls -l /dev/console; exit 4", func(c *container) {
		c.Terminal = true
		c.stdin = in
		c.process = func(p *runtime.Process) {
			p.Stdout, p.Stderr, p.Resize = &out, nil, sizes
			p.Started = func() {
				go func() {
					out.waitFor(t, "/dev/pts/0")
					_, _ = keys.Write([]byte("hello\n"))
				}()
			}
		}
	})
	r.code(t, 4)
	for _, want := range []string{"all-tty", "/dev/pts/0", "got:hello", "33 111"} {
		if !strings.Contains(out.String(), want) && !(want == "33 111" && s.lacks(Resize)) {
			t.Errorf("%q is not in %q", want, out.String())
		}
	}
}

func (s *suite) execTerminal(t *testing.T) {
	id, end := s.background(t)
	defer end()
	var out buffer
	// The pause is for crun, which may end before it has passed on the last words.
	p := process("sh", "-c", "test -t 1 && tty; ps; sleep 0.3; exit 6")
	p.Terminal = true
	err := s.rt.Exec(t.Context(), id, runtime.Process{Spec: p, Stdout: &out})
	result{err: err}.code(t, 6)
	if !strings.Contains(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "sleep first") {
		t.Errorf("output %q", out.String())
	}
	// A line typed kills what runs in the foreground.
	in, keys := io.Pipe()
	p = process("sh", "-c", "trap 'echo interrupted; exit 8' INT; echo ready; while true; do sleep 0.05; done")
	p.Terminal = true
	var out2 buffer
	go func() {
		out2.waitFor(t, "ready")
		_, _ = keys.Write([]byte{3})
	}()
	err = s.rt.Exec(t.Context(), id, runtime.Process{Spec: p, Stdin: in, Stdout: &out2})
	result{err: err}.code(t, 8)
}

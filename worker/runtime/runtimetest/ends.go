package runtimetest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/buildd/buildd/worker/runtime"
)

func (s *suite) exitCodes(t *testing.T) {
	s.sh(t, "exit 0").ok(t)
	for _, code := range []string{"1", "3", "126", "127", "255"} {
		want := map[string]int{"1": 1, "3": 3, "126": 126, "127": 127, "255": 255}[code]
		if e := s.sh(t, "exit "+code).code(t, want); e.Err != nil || !runtime.Started(e) {
			t.Errorf("exit %s: error %v", code, e.Err)
		}
	}
	// Of a process below the first, as its shell tells it.
	s.sh(t, "sh -c 'kill -9 $$'; exit $?").code(t, 137)
}

func (s *suite) commandErrors(t *testing.T) {
	must(t, os.WriteFile(filepath.Join(s.root, "bin/plain"), []byte("#!/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(s.root, "bin/lost"), []byte("#!/no/interpreter\n"), 0o755))
	for _, c := range []struct {
		arg  string
		code int
		text string
	}{
		{"nosuchcommand", runtime.ExitNotFound, "nosuchcommand"},
		{"/no/such/command", runtime.ExitNotFound, "no such file or directory"},
		{"/bin/plain", runtime.ExitNotExecutable, "permission denied"},
		{"/bin/lost", runtime.ExitNotFound, "no such file or directory"},
	} {
		r := s.run(t, func(x *container) { x.Args = []string{c.arg} })
		if c.arg == "/bin/lost" && s.lacks(Interpreter) {
			r.code(t, 1)
			continue
		}
		if e := r.code(t, c.code); e.Err == nil || runtime.Started(r.err) || !strings.Contains(strings.ToLower(r.err.Error()), c.text) {
			t.Errorf("%s: error %v, want one with %q", c.arg, r.err, c.text)
		}
	}
	// Found by PATH, past a directory that does not have it.
	out := s.run(t, func(c *container) {
		c.Args, c.Env = []string{"echo", "here"}, []string{"PATH=/nowhere:/etc:/bin"}
	}).ok(t)
	if out != "here" {
		t.Errorf("echo by PATH: %q", out)
	}
}

func (s *suite) badSpecs(t *testing.T) {
	for name, change := range map[string]func(*container){
		"working directory": func(c *container) { c.Cwd = "/no/such/dir" },
		"root":              func(c *container) { c.Root = filepath.Join(s.root, "missing") },
		"mount source": func(c *container) {
			c.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}}}
		},
		"file system": func(c *container) {
			c.Mounts = []specs.Mount{{Destination: "/x", Type: "nosuchfs", Source: "x"}}
		},
	} {
		if name == "working directory" && s.lacks(Cwd) {
			continue
		}
		r := s.sh(t, "true", change)
		var e *runtime.ExitError
		if r.err == nil || errors.As(r.err, &e) {
			t.Errorf("bad %s: error %v, want one that is not an exit code", name, r.err)
		}
	}
	for _, id := range []string{"", "../x", "a/b", "-x", ".x", strings.Repeat("x", 200)} {
		if err := s.rt.Run(t.Context(), id, runtime.Sandbox{Spec: &specs.Spec{}}, runtime.Process{}); err == nil {
			t.Errorf("id %q: no error", id)
		}
	}
}

func (s *suite) streams(t *testing.T) {
	r := s.sh(t, "cat; echo problem >&2", func(c *container) { c.stdin = io.NopCloser(strings.NewReader("some input")) })
	if r.ok(t) != "some input" || r.stderr != "problem\n" {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	if out := s.sh(t, "cat; echo end").ok(t); out != "end" {
		t.Errorf("no stdin: %q", out)
	}
	if out := s.sh(t, "yes 0123456789 | head -c 8000000").ok(t); len(out) != 8000000-1 && len(out) != 8000000 {
		t.Errorf("got %d bytes of output, want 8000000", len(out))
	}
	// A reader that never ends is let go by Close.
	in, w := io.Pipe()
	s.sh(t, "true", func(c *container) { c.stdin = in }).ok(t)
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("stdin was not closed")
	}
	// Files are written as they are.
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	must(t, err)
	defer f.Close()
	s.sh(t, "echo to a file", func(c *container) { c.process = func(p *runtime.Process) { p.Stdout = f } }).ok(t)
	if b, _ := os.ReadFile(f.Name()); string(b) != "to a file\n" {
		t.Errorf("file has %q", b)
	}
}

func (s *suite) process(t *testing.T) {
	out := s.run(t, func(c *container) {
		c.Args, c.Env = []string{"/bin/env"}, []string{"A=1", "PATH=/bin", "B=two words"}
	}).ok(t)
	if out != "A=1\nPATH=/bin\nB=two words\nHOME=/root" {
		t.Errorf("environment %q", out)
	}
	for uid, home := range map[uint32]string{0: "/root", 1000: "/home/user", 4711: "/"} {
		if out := s.sh(t, "echo $HOME", func(c *container) { c.UID = uid }).ok(t); out != home && !(uid == 4711 && s.lacks(Home)) {
			t.Errorf("home of user %d is %s, want %s", uid, out, home)
		}
	}
	if out := s.sh(t, "echo $HOME", func(c *container) { c.Env = []string{"PATH=/bin", "HOME=/elsewhere"} }).ok(t); out != "/elsewhere" {
		t.Errorf("home is %s", out)
	}
	out = s.sh(t, "pwd; id -u; id -g; id -G; umask; hostname", func(c *container) {
		c.Cwd, c.UID, c.GID, c.AdditionalGIDs, c.Hostname = "/tmp", 1000, 1001, []uint32{1001, 7, 8}, "some-name"
	}).ok(t)
	if want := "/tmp\n1000\n1001\n1001 7 8\n0022\nsome-name"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	// A user may write to the streams by their names.
	r := s.sh(t, "echo out >/dev/stdout; echo err >/dev/stderr", func(c *container) { c.UID, c.GID = 1000, 1000 })
	if r.ok(t) != "out" || r.stderr != "err\n" {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	out = s.sh(t, "ulimit -n; ulimit -H -n", func(c *container) {
		c.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 99}}
	}).ok(t)
	if out != "77\n99" {
		t.Errorf("limits %q", out)
	}
	started := false
	s.sh(t, "true", func(c *container) {
		c.process = func(p *runtime.Process) { p.Started = func() { started = true } }
		c.Args = []string{"/bin/sleep", "0.3"}
	}).ok(t)
	if !started {
		t.Error("Started was not called")
	}
}

func (s *suite) cancel(t *testing.T) {
	cause := errors.New("not wanted any more")
	marker := "9" + newID()
	ctx, cancel := context.WithCancelCause(t.Context())
	var begun time.Time
	r := s.sh(t, "(sleep 1000 "+marker+" || probe sleep "+marker+") & (trap '' TERM; probe sleep "+marker+") & probe sleep "+marker, func(c *container) {
		c.ctx = ctx
		c.process = func(p *runtime.Process) {
			p.Started = func() { begun = time.Now(); time.AfterFunc(50*time.Millisecond, func() { cancel(cause) }) }
		}
	})
	if !errors.Is(r.err, cause) {
		t.Errorf("error %v, want the cause of the cancel", r.err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if left := withMarker(marker); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	// Before anything has begun.
	if r = s.sh(t, "true", func(c *container) { c.ctx = ctx }); !errors.Is(r.err, cause) {
		t.Errorf("cancelled before: error %v", r.err)
	}
	// At any moment of the start.
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(rand.N(20*time.Millisecond)), cancel)
		if r := s.run(t, func(c *container) { c.ctx, c.Args = ctx, []string{"/bin/probe", "sleep", marker} }); !errors.Is(r.err, context.Canceled) {
			t.Errorf("error %v, want %v", r.err, context.Canceled)
		}
	}
	if left := withMarker(marker); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

func (s *suite) signals(t *testing.T) {
	signals := make(chan syscall.Signal, 1)
	var out buffer
	r := s.run(t, func(c *container) {
		c.Args = []string{"/bin/probe", "term"}
		c.process = func(p *runtime.Process) {
			p.Signal, p.Stdout = signals, &out
			p.Started = func() {
				go func() {
					out.waitFor(t, "ready")
					signals <- syscall.SIGTERM
				}()
			}
		}
	})
	r.code(t, 7)
	out.waitFor(t, "terminated")
	r = s.run(t, func(c *container) {
		c.Args = []string{"/bin/probe", "sleep"}
		c.process = func(p *runtime.Process) {
			p.Signal, p.Started = signals, func() { signals <- syscall.SIGKILL }
		}
	})
	if e := r.code(t, 137); e.Signal != syscall.SIGKILL || e.OOM {
		t.Errorf("killed: signal %v, OOM %v", e.Signal, e.OOM)
	}
	signals <- syscall.SIGKILL // before there is a container
	s.run(t, func(c *container) {
		c.Args = []string{"/bin/probe", "sleep"}
		c.process = func(p *runtime.Process) { p.Signal = signals }
	}).code(t, 137)
}

func (s *suite) leftProcesses(t *testing.T) {
	marker := newID()
	s.sh(t, "for i in 1 2 3 4 5; do probe sleep "+marker+" & done; sleep 0.1; exit 0").ok(t)
	if left := withMarker(marker); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

func (s *suite) parallel(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			r := s.sh(t, "echo $0 $$; exit 5", func(c *container) { c.Args = append(c.Args, strings.Repeat("x", i+1)) })
			var e *runtime.ExitError
			if !errors.As(r.err, &e) || e.Code != 5 || !strings.Contains(r.stdout, strings.Repeat("x", i+1)+" 1") {
				t.Errorf("container %d: %v, %q", i, r.err, r.stdout)
			}
		})
	}
	wg.Wait()
}

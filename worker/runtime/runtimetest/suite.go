package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildd/buildd/worker/runtime"
)

// Config says which runtime the suite runs.
type Config struct {
	// Open returns a new runtime, which the suite closes if it can be closed.
	Open func(t *testing.T) runtime.Runtime
	// Rootless: the tests run as root of a user namespace.
	Rootless bool
	// Lacks are the features that this runtime does not have.
	Lacks []Feature
}

// Feature is something that not every program does.
type Feature string

const (
	// Cgroups: control groups work on this host.
	Cgroups Feature = "control groups"
	// Nodes: device nodes can be made.
	Nodes Feature = "device nodes"
	// OOM: a kill for memory is told.
	OOM Feature = "OOM detection"
	// Cwd: a missing working directory is an error; runc makes it.
	Cwd Feature = "error of a missing working directory"
	// Interpreter: a missing interpreter is exit code 127; with runc and crun
	// it is 1.
	Interpreter Feature = "error of a missing interpreter"
	// Home: the home of a user that is not in /etc/passwd is "/".
	Home Feature = "home of unknown users"
	// NewCalls: system calls newer than the seccomp profile fail with ENOSYS.
	NewCalls Feature = "ENOSYS for new system calls"
	// Resize: the size of a terminal is passed on.
	Resize Feature = "terminal size"
)

// needs are the features that whole tests are about.
var needs = map[string][]Feature{
	"Devices":   {Cgroups, Nodes},
	"Insecure":  {Nodes},
	"ForkBomb":  {Cgroups},
	"MemoryHog": {Cgroups},
}

func (c Config) lacks(f Feature) bool { return slices.Contains(c.Lacks, f) }

// suite is one run.
type suite struct {
	Config
	rt   runtime.Runtime
	root string
}

// cgroupParent is a group of this process's own.
var cgroupParent = fmt.Sprintf("/buildd-test-%d", os.Getpid())

// timeout is far above what any container here takes.
const timeout = 30 * time.Second

// Run runs the suite.
func Run(t *testing.T, c Config) {
	Require(t)
	s := &suite{Config: c, root: Rootfs(t)}
	s.rt = c.Open(t)
	for _, test := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"ExitCodes", s.exitCodes},
		{"CommandErrors", s.commandErrors},
		{"BadSpecs", s.badSpecs},
		{"Streams", s.streams},
		{"Process", s.process},
		{"Namespaces", s.namespaces},
		{"NothingOfTheHost", s.nothingOfTheHost},
		{"Descriptors", s.descriptors},
		{"Devices", s.devices},
		{"Capabilities", s.capabilities},
		{"Seccomp", s.seccomp},
		{"MaskedPaths", s.maskedPaths},
		{"Insecure", s.insecure},
		{"Mounts", s.mounts},
		{"ReadonlyRoot", s.readonlyRoot},
		{"Network", s.network},
		{"ForkBomb", s.forkBomb},
		{"MemoryHog", s.memoryHog},
		{"Cancel", s.cancel},
		{"Signals", s.signals},
		{"LeftProcesses", s.leftProcesses},
		{"Exec", s.exec},
		{"Terminal", s.terminal},
		{"ExecTerminal", s.execTerminal},
		{"Parallel", s.parallel},
		{"HostileRoot", s.hostileRoot},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, f := range needs[test.name] {
				if c.lacks(f) {
					t.Skipf("SKIPPED: no %s", f)
				}
			}
			test.f(t)
		})
	}
	if c, ok := s.rt.(io.Closer); ok {
		must(t, c.Close())
	}
	t.Run("NothingLeft", s.nothingLeft)
}

// container is what a test varies.
type container struct {
	runtime.SpecOptions
	stdin   io.ReadCloser
	ctx     context.Context
	change  func(*runtime.Sandbox)
	process func(*runtime.Process)
}

// result is what came of one.
type result struct {
	err            error
	stdout, stderr string
}

var counter atomic.Int64

func newID() string { return fmt.Sprintf("test-%d-%d", os.Getpid(), counter.Add(1)) }

// sh runs a shell script with the defaults.
func (s *suite) sh(t *testing.T, script string, change ...func(*container)) result {
	t.Helper()
	return s.run(t, append([]func(*container){func(c *container) { c.Args = []string{"/bin/sh", "-c", script} }}, change...)...)
}

func (s *suite) run(t *testing.T, change ...func(*container)) result {
	t.Helper()
	c := container{}
	c.ID, c.Root, c.CgroupParent, c.Rootless = newID(), s.root, cgroupParent, s.Rootless
	for _, f := range change {
		f(&c)
	}
	if c.ctx == nil {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		c.ctx = ctx
	}
	spec, err := runtime.Spec(c.SpecOptions)
	must(t, err)
	box := runtime.Sandbox{Spec: spec}
	if c.change != nil {
		c.change(&box)
	}
	var stdout, stderr buffer
	p := runtime.Process{Stdin: c.stdin, Stdout: &stdout, Stderr: &stderr}
	if c.process != nil {
		c.process(&p)
	}
	err = s.rt.Run(c.ctx, c.ID, box, p)
	return result{err, stdout.String(), stderr.String()}
}

// ok fails the test unless the command ended with 0, and returns its output.
func (r result) ok(t *testing.T) string {
	t.Helper()
	if r.err != nil {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", r.err, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// code fails the test unless the command ended with an ExitError of that code.
func (r result) code(t *testing.T, want int) *runtime.ExitError {
	t.Helper()
	var e *runtime.ExitError
	if !errors.As(r.err, &e) || e.Code != want {
		t.Fatalf("error %v (%T), want exit code %d\nstdout: %s\nstderr: %s", r.err, r.err, want, r.stdout, r.stderr)
	}
	return e
}

// buffer is a stream that keeps what is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) Close() error { return nil }

// waitFor waits until what was written has s in it.
func (b *buffer) waitFor(t *testing.T, s string) {
	t.Helper()
	for end := time.Now().Add(timeout); !strings.Contains(b.String(), s); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %q; got %q", s, b.String())
		}
	}
}

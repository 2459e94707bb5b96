package runtime

import (
	"context"
	"errors"
	"io"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Runtime runs containers.
//
// Run makes a container of s under id, runs one process in it, waits for its
// end and removes all that it made: namespaces, mounts, control groups and
// every process that the first one left behind. It returns nil if the process
// exited with 0, an [*ExitError] if it ended otherwise or could not be executed,
// and any other error if the container could not be made.
//
// While Run runs, Exec starts further processes in the same container; it fails
// with [ErrNotRunning] before the container has started and after it has ended.
// The end of the container ends them too.
//
// The end of ctx kills at once: for Run the whole container, for Exec the one
// process; both return only when that has happened, with context.Cause(ctx) in
// the error. A Runtime is safe for concurrent use. An id is in use from the
// call of Run to its return, and consists of letters, digits and any of "_.-".
type Runtime interface {
	Run(ctx context.Context, id string, s Sandbox, p Process) error
	Exec(ctx context.Context, id string, p Process) error
}

// ErrNotRunning is returned by Exec if no container of that id is running.
var ErrNotRunning = errors.New("container is not running")

// Sandbox is what a container is made of.
type Sandbox struct {
	// Spec is the container's OCI runtime-spec. Root.Path is an absolute path
	// of a mounted root file system. The network namespace is given by path, is
	// a new one with only a loopback device (no path), or is the daemon's own
	// (not listed). Hooks are refused.
	Spec *specs.Spec
}

// WinSize is the size of a terminal in characters.
type WinSize struct {
	Rows uint32
	Cols uint32
}

// Process is one process of a container.
type Process struct {
	// Spec is what to execute; nil in Run means Process of the sandbox's spec.
	Spec *specs.Process

	// Stdin, Stdout and Stderr are the process's streams; nil is /dev/null. With
	// Spec.Terminal, standard error is part of Stdout. Stdin is closed when the
	// process has ended, so that a reader that waits is let go; Stdout and
	// Stderr are the caller's to close. All output is written before Run or Exec
	// returns.
	Stdin  io.ReadCloser
	Stdout io.WriteCloser
	Stderr io.WriteCloser

	// Resize changes the size of the terminal, Signal is passed on to the
	// process. Both may be nil.
	Resize <-chan WinSize
	Signal <-chan syscall.Signal

	// Started, if not nil, is called once when the process executes.
	Started func()
}

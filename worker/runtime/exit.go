package runtime

import (
	"errors"
	"fmt"
	"syscall"
)

// Exit codes of commands that were never executed, as shells and container
// engines have them.
const (
	ExitNotExecutable = 126 // found, but permission was denied or the format is unknown
	ExitNotFound      = 127 // no such file
)

// ExitError says how a process ended that did not exit with 0.
type ExitError struct {
	// Code is the exit code; 128 + Signal for a process that a signal ended;
	// ExitNotFound or ExitNotExecutable, with Err set, for one that could not be
	// executed.
	Code int
	// Signal ended the process; 0 if it exited by itself.
	Signal syscall.Signal
	// OOM says that the kernel killed a process of the container because its
	// memory limit was reached.
	OOM bool
	// Err is the reason that goes beyond the code: why the command could not be
	// executed, or the cause of the context's end.
	Err error
}

func (e *ExitError) Error() string {
	switch {
	case e.Err != nil:
		return e.Err.Error()
	case e.OOM:
		return fmt.Sprintf("exit code: %d: out of memory: a process was killed at the memory limit of the container", e.Code)
	case e.Signal != 0:
		return fmt.Sprintf("exit code: %d (%s)", e.Code, e.Signal)
	default:
		return fmt.Sprintf("exit code: %d", e.Code)
	}
}

func (e *ExitError) Unwrap() error { return e.Err }

// NewExitError interprets an exit code as shells and container engines report
// it: above 128 it may stand for a signal.
func NewExitError(code int) *ExitError {
	e := &ExitError{Code: code}
	if code > 128 && code <= 128+64 {
		e.Signal = syscall.Signal(code - 128)
	}
	return e
}

// Started reports whether err is the end of a process that had been executed,
// rather than a container that could not be made or a command that could not be
// found.
func Started(err error) bool {
	var e *ExitError
	if err == nil {
		return true
	}
	return errors.As(err, &e) && (e.Err == nil || e.Code != ExitNotFound && e.Code != ExitNotExecutable)
}

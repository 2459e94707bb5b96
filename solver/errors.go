package solver

import (
	"errors"
	"time"
)

// StepError is the failure of one step of a build.
type StepError struct {
	Vertex *Vertex
	Err    error
}

func (e *StepError) Error() string { return e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// blame makes err the failure of v, and says so in the build's progress, unless
// a step further up the graph is to blame already.
func (b *Build) blame(v *Vertex, err error) error {
	if _, ok := errors.AsType[*StepError](err); ok {
		return err
	}
	now := time.Now()
	b.events.Vertex(v, State{Started: now, Completed: now, Err: err})
	return &StepError{Vertex: v, Err: err}
}

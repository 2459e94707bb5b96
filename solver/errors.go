package solver

import "errors"

// StepError is the failure of one step of a build.
type StepError struct {
	Vertex *Vertex
	Err    error
}

func (e *StepError) Error() string { return e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// asStepError blames v unless a step further up the graph is to blame already.
func asStepError(v *Vertex, err error) error {
	if _, ok := errors.AsType[*StepError](err); ok {
		return err
	}
	return &StepError{Vertex: v, Err: err}
}

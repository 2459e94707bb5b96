package progress

import (
	"crypto/rand"
	"time"

	"github.com/buildd/buildd/solver"
	"github.com/opencontainers/go-digest"
)

// Task is work of a build outside its graph, such as an export, shown like a
// step.
type Task struct {
	l     *Log
	v     *solver.Vertex
	begun time.Time
}

// Begin starts a task.
func (l *Log) Begin(name string) *Task {
	t := &Task{l: l, v: &solver.Vertex{Digest: digest.FromString(rand.Text()), Name: name}, begun: time.Now()}
	l.Vertex(t.v, solver.State{Started: t.begun})
	return t
}

// Digest is the name that clients know the task by.
func (t *Task) Digest() digest.Digest { return t.v.Digest }

// Log passes on what the task wrote; stream is 1 or 2.
func (t *Task) Log(stream int, data []byte) { t.l.Log(t.v, stream, data) }

// Status reports how a part of the task gets on.
func (t *Task) Status(s solver.Status) { t.l.Status(t.v, s) }

// Part reports that a part of the task begins; the function returned says how
// it ended.
func (t *Task) Part(id string) func(error) {
	s := solver.Status{ID: id, Started: time.Now()}
	t.Status(s)
	return func(error) {
		s.Completed = time.Now()
		t.Status(s)
	}
}

// End ends the task.
func (t *Task) End(err error) {
	t.l.Vertex(t.v, solver.State{Started: t.begun, Completed: time.Now(), Err: err})
}

package progress

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/solver"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxBatch is the size in bytes from which on a batch of events is sent: gRPC
// messages are bounded.
const maxBatch = 256 << 10

// gatherTime is how long events are gathered after some were sent: a cached
// build would wake its client with every step, and slow both down.
const gatherTime = 20 * time.Millisecond

// Counts sums up a build's steps.
type Counts struct{ Total, Cached, Completed, Warnings int }

// Step is how far a step, or other work of a build, has come.
type Step struct {
	Digest digest.Digest
	Name   string
	State  solver.State
}

// Log is the story of one build. The zero Log is ready for use, by many
// goroutines at once.
type Log struct {
	mu     sync.Mutex // guards all that follows
	events []*control.StatusResponse
	steps  map[digest.Digest]solver.State
	order  []Step // by their first event; states are in steps
	warned int
	closed bool
	wake   chan struct{} // closed and replaced when something happens
	ended  chan struct{} // closed by Close; nil until somebody follows
}

func (l *Log) add(e *control.StatusResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(e)
}

func (l *Log) addLocked(e *control.StatusResponse) {
	if l.closed {
		return // a step of another build that this one has left
	}
	l.events = append(l.events, e)
	l.wakeLocked()
}

func (l *Log) wakeLocked() {
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// Vertex implements solver.Events.
func (l *Log) Vertex(v *solver.Vertex, s solver.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.steps == nil {
		l.steps = map[digest.Digest]solver.State{}
	}
	old, known := l.steps[v.Digest]
	if !known {
		l.order = append(l.order, Step{Digest: v.Digest, Name: v.Name})
	}
	if !old.Started.IsZero() && !s.Started.IsZero() {
		s.Started = old.Started // clients take another start for another run
	}
	l.steps[v.Digest] = s
	pv := &control.Vertex{Digest: string(v.Digest), Name: v.Name, Cached: s.Cached, Started: stamp(s.Started), Completed: stamp(s.Completed)}
	for _, in := range v.Inputs {
		pv.Inputs = append(pv.Inputs, string(in.Vertex.Digest))
	}
	if s.Err != nil {
		pv.Error = s.Err.Error()
	}
	if g := v.Group; g != nil {
		pv.ProgressGroup = &pb.ProgressGroup{Id: g.ID, Name: g.Name, Weak: g.Weak}
	}
	l.addLocked(&control.StatusResponse{Vertexes: []*control.Vertex{pv}})
}

// Log implements solver.Events.
func (l *Log) Log(v *solver.Vertex, stream int, data []byte) {
	l.add(&control.StatusResponse{Logs: []*control.VertexLog{{
		Vertex: string(v.Digest), Timestamp: timestamppb.Now(), Stream: int64(stream), Msg: data,
	}}})
}

// Status implements solver.Events.
func (l *Log) Status(v *solver.Vertex, s solver.Status) {
	l.add(&control.StatusResponse{Statuses: []*control.VertexStatus{{
		ID: s.ID, Vertex: string(v.Digest), Name: action(s.ID), Current: s.Current, Total: s.Total,
		Timestamp: timestamppb.Now(), Started: stamp(s.Started), Completed: stamp(s.Completed),
	}}})
}

// action is what a status such as "transferring context:" says is being done.
func action(id string) string {
	a, _, _ := strings.Cut(id, " ")
	return a
}

// Warn reports a warning about a step.
func (l *Log) Warn(w *control.VertexWarning) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.warned++
	l.addLocked(&control.StatusResponse{Warnings: []*control.VertexWarning{w}})
}

// Steps returns how far everything has come, in the order of the first events.
func (l *Log) Steps() []Step {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.order)
	for i := range out {
		out[i].State = l.steps[out[i].Digest]
	}
	return out
}

// Counts returns how many steps there are, and how they ended.
func (l *Log) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Counts{Total: len(l.steps), Warnings: l.warned}
	for _, s := range l.steps {
		if s.Cached {
			c.Cached++
		}
		if !s.Completed.IsZero() && s.Err == nil {
			c.Completed++
		}
	}
	return c
}

// Close ends the story.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil && !l.closed {
		close(l.ended)
	}
	l.closed = true
	l.wakeLocked()
}

// Follow calls send with everything that has happened and then with what
// happens until the log is closed, ctx ends, or send fails.
func (l *Log) Follow(ctx context.Context, send func(*control.StatusResponse) error) error {
	for at := 0; ; {
		l.mu.Lock()
		news, closed := l.events[at:], l.closed
		if l.wake == nil {
			l.wake = make(chan struct{})
		}
		if l.ended == nil {
			l.ended = make(chan struct{})
			if l.closed {
				close(l.ended)
			}
		}
		wake, ended := l.wake, l.ended
		l.mu.Unlock()

		at += len(news)
		if err := sendAll(news, send); err != nil {
			return err
		}
		if closed {
			return nil
		}
		if len(news) > 0 {
			select {
			case <-ended:
			case <-time.After(gatherTime):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sendAll sends events in batches that stay below the size of a message.
func sendAll(events []*control.StatusResponse, send func(*control.StatusResponse) error) error {
	batch, size := &control.StatusResponse{}, 0
	flush := func() error {
		if size == 0 {
			return nil
		}
		err := send(batch)
		batch, size = &control.StatusResponse{}, 0
		return err
	}
	for _, e := range events {
		batch.Vertexes = append(batch.Vertexes, e.Vertexes...)
		batch.Statuses = append(batch.Statuses, e.Statuses...)
		batch.Logs = append(batch.Logs, e.Logs...)
		batch.Warnings = append(batch.Warnings, e.Warnings...)
		if size += e.SizeVT() + 1; size >= maxBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

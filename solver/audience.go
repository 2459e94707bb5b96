package solver

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/buildd/buildd/cache/flight"
)

// maxReplay bounds the log bytes that are kept for builds that join a running
// step late.
const maxReplay = 1 << 20

// waiter is a build that waits for a step, under the vertex that it knows the
// step by.
type waiter struct {
	build   *Build
	vertex  *Vertex
	started atomic.Pointer[time.Time] // nil while the step has not started
}

// audience fans out what a running step reports to the builds that wait for it;
// those that join late are told what happened before. It implements Waiters.
type audience struct {
	call *flight.Call[*waiter, outcome]

	mu        sync.Mutex // guards what follows, and orders what is told
	attending []*waiter
	past      []func(*waiter)
	logged    int // bytes of log in past
}

func newAudience(c *flight.Call[*waiter, outcome]) *audience {
	a := &audience{call: c}
	c.OnJoin(func(w *waiter) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, tell := range a.past {
			tell(w)
		}
		a.attending = append(a.attending, w)
	})
	return a
}

// tell reports to all who attend and, if it is kept, to those who come later.
func (a *audience) tell(keep bool, f func(*waiter)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if keep {
		a.past = append(a.past, f)
	}
	for _, w := range a.attending {
		f(w)
	}
}

// start reports that the step's work begins now.
func (a *audience) start(now time.Time) {
	a.tell(true, func(w *waiter) {
		w.started.Store(&now)
		w.build.events.Vertex(w.vertex, State{Started: now})
	})
}

// Sessions implements Waiters.
func (a *audience) Sessions() []string {
	var ids []string
	for _, w := range a.call.Waiters() {
		ids = append(ids, w.build.sessions...)
	}
	return ids
}

// Log implements Waiters.
func (a *audience) Log(stream int, data []byte) {
	data = append([]byte(nil), data...)
	a.mu.Lock()
	a.logged += len(data)
	keep := a.logged <= maxReplay
	a.mu.Unlock()
	a.tell(keep, func(w *waiter) { w.build.events.Log(w.vertex, stream, data) })
}

// Status implements Waiters. Who comes late needs no more than the end of it.
func (a *audience) Status(s Status) {
	a.tell(!s.Completed.IsZero(), func(w *waiter) { w.build.events.Status(w.vertex, s) })
}

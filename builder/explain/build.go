package explain

import (
	"context"
	"slices"
	"sync"
	"time"

	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/progress"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Build explains one build. It implements solver.Events over the build's
// progress, and Missed is for solver.BuildConfig.
type Build struct {
	x     *Explainer
	c     BuildConfig
	ctx   context.Context // of the goroutine, which may outlive the build's call
	group errgroup.Group  // of one goroutine, while there is something to compare

	target func() (name string, sure bool) // called once

	mu     sync.Mutex // guards what follows, and is held while progress is told
	solve  *solver.Build
	queue  []solver.Miss
	busy   bool
	closed bool
	told   map[digest.Digest]*telling

	comparison comparison // of the goroutine, and when that has ended of Finish
	budget     time.Duration
}

// BuildConfig is what a Build explains.
type BuildConfig struct {
	Log *progress.Log
	// Target names what is built, so that a build can be compared with the one
	// before it; sure tells whether other things cannot have the same name. It is
	// called when the client's session has been heard of, if it has one.
	Target func() (name string, sure bool)
	// Where tells where in its file a step stands.
	Where func(digest.Digest) []*errdefs.Source
}

// telling is what progress is told of a step that runs.
type telling struct {
	vertex         *solver.Vertex
	started, ended bool
	// final says that line and causes will not get better.
	final  bool
	line   string // "" for nothing to say
	causes []*explainv1.Cause
	// held is the news of the step's end, which wait for the line: clients show
	// nothing of a step behind its end. The build itself goes on.
	held  *solver.State
	timer *time.Timer // ends the wait
}

// maxHold is how long the news of a step's end wait.
const maxHold = 200 * time.Millisecond

// maxComparing bounds the time that the comparisons of one build take together;
// after it causes are told without files.
const maxComparing = 10 * time.Second

// Begin explains a build, whose steps Of makes known. ctx must last until Finish
// has returned.
func (x *Explainer) Begin(ctx context.Context, c BuildConfig) *Build {
	b := &Build{x: x, c: c, ctx: ctx, target: sync.OnceValues(c.Target), told: map[digest.Digest]*telling{}, budget: maxComparing}
	b.comparison = comparison{x: x, told: b.causes}
	return b
}

// Of says which solver's build it is that is explained, before that begins.
func (b *Build) Of(s *solver.Build) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.solve = s
}

// Vertex implements solver.Events.
func (b *Build) Vertex(v *solver.Vertex, s solver.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.told[v.Digest]
	switch {
	case t == nil || t.ended:
		b.c.Log.Vertex(v, s)
	case s.Completed.IsZero():
		b.releaseLocked(t)
		b.c.Log.Vertex(v, s)
		t.started = t.started || !s.Started.IsZero()
		if t.final {
			b.tellLocked(t)
		}
	case t.final || b.closed || !t.started:
		b.endLocked(t, s)
	case t.held == nil:
		t.held = &s
		t.timer = time.AfterFunc(maxHold, func() { b.release(t) })
	}
}

// endLocked tells that a step has ended, and before that why it ran.
func (b *Build) endLocked(t *telling, s solver.State) {
	if !s.Cached {
		b.tellLocked(t)
	}
	t.ended = true
	b.c.Log.Vertex(t.vertex, s)
}

func (b *Build) release(t *telling) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releaseLocked(t)
}

func (b *Build) releaseLocked(t *telling) {
	if t.held == nil {
		return
	}
	s := *t.held
	t.timer.Stop()
	t.held = nil
	b.endLocked(t, s)
}

// Log implements solver.Events.
func (b *Build) Log(v *solver.Vertex, stream int, data []byte) { b.c.Log.Log(v, stream, data) }

// Status implements solver.Events.
func (b *Build) Status(v *solver.Vertex, s solver.Status) { b.c.Log.Status(v, s) }

// tellLocked shows the line of a step, once, while the step runs. A status is the
// form that clients keep beside a step and that is no part of what it wrote.
func (b *Build) tellLocked(t *telling) {
	if t.line == "" || t.ended || !t.started {
		return
	}
	now := time.Now()
	b.c.Log.Status(t.vertex, solver.Status{ID: "why: " + t.line, Started: now, Completed: now})
	t.line = ""
}

// Missed takes a step that has to run, and returns at once.
func (b *Build) Missed(m solver.Miss) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.told[m.Vertex.Digest] = &telling{vertex: m.Vertex}
	b.queue = append(b.queue, m)
	if !b.busy {
		b.busy = true
		b.group.Go(func() error {
			b.work()
			return nil
		})
	}
}

// next returns a step that is to be explained.
func (b *Build) next() (solver.Miss, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.busy = false
		return solver.Miss{}, false
	}
	m := b.queue[0]
	b.queue = b.queue[1:]
	return m, true
}

// work explains what is in the queue.
func (b *Build) work() {
	for {
		m, ok := b.next()
		if !ok {
			return
		}
		c := b.compared(m)
		// What can be said without looking at files goes first: the step may be over
		// before they are compared.
		causes := c.causes(b.ctx, m, false)
		final := b.budget <= 0 || !slices.ContainsFunc(causes, isFiles)
		b.found(m.Vertex, causes, final)
		if final {
			continue
		}
		begin := time.Now()
		b.found(m.Vertex, c.causes(b.ctx, m, true), true)
		b.budget -= time.Since(begin)
	}
}

func isFiles(c *explainv1.Cause) bool { return c.Kind == explainv1.Kind_KIND_FILES }

// found takes the causes of a step; final are they if better ones do not come.
func (b *Build) found(v *solver.Vertex, causes []*explainv1.Cause, final bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.told[v.Digest]
	t.causes, t.final = causes, final
	if !t.ended {
		t.line = progressLine(v, causes)
	}
	if final {
		b.tellLocked(t)
		b.releaseLocked(t)
	}
}

// causes returns what has been found of a step.
func (b *Build) causes(d digest.Digest) []*explainv1.Cause {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.told[d]; t != nil {
		return t.causes
	}
	return nil
}

// progressLine is what progress says of a step. It is for those who wonder: that a
// first build runs all of its steps, or one without the cache, surprises nobody.
func progressLine(v *solver.Vertex, causes []*explainv1.Cause) string {
	if internal(v.Name) || len(causes) == 0 {
		return ""
	}
	switch causes[0].Kind {
	case explainv1.Kind_KIND_FIRST_BUILD, explainv1.Kind_KIND_NEW_STEP, explainv1.Kind_KIND_NO_CACHE:
		return ""
	}
	return oneLine(why(causes))
}

// compared returns the comparison with all that the build knows by now.
func (b *Build) compared(m solver.Miss) *comparison {
	b.mu.Lock()
	solve := b.solve
	b.mu.Unlock()
	target, sure := b.target()
	b.comparison.load(b.ctx, target)
	b.comparison.know(solve.Vertices(), sure)
	// Sources are pinned by now.
	b.comparison.refresh(m.Vertex)
	for _, e := range m.Vertex.Inputs {
		b.comparison.refresh(e.Vertex)
	}
	return &b.comparison
}

package solver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/flight"
	"github.com/opencontainers/go-digest"
)

// State is how far a vertex has come within a build.
type State struct {
	Started, Completed time.Time
	Cached             bool
	Err                error
}

// Events receives a build's progress. Its methods are called from many
// goroutines and must not block for long.
type Events interface {
	Vertex(v *Vertex, s State)
	Log(v *Vertex, stream int, data []byte)
	Status(v *Vertex, s Status)
}

// BuildConfig says what a build lends to its steps.
type BuildConfig struct {
	ID string
	// Sessions are the client sessions that lend files, secrets and credentials.
	Sessions []string
	Events   Events
	// Hold keeps a tree from being evicted until the build ends. It returns
	// cache.ErrNotFound if the tree is gone, or was promised and cannot be had.
	Hold func(cache.Tree) error
	// Missed is told of each step that no cache has, before it runs; nil for
	// nobody. It must not block.
	Missed func(Miss)
}

// Build is one client's request: the vertices that it knows, and what it has
// found out about them. It is safe for concurrent use.
type Build struct {
	ID       string
	s        *Solver
	sessions []string
	events   Events
	hold     func(cache.Tree) error
	missed   func(Miss)

	keys    memo[key]
	results memo[found]

	mu       sync.Mutex // guards what follows
	vertices map[digest.Digest]*Vertex
	cached   map[digest.Digest]bool // said to be cached, or running
	imports  []*imported
	sights   map[sight]cache.Key
}

// found is what a step was solved to.
type found struct {
	key   // that it was found under, or ran under
	trees []cache.Tree
	from  *imported // nil: the solver's own cache, or it ran
}

// NewBuild starts a build.
func (s *Solver) NewBuild(c BuildConfig) *Build {
	return &Build{
		ID: c.ID, s: s, sessions: c.Sessions, events: c.Events, hold: c.Hold, missed: c.Missed,
		vertices: map[digest.Digest]*Vertex{}, cached: map[digest.Digest]bool{}, sights: map[sight]cache.Key{},
	}
}

// Sessions returns the client sessions that the build was started with.
func (b *Build) Sessions() []string { return b.sessions }

// Intern returns the vertex that this build knows under v's digest, which is v
// if there was none. A vertex asked for without the cache makes the known one
// ignore it too.
func (b *Build) Intern(v *Vertex) *Vertex {
	b.mu.Lock()
	u, ok := b.vertices[v.Digest]
	if ok && (u.NoCache || !v.NoCache) {
		b.mu.Unlock()
		return u
	}
	b.vertices[v.Digest] = v
	b.mu.Unlock()
	if !ok {
		b.events.Vertex(v, State{})
	}
	return v
}

// Solve returns the tree of e, from a cache or by running what is missing. The
// error of a step that failed is a *StepError.
func (b *Build) Solve(ctx context.Context, e Edge) (cache.Tree, error) {
	f, err := b.solve(ctx, e.Vertex)
	if err != nil {
		return "", err
	}
	return f.tree(e)
}

// tree returns the output that e is.
func (f found) tree(e Edge) (cache.Tree, error) {
	if e.Output < 0 || e.Output >= len(f.trees) {
		return "", fmt.Errorf("output %d of %s: the step has %d outputs", e.Output, e.Vertex.Name, len(f.trees))
	}
	return f.trees[e.Output], nil
}

// maxLosses bounds how often a step is tried again because files of its inputs
// that an import promised were not to be had.
const maxLosses = 8

func (b *Build) solve(ctx context.Context, v *Vertex) (found, error) {
	return b.results.do(ctx, b, v, func(ctx context.Context) (found, error) {
		for losses := 0; ; losses++ {
			f, err := b.solveOnce(ctx, v)
			if !errors.Is(err, cache.ErrLost) || losses == maxLosses || !b.Forget(v.Inputs...) {
				return f, err
			}
		}
	})
}

// Forget makes the build solve those of the edges again whose trees cannot be had
// any more, and tells whether there are any.
func (b *Build) Forget(edges ...Edge) bool {
	any := false
	for _, e := range edges {
		f, ok := b.results.get(e.Vertex.Digest)
		if ok && b.holdAll(f.trees) != nil {
			b.results.forget(e.Vertex.Digest)
			b.forgetSights(e.Vertex)
			any = true
		}
	}
	return any
}

func (b *Build) forgetSights(v *Vertex) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for at := range b.sights {
		if at.step == v.Digest {
			delete(b.sights, at)
		}
	}
}

func (b *Build) solveOnce(ctx context.Context, v *Vertex) (found, error) {
	f, ok, err := b.find(ctx, v)
	if err != nil {
		return found{}, err
	}
	if ok {
		b.tellCached(v)
		return f, nil
	}
	in, err := each(ctx, v.Inputs, b.Solve)
	if err != nil {
		return found{}, err
	}
	// What was said of an input may differ from the tree that it was solved to,
	// as when it was lost and made again. What depends on v must know the key
	// that v ran under.
	k, err := b.derive(ctx, v, b.seen)
	if err != nil {
		return found{}, err
	}
	b.keys.set(v.Digest, k)
	trees, err := b.run(ctx, v, k, in)
	return found{key: k, trees: trees}, err
}

// find looks for v in the solver's own cache and then in the imports.
func (b *Build) find(ctx context.Context, v *Vertex) (found, bool, error) {
	k, err := b.key(ctx, v)
	if err != nil || k.fresh {
		return found{}, false, err
	}
	f, ok, err := b.findAs(ctx, nil, k)
	if ok || err != nil {
		return f, ok, err
	}
	for _, im := range b.importedCaches() {
		ik, err := b.keyIn(ctx, im, v)
		if err != nil {
			return found{}, false, err
		}
		if f, ok, err := b.findAs(ctx, im, ik); ok || err != nil {
			return f, ok, err
		}
		if ik.Key == k.Key {
			continue
		}
		if f, ok, err := b.findAs(ctx, im, k); ok || err != nil {
			return f, ok, err
		}
	}
	return found{}, false, nil
}

// findAs looks for what ran under k; from is nil for the solver's own cache.
func (b *Build) findAs(ctx context.Context, from *imported, k key) (found, bool, error) {
	if k.fresh {
		return found{}, false, nil
	}
	var c Import = b.s.cache
	if from != nil {
		c = from
	}
	trees, err := b.lookup(ctx, c, k.Key)
	if errors.Is(err, cache.ErrNotFound) {
		return found{}, false, nil
	}
	return found{key: k, trees: trees, from: from}, err == nil, err
}

// lookup returns the trees of a known key, held for this build.
func (b *Build) lookup(ctx context.Context, c Import, k cache.Key) ([]cache.Tree, error) {
	r, err := c.Result(ctx, k)
	if err != nil {
		return nil, err
	}
	return r.Trees, b.holdAll(r.Trees)
}

func (b *Build) holdAll(trees []cache.Tree) error {
	for _, t := range trees {
		if err := b.hold(t); err != nil {
			return err
		}
	}
	return nil
}

// tellCached marks v and what it was made of as cached, so that progress shows
// every step of a build that ran nothing. Of the inputs no more is known than
// that they are not needed.
func (b *Build) tellCached(v *Vertex) {
	b.mu.Lock()
	told := b.cached[v.Digest]
	b.cached[v.Digest] = true
	b.mu.Unlock()
	if told {
		return
	}
	for _, e := range v.Inputs {
		b.tellCached(e.Vertex)
	}
	now := time.Now()
	b.events.Vertex(v, State{Started: now, Completed: now, Cached: true})
}

// run runs v unless its result is there by now or on its way.
func (b *Build) run(ctx context.Context, v *Vertex, k key, in []cache.Tree) ([]cache.Tree, error) {
	b.mu.Lock()
	b.cached[v.Digest] = true
	b.mu.Unlock()
	if b.missed != nil {
		b.missed(Miss{asked(v, k), in})
	}
	id := k.Key
	if k.fresh {
		id = cache.Hash("fresh", k.Key[:], []byte(b.ID))
	}
	w := &waiter{build: b, vertex: v}
	out, err := b.s.runs.Do(ctx, id, w, func(ctx context.Context, c *flight.Call[*waiter, outcome]) (outcome, error) {
		return b.perform(ctx, newAudience(c), Step{Key: k.Key, Vertex: v, Inputs: in}, k.fresh)
	})
	if err == nil {
		err = b.holdAll(out.trees)
	}
	b.tellDone(w, out.cached, err)
	if err != nil {
		return nil, &StepError{Vertex: v, Err: err}
	}
	return out.trees, nil
}

func (b *Build) tellDone(w *waiter, cached bool, err error) {
	if errors.Is(err, flight.ErrAbandoned) {
		err = context.Canceled // in the words that clients know a cancelled step by
	}
	s := State{Completed: time.Now(), Cached: cached, Err: err}
	s.Started = s.Completed
	if t := w.started.Load(); t != nil {
		s.Started = *t
	}
	b.events.Vertex(w.vertex, s)
}

package solver

import (
	"context"
	"errors"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/flight"
	"golang.org/x/sync/semaphore"
)

// Contents digests what a selector selects of a tree. Whoever waits lends the
// sessions that may be needed to fetch the tree's files first.
type Contents interface {
	Content(ctx context.Context, w Waiters, t cache.Tree, s cache.Selector) (cache.Key, error)
}

// Config is what a Solver stands on.
type Config struct {
	Cache    Cache
	Contents Contents
	Runner   Runner
	// Slots bounds the steps that run at once; 0 means no bound, as steps often
	// wait for the network or for each other.
	Slots int64
}

// Solver is shared by all builds. It is safe for concurrent use.
type Solver struct {
	cache    Cache
	contents Contents
	runner   Runner
	slots    *semaphore.Weighted
	runs     flight.Group[cache.Key, *waiter, outcome] // leaves: never wait for another flight
}

// New returns a solver.
func New(c Config) *Solver {
	s := &Solver{cache: c.Cache, contents: c.Contents, runner: c.Runner}
	if c.Slots > 0 {
		s.slots = semaphore.NewWeighted(c.Slots)
	}
	return s
}

// outcome is what a flight ends with.
type outcome struct {
	trees  []cache.Tree
	cached bool // found rather than run
}

// perform is the work of one flight, done for whoever started it: it holds a
// slot only while the step runs.
func (b *Build) perform(ctx context.Context, a *audience, st Step, fresh bool) (outcome, error) {
	s := b.s
	// It may have been made since b looked. What b imported must not reach the
	// other builds that wait.
	if !fresh {
		if trees, err := b.lookup(ctx, s.cache, st.Key); err == nil {
			return outcome{trees: trees, cached: true}, nil
		} else if !errors.Is(err, cache.ErrNotFound) {
			return outcome{}, err
		}
	}
	if s.slots != nil {
		if err := s.slots.Acquire(ctx, 1); err != nil {
			return outcome{}, context.Cause(ctx)
		}
		defer s.slots.Release(1)
	}
	begin := time.Now()
	a.start(begin)
	trees, err := s.runner.Run(ctx, a, st)
	if err != nil {
		return outcome{}, err
	}
	end := time.Now()
	return outcome{trees: trees}, s.cache.SetResult(ctx, st.Key, cache.Record{
		Trees: trees, Name: st.Vertex.Name, Kind: st.Vertex.Op.Kind(),
		Created: end, LastUsed: end, UseCount: 1, Duration: end.Sub(begin),
	})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/gc"
	"github.com/buildd/buildd/cache/tree"
)

// leases keep layers for a time after they were used last, under names that
// clients choose. While a lease is used it holds its trees; then it only names
// them to the garbage collector, which may end it before its time if space is
// short.
type leases struct {
	trees *tree.Store
	last  time.Duration
	now   func() time.Time

	mu sync.Mutex // guards what follows, and the fields of each lease
	m  map[string]*lease
}

type lease struct {
	of      *leases
	name    string
	trees   map[cache.Tree]struct{}
	held    *tree.Lease // nil unless it is used
	users   int
	count   int // uses ever
	created time.Time
	used    time.Time
}

func newLeases(trees *tree.Store, last time.Duration) *leases {
	return &leases{trees: trees, last: last, now: time.Now, m: map[string]*lease{}}
}

// maxLeases bounds what clients can make a worker remember.
const maxLeases = 1 << 17

var errTooManyLeases = fmt.Errorf("there are %d leases already", maxLeases)

// use returns a lease, new or not. Its trees stay until done is called, and for
// the time of a lease after that if there is space.
func (l *leases) use(name string) (e *lease, done func(), err error) {
	if name == "" || len(name) > maxID || strings.ContainsAny(name, "\x00\n") {
		return nil, nil, fmt.Errorf("lease %.80q: want a name of at most %d bytes", name, maxID)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.m[name]
	if !ok {
		if len(l.m) >= maxLeases {
			return nil, nil, errTooManyLeases
		}
		e = &lease{of: l, name: name, trees: map[cache.Tree]struct{}{}, created: l.now()}
		l.m[name] = e
	}
	if e.users == 0 {
		e.held = l.trees.Lease(name)
		for t := range e.trees {
			if e.held.Add(t) != nil { // it is gone, whoever needs it will notice
				delete(e.trees, t)
			}
		}
	}
	e.users++
	e.count++
	return e, sync.OnceFunc(e.done), nil
}

func (e *lease) done() {
	e.of.mu.Lock()
	defer e.of.mu.Unlock()
	e.used = e.of.now()
	if e.users--; e.users == 0 {
		e.held.Release()
		e.held = nil
	}
}

// add takes a tree in, or returns cache.ErrNotFound if it is gone.
func (e *lease) add(t cache.Tree) error {
	e.of.mu.Lock()
	defer e.of.mu.Unlock()
	if err := e.held.Add(t); err != nil {
		return err
	}
	if t != "" {
		e.trees[t] = struct{}{}
	}
	return nil
}

// adopt leases all that the store has, as when it was opened: who used it before
// the worker was started anew will come back.
func (l *leases) adopt() {
	all, _ := l.trees.All()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range all[:min(len(all), maxLeases/2)] {
		name := "adopted " + string(t.Tree)
		l.m[name] = &lease{of: l, name: name, trees: map[cache.Tree]struct{}{t.Tree: {}}, created: l.now(), used: l.now()}
	}
}

// Usage implements gc.Extra. It ends the leases that have run out.
func (s *Server) Usage(context.Context) ([]gc.Kept, error) {
	l := s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]gc.Kept, 0, len(l.m))
	for name, e := range l.m {
		if e.users == 0 && l.now().Sub(e.used) > l.last {
			delete(l.m, name)
			continue
		}
		k := gc.Kept{Record: gc.Record{
			ID: name, InUse: e.users > 0, CreatedAt: e.created, LastUsedAt: e.used, UsageCount: e.count, Description: "lease " + name,
		}}
		for t := range e.trees {
			k.Trees = append(k.Trees, t)
		}
		out = append(out, k)
	}
	return out, nil
}

// Evict implements gc.Extra.
func (s *Server) Evict(_ context.Context, name string) error {
	l := s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.m[name]
	switch {
	case !ok:
		return fmt.Errorf("lease %s: %w", name, cache.ErrNotFound)
	case e.users > 0:
		return errors.Join(gc.ErrInUse, fmt.Errorf("lease %s is used", name))
	}
	delete(l.m, name)
	return nil
}

var _ gc.Extra = (*Server)(nil)

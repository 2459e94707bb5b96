package solver

import (
	"context"
	"sync"

	"github.com/buildd/buildd/cache/flight"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// memo runs a function once per vertex of a build; it forgets failures.
type memo[V any] struct {
	g  flight.Group[digest.Digest, *Build, V]
	mu sync.Mutex // guards m
	m  map[digest.Digest]V
}

func (m *memo[V]) do(ctx context.Context, b *Build, v *Vertex, fn func(context.Context) (V, error)) (V, error) {
	if out, ok := m.get(v.Digest); ok {
		return out, nil
	}
	return m.g.Do(ctx, v.Digest, b, func(ctx context.Context, _ *flight.Call[*Build, V]) (V, error) {
		if out, ok := m.get(v.Digest); ok {
			return out, nil
		}
		out, err := fn(ctx)
		if err == nil {
			m.set(v.Digest, out)
		}
		return out, err
	})
}

func (m *memo[V]) get(d digest.Digest) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.m[d]
	return v, ok
}

func (m *memo[V]) forget(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.m, d)
}

func (m *memo[V]) set(d digest.Digest, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = map[digest.Digest]V{}
	}
	m.m[d] = v
}

// each runs fn on all items at once and returns the outcomes in order.
func each[T, V any](ctx context.Context, items []T, fn func(context.Context, T) (V, error)) ([]V, error) {
	out := make([]V, len(items))
	if len(items) == 1 {
		var err error
		out[0], err = fn(ctx, items[0])
		return out, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, it := range items {
		g.Go(func() (err error) { out[i], err = fn(ctx, it); return err })
	}
	return out, g.Wait()
}

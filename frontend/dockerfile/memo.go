package dockerfile

import (
	"context"
	"sync"

	"github.com/buildd/buildd/cache/flight"
)

// memo runs a function once per key and build, however many platforms ask for it. It remembers failures too, as a second try
// within one build would only tell the same error later; not those of a caller who gave up.
type memo[V any] struct {
	flights flight.Group[string, struct{}, V]
	mu      sync.Mutex // guards done
	done    map[string]outcome[V]
}

type outcome[V any] struct {
	value V
	err   error
}

func (m *memo[V]) do(ctx context.Context, key string, f func(context.Context) (V, error)) (V, error) {
	if o, ok := m.get(key); ok {
		return o.value, o.err
	}
	return m.flights.Do(ctx, key, struct{}{}, func(ctx context.Context, _ *flight.Call[struct{}, V]) (V, error) {
		if o, ok := m.get(key); ok {
			return o.value, o.err
		}
		v, err := f(ctx)
		if ctx.Err() == nil {
			m.set(key, outcome[V]{v, err})
		}
		return v, err
	})
}

func (m *memo[V]) get(key string) (outcome[V], bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.done[key]
	return o, ok
}

func (m *memo[V]) set(key string, o outcome[V]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done == nil {
		m.done = map[string]outcome[V]{}
	}
	m.done[key] = o
}

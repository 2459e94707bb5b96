package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
)

// ErrAbandoned is the cause of the context of work whose last waiter has left.
var ErrAbandoned = errors.New("no waiter left")

// PanicError is what waiters get when the work panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// Func is the work of a flight.
type Func[W, V any] func(ctx context.Context, c *Call[W, V]) (V, error)

// Group is a set of flights by key; W is what a waiter brings along, V what the
// work returns. The zero Group is ready for use.
type Group[K comparable, W, V any] struct {
	mu    sync.Mutex // guards calls, and the waiters of each call
	calls map[K]*Call[W, V]
}

// Do joins the flight for key on behalf of w and returns its outcome; without
// such a flight it starts one with fn. The context that fn gets has the values
// of ctx but not its end.
//
// When ctx ends before the flight does, Do returns the context's cause. The
// last waiter to leave cancels the work and returns only when it has stopped;
// who comes meanwhile waits for that too and then starts a new flight.
func (g *Group[K, W, V]) Do(ctx context.Context, key K, w W, fn Func[W, V]) (V, error) {
	var zero V
	for {
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		c, me := g.join(ctx, key, w, fn)
		if me == nil {
			select {
			case <-c.done:
				continue
			case <-ctx.Done():
				return zero, context.Cause(ctx)
			}
		}
		select {
		case <-c.done:
			return c.val, c.err
		case <-ctx.Done():
			c.leave(me)
			return zero, context.Cause(ctx)
		}
	}
}

// Active tells whether there is a flight for key that somebody waits for.
func (g *Group[K, W, V]) Active(key K) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.calls[key]
	return c != nil && len(c.waiters) > 0
}

// join adds a waiter to the flight for key, which it starts if there is none.
// The waiter is nil if the flight is abandoned and still winding down.
func (g *Group[K, W, V]) join(ctx context.Context, key K, w W, fn Func[W, V]) (*Call[W, V], *waiter[W]) {
	me := &waiter[W]{w}
	g.mu.Lock()
	c, ok := g.calls[key]
	switch {
	case !ok:
		c = g.startLocked(ctx, key, me, fn)
	case len(c.waiters) == 0:
		me = nil
	default:
		c.waiters = append(c.waiters, me)
	}
	hooks := slices.Clone(c.hooks)
	g.mu.Unlock()
	if me != nil {
		for _, f := range hooks {
			f(w)
		}
	}
	return c, me
}

func (g *Group[K, W, V]) startLocked(ctx context.Context, key K, first *waiter[W], fn Func[W, V]) *Call[W, V] {
	if g.calls == nil {
		g.calls = make(map[K]*Call[W, V])
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c := &Call[W, V]{mu: &g.mu, waiters: []*waiter[W]{first}, cancel: cancel, done: make(chan struct{})}
	g.calls[key] = c
	go func() {
		defer func() {
			g.mu.Lock()
			delete(g.calls, key)
			g.mu.Unlock()
			cancel(nil)
			close(c.done)
		}()
		c.run(ctx, fn)
	}()
	return c
}

// Call is one flight, as its work sees it.
type Call[W, V any] struct {
	mu      *sync.Mutex // the group's; guards waiters and hooks
	waiters []*waiter[W]
	hooks   []func(W)

	cancel context.CancelCauseFunc
	done   chan struct{} // closed when val and err are final
	val    V
	err    error
}

// waiter gives equal Ws of different callers an identity.
type waiter[W any] struct{ w W }

// Waiters returns those who wait now, first come first.
func (c *Call[W, V]) Waiters() []W {
	c.mu.Lock()
	defer c.mu.Unlock()
	ws := make([]W, len(c.waiters))
	for i, w := range c.waiters {
		ws[i] = w.w
	}
	return ws
}

// OnJoin calls f once for everybody who waits already and then for each who
// joins, in the joiner's goroutine and before it waits, such as to replay what
// the work has reported so far. f may be called concurrently.
func (c *Call[W, V]) OnJoin(f func(W)) {
	c.mu.Lock()
	c.hooks = append(c.hooks, f)
	now := slices.Clone(c.waiters)
	c.mu.Unlock()
	for _, w := range now {
		f(w.w)
	}
}

// run makes sure that waiters get an error, whatever way fn ends.
func (c *Call[W, V]) run(ctx context.Context, fn Func[W, V]) {
	c.err = errors.New("flight: the work ended its goroutine")
	defer func() {
		if r := recover(); r != nil {
			c.err = &PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	c.val, c.err = fn(ctx, c)
}

// leave drops a waiter; the last one stops the work.
func (c *Call[W, V]) leave(me *waiter[W]) {
	c.mu.Lock()
	c.waiters = slices.DeleteFunc(c.waiters, func(w *waiter[W]) bool { return w == me })
	last := len(c.waiters) == 0
	c.mu.Unlock()
	if last {
		c.cancel(ErrAbandoned)
		<-c.done
	}
}

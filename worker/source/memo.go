package source

import (
	"context"
	"errors"
	"sync"
)

// errPanicked stands for the outcome of a call that never returned.
var errPanicked = errors.New("lookup panicked")

// Memo makes the parts of one build agree: what a tag, a branch or a URL was
// found to mean is not looked up again before the build ends. The zero Memo is
// ready for use; a nil one remembers nothing.
type Memo struct {
	mu    sync.Mutex // guards calls
	calls map[string]*memoCall
}

type memoCall struct {
	done  chan struct{}
	value []byte
	err   error
}

// Do returns what f returned the first time that Do was called for key. Callers
// that come while f runs wait for it. Errors are not remembered: if f fails,
// one of those that wait calls its own f.
func (m *Memo) Do(ctx context.Context, key string, f func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	if m == nil {
		return f(ctx)
	}
	for {
		m.mu.Lock()
		c, ok := m.calls[key]
		if !ok {
			c = &memoCall{done: make(chan struct{})}
			if m.calls == nil {
				m.calls = map[string]*memoCall{}
			}
			m.calls[key] = c
			m.mu.Unlock()
			return m.call(ctx, key, c, f)
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.done:
		}
		if c.err == nil {
			return c.value, nil
		}
	}
}

func (m *Memo) call(ctx context.Context, key string, c *memoCall, f func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	c.err = errPanicked
	defer func() {
		if c.err != nil {
			m.mu.Lock()
			delete(m.calls, key)
			m.mu.Unlock()
		}
		close(c.done)
	}()
	c.value, c.err = f(ctx)
	return c.value, c.err
}

package local

import (
	"context"
	"sync"
)

// queue is an unbounded queue of file numbers.
type queue struct {
	mu     sync.Mutex // guards ids and closed
	ids    []uint32
	closed bool
	wake   chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) put(id uint32) {
	q.mu.Lock()
	q.ids = append(q.ids, id)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for a number; false if there will be none.
func (q *queue) next(ctx context.Context) (uint32, bool) {
	for {
		q.mu.Lock()
		if len(q.ids) > 0 {
			id := q.ids[0]
			q.ids = q.ids[1:]
			q.mu.Unlock()
			return id, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return 0, false
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-q.wake:
		}
	}
}

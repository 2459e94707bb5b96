package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// pool keeps namespaces ready. When less than half of size are idle, its one
// goroutine makes new ones up to size; it belongs to the provider and ends with
// close. Used ones that come back are kept up to spare times size: to make and
// remove devices, the kernel waits many milliseconds under its one lock for all
// networks, so a pool that did it for each step would be no faster than none.
type pool[T any] struct {
	size    int
	make    func(context.Context) (T, error)
	destroy func(T) error
	log     *slog.Logger

	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // guards what follows
	idle   []T
	closed bool
}

const spare = 4

// retryTime is the pause after a namespace could not be made in the background.
const retryTime = 5 * time.Second

func newPool[T any](size int, log *slog.Logger, mk func(context.Context) (T, error), destroy func(T) error) *pool[T] {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pool[T]{size: size, make: mk, destroy: destroy, log: log, wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	go p.fill(ctx)
	return p
}

func (p *pool[T]) fill(ctx context.Context) {
	defer close(p.done)
	for {
		for p.wanting(p.size) {
			x, err := p.make(ctx)
			if err != nil {
				if ctx.Err() == nil {
					p.log.Warn("no network namespace could be made in advance", "error", err)
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(retryTime):
				}
				continue
			}
			if !p.put(x) {
				p.drop(x)
			}
		}
		for ok := true; ok; ok = !p.wanting((p.size + 1) / 2) {
			select {
			case <-ctx.Done():
				return
			case <-p.wake:
			}
		}
	}
}

func (p *pool[T]) wanting(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && len(p.idle) < n
}

// put adds an idle namespace, unless there are enough.
func (p *pool[T]) put(x T) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= spare*p.size {
		return false
	}
	p.idle = append(p.idle, x)
	return true
}

// get returns an idle namespace, or a new one.
func (p *pool[T]) get(ctx context.Context) (T, error) {
	p.mu.Lock()
	var x T
	if p.closed {
		p.mu.Unlock()
		return x, errors.New("network provider is closed")
	}
	n := len(p.idle)
	if n > 0 {
		x, p.idle = p.idle[n-1], p.idle[:n-1]
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	if n > 0 {
		return x, nil
	}
	return p.make(ctx)
}

// release takes a namespace back, to be used again or removed.
func (p *pool[T]) release(x T, again bool) error {
	if again && p.put(x) {
		return nil
	}
	return p.destroy(x)
}

func (p *pool[T]) drop(x T) {
	if err := p.destroy(x); err != nil {
		p.log.Warn("a network namespace is left behind", "error", err)
	}
}

// close removes the idle namespaces and waits for the goroutine.
func (p *pool[T]) close() error {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	p.cancel()
	<-p.done
	var errs []error
	for _, x := range idle {
		errs = append(errs, p.destroy(x))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close network: %w", err)
	}
	return nil
}

package tree

import (
	"fmt"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
)

// Lease keeps trees from being removed, and with them their layers and blobs. A
// running build has one. Leases live in memory only: a crash ends all builds.
type Lease struct {
	id    string
	store *Store

	mu    sync.Mutex // guards what follows; taken before the store's
	trees map[cache.Tree]*node
	ended bool
}

// Lease returns a new lease; id is for messages.
func (s *Store) Lease(id string) *Lease {
	return &Lease{id: id, store: s, trees: map[cache.Tree]*node{}}
}

// Add takes a tree in, or returns cache.ErrNotFound if it is gone, or if a layer
// of it was lost a moment ago.
func (l *Lease) Add(t cache.Tree) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return fmt.Errorf("lease %s: it has been released", l.id)
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	n, err := l.store.nodeLocked(t)
	if err != nil || n == nil {
		return err
	}
	if l.store.isLostLocked(n, time.Now()) {
		return fmt.Errorf("tree %s: %w: %w", t, cache.ErrNotFound, cache.ErrLost)
	}
	n.fresh = false // even of a tree that was made once more since it was taken in
	if _, ok := l.trees[t]; ok {
		return nil
	}
	n.holds++
	l.trees[t] = n
	return nil
}

// Release lets go of all trees.
func (l *Lease) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	for _, n := range l.trees {
		n.letGoLocked()
	}
	clear(l.trees)
}

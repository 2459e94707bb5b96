package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
)

// leases keep layers for a time after they were used last, under names that
// clients choose.
type leases struct {
	trees *tree.Store
	now   func() time.Time

	mu sync.Mutex // guards what follows, and the fields of each lease but held
	m  map[string]*lease
}

type lease struct {
	held  *tree.Lease
	users int
	used  time.Time
}

func newLeases(trees *tree.Store) *leases {
	return &leases{trees: trees, now: time.Now, m: map[string]*lease{}}
}

// maxLeases bounds what clients can make a worker remember.
const maxLeases = 1 << 17

var errTooManyLeases = fmt.Errorf("there are %d leases already", maxLeases)

// use returns a lease, new or not, which stays until done is called and for the
// time of a lease after that.
func (l *leases) use(name string) (held *tree.Lease, done func(), err error) {
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
		e = &lease{held: l.trees.Lease(name)}
		l.m[name] = e
	}
	e.users++
	return e.held, sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		e.users--
		e.used = l.now()
	}), nil
}

// expire ends the leases that were used last before a time, and tells how many
// are left.
func (l *leases) expire(before time.Time) (left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, e := range l.m {
		if e.users == 0 && e.used.Before(before) {
			e.held.Release()
			delete(l.m, name)
		}
	}
	return len(l.m)
}

// oldest returns a time before which a part of the leases that are not in use
// was used last; ok is false if all are in use.
func (l *leases) oldest() (before time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var idle []time.Time
	for _, e := range l.m {
		if e.users == 0 {
			idle = append(idle, e.used)
		}
	}
	if len(idle) == 0 {
		return time.Time{}, false
	}
	slices.SortFunc(idle, time.Time.Compare)
	return idle[len(idle)/4].Add(1), true
}

// adopt leases all that the store has, as when it was opened: who used it before
// the worker was started anew will come back.
func (l *leases) adopt() error {
	held, done, err := l.use("adopted")
	if err != nil {
		return err
	}
	defer done()
	all, _ := l.trees.All()
	for _, t := range all {
		if err := held.Add(t.Tree); err != nil && !errors.Is(err, cache.ErrNotFound) {
			return err
		}
	}
	return nil
}

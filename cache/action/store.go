package action

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/internal/boltdb"
)

// Config says where records are kept and how.
type Config struct {
	// Path is the database's file.
	Path string
	// Barrier makes durable what the records of a batch name, as tree.Store.Sync
	// does; nil does nothing.
	Barrier func(context.Context) error
	// Alive tells whether a tree is still there, as tree.Store.Has does. A record
	// of which one is gone is forgotten. nil takes all to be alive.
	Alive func(cache.Tree) bool
	// Interval is how long writes are gathered. Default: 500 ms, at most what a
	// crash loses: steps wait for the file system while it is synced; or longer where a batch takes long, so that writing takes a
	// sixth of the time at most.
	Interval time.Duration
	// Batch is how many writes end the gathering early. Default: 1000.
	Batch int
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

func (c Config) applyDefaults() Config {
	c.Interval = cmp.Or(c.Interval, 500*time.Millisecond)
	c.Batch = cmp.Or(c.Batch, 1000)
	c.Log = cmp.Or(c.Log, slog.Default())
	if c.Barrier == nil {
		c.Barrier = func(context.Context) error { return nil }
	}
	if c.Alive == nil {
		c.Alive = func(cache.Tree) bool { return true }
	}
	return c
}

// maxPending bounds what is gathered while the disk takes nothing.
const maxPending = 100_000

// Store is an action cache in a file. It is safe for concurrent use.
type Store struct {
	cfg   Config
	db    *boltdb.DB
	group errgroup.Group
	stop  context.CancelFunc
	kick  chan struct{} // has an element when the writer has something to do

	flushing sync.Mutex // one flush at a time; held over I/O, guards nothing else

	mu      sync.Mutex // guards what follows
	pending *batch     // what was written last
	writing *batch     // what is on its way to the disk; nil if nothing is
	gen     uint64     // how often a record or the batches above changed
}

// Open opens the store at c.Path, which no other process may use.
func Open(c Config) (*Store, error) {
	c = c.applyDefaults()
	db, err := boltdb.Open(c.Path, c.Log, string(recordsBucket), string(contentsBucket), string(notesBucket))
	if err != nil {
		return nil, fmt.Errorf("open action cache: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{cfg: c, db: db, stop: stop, kick: make(chan struct{}, 1), pending: newBatch()}
	s.group.Go(func() error {
		s.write(ctx)
		return nil
	})
	return s, nil
}

// Close writes what is pending and closes the file.
func (s *Store) Close() error {
	s.stop()
	s.group.Wait()
	return errors.Join(s.Flush(context.Background()), s.db.Close())
}

// Result returns the record of a key and counts that as a use of it, or returns
// cache.ErrNotFound.
func (s *Store) Result(ctx context.Context, k cache.Key) (cache.Record, error) {
	gen := s.generation()
	r, err := s.record(k)
	if err != nil {
		return cache.Record{}, err
	}
	if !s.alive(r) {
		// Unless somebody has put a new one there meanwhile.
		s.changeAt(gen, func(b *batch) { b.delete(k) })
		return cache.Record{}, notFound(k)
	}
	r.LastUsed = time.Now().UTC()
	r.UseCount++
	s.change(func(b *batch) { b.use(k, r.LastUsed) })
	return r, nil
}

// Peek is Result without the use.
func (s *Store) Peek(ctx context.Context, k cache.Key) (cache.Record, error) {
	r, err := s.record(k)
	if err == nil && !s.alive(r) {
		err = notFound(k)
	}
	return r, err
}

func (s *Store) alive(r cache.Record) bool {
	return !slices.ContainsFunc(r.Trees, func(t cache.Tree) bool { return t != "" && !s.cfg.Alive(t) })
}

// SetResult replaces the record of k and, if its trees differ from the old ones,
// forgets every content digest kept under k.
func (s *Store) SetResult(ctx context.Context, k cache.Key, r cache.Record) error {
	r.Trees = slices.Clone(r.Trees)
	for {
		gen := s.generation()
		old, err := s.record(k)
		if err != nil && !errors.Is(err, cache.ErrNotFound) {
			return err
		}
		forget := err == nil && !slices.Equal(old.Trees, r.Trees)
		if s.changeAt(gen, func(b *batch) { b.set(k, r, forget) }) {
			return nil
		}
	}
}

// Content returns the content digest of what a selector names in an output of
// what ran under k, or cache.ErrNotFound.
func (s *Store) Content(ctx context.Context, k cache.Key, output int, sel cache.Selector) (cache.Key, error) {
	ck := contentKeyOf(k, output, sel)
	c, known := s.gatheredContent(ck)
	if !known {
		return s.storedContent(k, ck)
	}
	if c.IsZero() {
		return c, notFound(k)
	}
	return c, nil
}

// gatheredContent looks in the batches; the zero key is known not to be there.
func (s *Store) gatheredContent(ck contentKey) (c cache.Key, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batchesLocked() {
		if c, ok := b.contents[ck]; ok {
			return c.Key, true
		}
		if b.wiped[ck.key()] {
			return cache.Key{}, true
		}
	}
	return cache.Key{}, false
}

// SetContent remembers a content digest.
func (s *Store) SetContent(ctx context.Context, k cache.Key, output int, sel cache.Selector, c cache.Key) error {
	ck := contentKeyOf(k, output, sel)
	s.change(func(b *batch) { b.contents[ck] = content{c, time.Now()} })
	return nil
}

// Delete forgets what is known under the keys.
func (s *Store) Delete(ctx context.Context, keys ...cache.Key) error {
	s.change(func(b *batch) {
		for _, k := range keys {
			b.delete(k)
		}
	})
	return nil
}

// LastBuild returns what SetLastBuild remembered of a target, or
// cache.ErrNotFound.
func (s *Store) LastBuild(ctx context.Context, target string) ([]byte, error) {
	nk := noteKeyOf(target)
	if text, ok := s.gatheredNote(nk); ok {
		return text, nil
	}
	return s.storedNote(nk, target)
}

func (s *Store) gatheredNote(nk cache.Key) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batchesLocked() {
		if n, ok := b.notes[nk]; ok {
			return slices.Clone(n.text), true
		}
	}
	return nil, false
}

// SetLastBuild remembers of the last build of a target what the next one is to be
// compared with. The text is the caller's.
func (s *Store) SetLastBuild(ctx context.Context, target string, text []byte) error {
	nk, n := noteKeyOf(target), note{slices.Clone(text), time.Now()}
	s.change(func(b *batch) { b.notes[nk] = n })
	return nil
}

// record looks a record up, with the uses that are not on disk yet.
func (s *Store) record(k cache.Key) (cache.Record, error) {
	r, uses, known := s.gatheredRecord(k)
	if !known {
		stored, err := s.storedRecord(k)
		if err != nil {
			return cache.Record{}, err
		}
		r = &stored
	}
	if r == nil {
		return cache.Record{}, notFound(k)
	}
	return uses.applied(*r), nil
}

// gatheredRecord looks in the batches; nil is known not to be there.
func (s *Store) gatheredRecord(k cache.Key) (r *cache.Record, uses use, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batchesLocked() {
		if r, ok := b.records[k]; ok {
			return r, uses, true
		}
		uses = uses.plus(b.uses[k])
	}
	return nil, uses, false
}

// batchesLocked returns what may not be on disk yet, the latest first.
func (s *Store) batchesLocked() []*batch {
	if s.writing == nil {
		return []*batch{s.pending}
	}
	return []*batch{s.pending, s.writing}
}

// change adds to what is pending.
func (s *Store) change(f func(*batch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changeLocked(f)
}

func (s *Store) changeLocked(f func(*batch)) {
	idle := s.pending.len() == 0
	f(s.pending)
	s.gen++
	if idle || s.pending.len() >= s.cfg.Batch {
		s.wake()
	}
}

// changeAt is change unless something changed since generation returned gen.
func (s *Store) changeAt(gen uint64, f func(*batch)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen {
		return false
	}
	s.changeLocked(f)
	return true
}

func (s *Store) generation() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

func notFound(k cache.Key) error { return fmt.Errorf("result of key %s: %w", k, cache.ErrNotFound) }

package tree

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	ocidigest "github.com/opencontainers/go-digest"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/flight"
	"github.com/buildd/buildd/cache/internal/boltdb"
)

// Store keeps trees. It is safe for concurrent use; one process at a time may
// have a directory open.
type Store struct {
	cfg  Config
	root *os.File // Config.Dir
	db   *boltdb.DB

	indexes *indexes
	slots   chan struct{} // one element per layer that is being unpacked
	fetches flight.Group[ocidigest.Digest, fetcher, struct{}]
	unpacks flight.Group[cache.LayerID, struct{}, struct{}]
	packs   flight.Group[packKey, struct{}, packed]
	flats   flight.Group[cache.Tree, struct{}, string]
	legacy  bool // how overlays are mounted

	syncing sync.Mutex // one Sync at a time; held over I/O, guards nothing else

	mu     sync.Mutex // guards what follows, and the records and nodes in it
	layers map[cache.LayerID]*layerRecord
	trees  map[cache.Tree]*node
	// What Sync has to write, or to delete where the maps above have it no more.
	dirtyLayers map[cache.LayerID]struct{}
	dirtyTrees  map[cache.Tree]struct{}
	// lostAt is when layers of remote caches could not be had.
	lostAt map[cache.LayerID]time.Time
	// changed is closed and replaced when a layer becomes ready.
	changed chan struct{}
}

// Open opens the store in c.Dir, creates it if it is missing, and removes what a
// crash has left: unfinished layers, mounts, layers that no record names, and
// records whose layers are gone.
func Open(c Config) (_ *Store, err error) {
	c, err = c.applyDefaults()
	if err != nil {
		return nil, fmt.Errorf("open tree store: %w", err)
	}
	s := &Store{
		cfg: c, indexes: newIndexes(), slots: make(chan struct{}, c.Unpacks),
		layers: map[cache.LayerID]*layerRecord{}, trees: map[cache.Tree]*node{},
		dirtyLayers: map[cache.LayerID]struct{}{}, dirtyTrees: map[cache.Tree]struct{}{},
		lostAt:  map[cache.LayerID]time.Time{},
		changed: make(chan struct{}), legacy: needsLegacy(),
	}
	defer func() {
		if err != nil {
			s.closeFiles()
			err = fmt.Errorf("open tree store %s: %w", c.Dir, err)
		}
	}()
	if err := os.MkdirAll(c.Dir, 0o711); err != nil {
		return nil, err
	}
	// The lock on the database comes before anything is cleaned up.
	s.db, err = boltdb.Open(s.path(dbFile), c.Log, string(layersBucket), string(treesBucket))
	if err != nil {
		return nil, err
	}
	if s.root, err = os.Open(c.Dir); err != nil {
		return nil, err
	}
	if err := s.prepareDirs(); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.Sync(context.Background()); err != nil {
		return nil, err
	}
	return s, nil
}

// Close makes everything durable and takes the mounts down. Forks, drafts and
// views must be closed before.
func (s *Store) Close() error {
	err := s.Sync(context.Background())
	if uerr := unmountBelow(s.path(mountsDir)); err == nil {
		err = uerr
	}
	if cerr := s.closeFiles(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("close tree store %s: %w", s.cfg.Dir, err)
	}
	return nil
}

func (s *Store) closeFiles() error {
	if s.root != nil {
		s.root.Close()
	}
	if s.db != nil {
		return s.db.Close()
	}
	return nil
}

// Sync makes durable whatever was returned before it was called: the layers'
// files first, all with one syncfs, then the records that name them.
func (s *Store) Sync(ctx context.Context) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b, err := s.takeBatch()
	if err != nil || b.empty() {
		return err
	}
	if b.newFiles {
		if err := unix.Syncfs(int(s.root.Fd())); err != nil {
			s.putBack(b)
			return fmt.Errorf("sync layers: %w", err)
		}
	}
	if err := s.db.Update(b.write); err != nil {
		s.putBack(b)
		return fmt.Errorf("sync records of layers: %w", err)
	}
	return nil
}

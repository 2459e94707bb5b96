package tree

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

// ErrNotReady is returned, wrapped, where the files of a layer are needed that
// Ensure has not brought yet.
var ErrNotReady = errors.New("layer is not here yet")

// Files returns the file system of a tree without mounting it. All layers must
// be Ready. The view holds nothing: a lease on the tree keeps its files.
func (s *Store) Files(ctx context.Context, t cache.Tree) (*digest.View, error) {
	if v := s.indexes.view(t); v != nil && s.Has(t) {
		return v, nil
	}
	n, err := s.node(t)
	if err != nil {
		return nil, err
	}
	v, err := s.viewOf(ctx, n.chain())
	if err != nil {
		return nil, fmt.Errorf("read tree %s: %w", t, err)
	}
	s.indexes.putView(t, v)
	return v, nil
}

func (s *Store) viewOf(ctx context.Context, chain []*layerRecord) (*digest.View, error) {
	dirs, err := s.dirs(chain)
	if err != nil {
		return nil, err
	}
	layers := make([]digest.Layer, len(chain))
	for i, r := range chain {
		if layers[i], err = s.layer(ctx, r, dirs[i]); err != nil {
			return nil, err
		}
	}
	return digest.NewView(layers), nil
}

// dirs returns the names of the directories of layers, or ErrNotReady.
func (s *Store) dirs(chain []*layerRecord) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs := make([]string, len(chain))
	for i, r := range chain {
		if r.Dir == "" {
			return nil, fmt.Errorf("layer %s: %w", r.id, ErrNotReady)
		}
		dirs[i] = r.Dir
	}
	return dirs, nil
}

// layer returns a layer's files with their index.
func (s *Store) layer(ctx context.Context, r *layerRecord, dir string) (digest.Layer, error) {
	l := digest.Layer{Dir: s.path(layersDir, dir, fsName)}
	if l.Index = s.indexes.get(dir); l.Index != nil {
		return l, nil
	}
	path := s.path(layersDir, dir, indexName)
	x, err := readIndex(path)
	if errors.Is(err, digest.ErrCorrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		s.cfg.Log.Warn("the index of a layer is damaged, it is made again", "layer", r.id, "err", err)
		x, err = s.reindex(ctx, r, l.Dir, path)
	}
	if err != nil {
		return l, fmt.Errorf("layer %s: %w", r.id, err)
	}
	s.indexes.put(dir, x)
	l.Index = x
	return l, nil
}

// reindex makes a damaged index again. Of a layer made here the record says what
// its files were.
func (s *Store) reindex(ctx context.Context, r *layerRecord, dir, path string) (*digest.Index, error) {
	x, err := digest.Scan(ctx, dir, s.scanOptions())
	if err != nil {
		return nil, err
	}
	if r.Desc == nil && x.Content() != r.Content {
		return nil, errors.New("its files are not what they were when it was made")
	}
	tmp := path + "-" + newID()
	if err := writeIndex(tmp, x); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("replace index: %w", err)
	}
	return x, nil
}

func (s *Store) scanOptions() digest.ScanOptions {
	return digest.ScanOptions{UserXattr: s.cfg.Rootless, KeptOwner: s.cfg.IgnoreOwner}
}

func readIndex(path string) (*digest.Index, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	defer f.Close()
	return digest.ReadIndex(bufio.NewReaderSize(f, 256<<10))
}

func writeIndex(path string, x *digest.Index) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create index: %w", err)
	}
	_, err = x.WriteTo(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write index: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// Bounds of what is kept of indexes and views. An entry of an index takes some
// 100 bytes, one of a view that was looked at three times that.
const (
	maxIndexEntries = 1 << 20
	maxViews        = 8
)

// indexes keeps the indexes and views that were used last.
type indexes struct {
	mu      sync.Mutex // guards what follows
	entries int
	byDir   map[string]*list.Element
	recent  *list.List // of cachedIndex, the last one used in front
	views   []cachedView
}

type cachedIndex struct {
	dir string
	x   *digest.Index
}

type cachedView struct {
	t cache.Tree
	v *digest.View
}

func newIndexes() *indexes {
	return &indexes{byDir: map[string]*list.Element{}, recent: list.New()}
}

func (c *indexes) get(dir string) *digest.Index {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byDir[dir]
	if !ok {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(cachedIndex).x
}

func (c *indexes) put(dir string, x *digest.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byDir[dir]; ok {
		return
	}
	c.byDir[dir] = c.recent.PushFront(cachedIndex{dir, x})
	c.entries += x.Len()
	for c.entries > maxIndexEntries && c.recent.Len() > 1 {
		c.dropLocked(c.recent.Back())
	}
}

func (c *indexes) dropLocked(e *list.Element) {
	last := c.recent.Remove(e).(cachedIndex)
	delete(c.byDir, last.dir)
	c.entries -= last.x.Len()
}

func (c *indexes) view(t cache.Tree) *digest.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, cv := range c.views {
		if cv.t == t {
			copy(c.views[1:i+1], c.views[:i])
			c.views[0] = cv
			return cv.v
		}
	}
	return nil
}

func (c *indexes) putView(t cache.Tree, v *digest.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cv := range c.views {
		if cv.t == t {
			return
		}
	}
	if len(c.views) < maxViews {
		c.views = append(c.views, cachedView{})
	}
	copy(c.views[1:], c.views)
	c.views[0] = cachedView{t, v}
}

// forget drops what was kept of a layer's directory, and all views, any of which
// may show it.
func (c *indexes) forget(dirs []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, dir := range dirs {
		if e, ok := c.byDir[dir]; ok {
			c.dropLocked(e)
		}
	}
	c.views = nil
}

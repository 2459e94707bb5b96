package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

// Draft is a layer in the making: a directory whose files are put there directly,
// in overlay upper format. Either Commit or Discard ends it; what comes after
// that does nothing. It keeps its parent from being removed.
type Draft struct {
	// Dir is empty at first, and on the same file system as all layers, so that
	// their files can be hard-linked into it.
	Dir string
	// Root describes Dir: as the parent's root directory, or 0755 and 0:0 where
	// nothing is known of that. Who hands an index to Commit has it in there.
	Root digest.Entry

	store   *Store
	id      string
	parent  *node
	release func()
	done    bool
}

// NewDraft begins a layer over parent, whose layers need not be Ready.
func (s *Store) NewDraft(ctx context.Context, parent cache.Tree) (*Draft, error) {
	d, err := s.newDraft(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("begin layer over tree %s: %w", parent, err)
	}
	return d, nil
}

func (s *Store) newDraft(ctx context.Context, parent cache.Tree) (*Draft, error) {
	n, release, err := s.hold(parent)
	if err != nil {
		return nil, err
	}
	d := &Draft{store: s, id: newID(), parent: n, release: release}
	d.Dir = s.path(draftsDir, d.id, fsName)
	d.Root, err = s.rootOf(ctx, n)
	if err == nil {
		err = d.makeDirs()
	}
	if err != nil {
		return nil, errors.Join(err, d.Discard())
	}
	return d, nil
}

// rootOf returns the root directory that the layers of n make: that of the
// topmost one.
func (s *Store) rootOf(ctx context.Context, n *node) (digest.Entry, error) {
	plain := digest.Entry{Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0).UTC()}
	if n == nil {
		return plain, nil
	}
	dirs, err := s.dirs([]*layerRecord{n.layer})
	if errors.Is(err, ErrNotReady) {
		return plain, nil
	}
	if err != nil {
		return plain, err
	}
	l, err := s.layer(ctx, n.layer, dirs[0])
	if err != nil {
		return plain, err
	}
	root, _ := l.Index.Lookup("")
	root.Opaque = false
	return root, nil
}

func (d *Draft) makeDirs() error {
	if err := os.Mkdir(d.store.path(draftsDir, d.id), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		return err
	}
	return d.store.describe(d.Dir, d.Root)
}

// describe gives a directory or regular file owner, attributes, mode and time.
func (s *Store) describe(dir string, e digest.Entry) error {
	err := unix.Lchown(dir, int(e.UID), int(e.GID))
	if err != nil && s.cfg.IgnoreOwner {
		err = unix.Lsetxattr(dir, digest.OwnerXattr, []byte(digest.FormatOwner(e.UID, e.GID)), 0)
	}
	if err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	for k, v := range e.Xattrs {
		if err := unix.Lsetxattr(dir, k, []byte(v), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set extended attribute %q: %w", k, err)
		}
	}
	if err := unix.Chmod(dir, e.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return setTime(dir, e.ModTime)
}

func setTime(path string, t time.Time) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(t.UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set time of", Path: path, Err: err}
	}
	return nil
}

// Commit makes what is in Dir a layer over the parent. x must be what a scan of
// Dir gives; nil makes Commit scan. After an error nothing of the draft is left.
func (d *Draft) Commit(ctx context.Context, x *digest.Index) (cache.Tree, error) {
	if d.done {
		return "", errors.New("commit layer: it has ended already")
	}
	x, err := d.finish(ctx, x)
	if err != nil {
		return "", fmt.Errorf("commit layer: %w", errors.Join(err, d.Discard()))
	}
	s := d.store
	r := &layerRecord{
		id: cache.LayerID(d.id), Content: x.Content(), Dir: d.id,
		Size: diskSize(x), Created: time.Now().UTC(),
	}
	s.mu.Lock()
	s.layers[r.id] = r
	s.dirtyLayers[r.id] = struct{}{}
	t := s.overLocked(d.parent, r).freshLocked()
	s.mu.Unlock()
	d.end()
	return t, nil
}

// finish writes the index and puts the directory in its place.
func (d *Draft) finish(ctx context.Context, x *digest.Index) (*digest.Index, error) {
	s := d.store
	if x == nil {
		var err error
		if x, err = digest.Scan(ctx, d.Dir, s.scanOptions()); err != nil {
			return nil, err
		}
	} else if root, _ := x.Lookup(""); !sameRoot(root, d.Root) {
		if err := s.describe(d.Dir, root); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.showNoWhiteouts(d.Dir, x); err != nil {
		return nil, err
	}
	if err := writeIndex(s.path(draftsDir, d.id, indexName), x); err != nil {
		return nil, err
	}
	if err := os.Rename(s.path(draftsDir, d.id), s.path(layersDir, d.id)); err != nil {
		return nil, fmt.Errorf("put layer in its place: %w", err)
	}
	s.indexes.put(d.id, x)
	return x, nil
}

func sameRoot(a, b digest.Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && len(a.Xattrs) == 0 && len(b.Xattrs) == 0
}

// Discard removes the draft.
func (d *Draft) Discard() error {
	if d.done {
		return nil
	}
	d.end()
	return d.store.remove(d.store.path(draftsDir, d.id))
}

func (d *Draft) end() {
	d.done = true
	d.release()
}

// showNoWhiteouts marks the directories that have whiteouts in them. Overlay
// looks for whiteouts in a directory that only one layer has if that directory
// says that it was copied up from below (overlay.origin); else they would be
// listed, as files that cannot be found.
func (s *Store) showNoWhiteouts(dir string, x *digest.Index) error {
	name := "trusted.overlay.origin"
	if s.cfg.Rootless {
		name = "user.overlay.origin"
	}
	last := ""
	for e := range x.All() {
		if !e.Whiteout {
			continue
		}
		parent := parentOf(e.Path)
		if parent == "" || parent == last { // a root is never alone: lowers sees to it
			continue
		}
		last = parent
		err := withDir(dir, parent, func(fd int) error {
			err := unix.Fsetxattr(fd, name, nil, unix.XATTR_CREATE)
			if errors.Is(err, unix.EEXIST) {
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("mark directory %q, which has whiteouts: %w", parent, err)
		}
	}
	return nil
}

// diskSize estimates what a layer takes on disk: a block for each directory
// beside the files' bytes.
func diskSize(x *digest.Index) int64 {
	const block = 4096
	size := x.Size()
	for e := range x.All() {
		if e.IsDir() {
			size += block
		}
	}
	return size
}

package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

// Diff returns a tree of what makes upper of lower: merged over lower it gives
// upper's files. If lower is what upper was built on, these are upper's layers
// above it, and nothing needs to be Ready. Else both trees are compared, for
// which their layers must be, and one new layer holds what differs; files are
// hard links of upper's.
func (s *Store) Diff(ctx context.Context, lower, upper cache.Tree) (cache.Tree, error) {
	t, ok, err := s.suffix(lower, upper)
	if ok || err != nil {
		return t, err
	}
	t, err = s.compare(ctx, lower, upper)
	if err != nil {
		return "", fmt.Errorf("diff of trees %s and %s: %w", lower, upper, err)
	}
	return t, nil
}

// suffix returns the tree of upper's layers above lower, if it is built on that.
func (s *Store) suffix(lower, upper cache.Tree) (cache.Tree, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.nodeLocked(lower)
	if err != nil {
		return "", false, fmt.Errorf("diff: %w", err)
	}
	u, err := s.nodeLocked(upper)
	if err != nil {
		return "", false, fmt.Errorf("diff: %w", err)
	}
	if !u.hasPrefix(l) {
		return "", false, nil
	}
	var n *node
	for _, r := range u.chain()[len(l.chain()):] {
		n = s.overLocked(n, r)
	}
	return n.freshLocked(), true, nil
}

func (s *Store) compare(ctx context.Context, lower, upper cache.Tree) (_ cache.Tree, err error) {
	for _, t := range []cache.Tree{lower, upper} {
		_, release, err := s.hold(t)
		if err != nil {
			return "", err
		}
		defer release()
	}
	lv, err := s.Files(ctx, lower)
	if err != nil {
		return "", err
	}
	uv, err := s.Files(ctx, upper)
	if err != nil {
		return "", err
	}
	d, err := s.newDraft(ctx, "")
	if err != nil {
		return "", err
	}
	w := &differ{ctx: ctx, store: s, lower: lv, upper: uv, draft: d, links: map[string]string{}}
	x, err := w.run()
	if err != nil {
		return "", errors.Join(err, d.Discard())
	}
	return d.Commit(ctx, x)
}

// differ writes a layer that holds what two views differ in.
type differ struct {
	ctx          context.Context
	store        *Store
	lower, upper *digest.View
	draft        *Draft
	index        digest.Builder
	links        map[string]string // by path on disk: where that inode is in the layer
}

func (w *differ) run() (*digest.Index, error) {
	root, err := w.upper.Lstat("/")
	if err != nil {
		return nil, err
	}
	if _, err := w.dir("", true); err != nil {
		return nil, err
	}
	root.Path, root.Hardlink = "", ""
	w.index.Add(root)
	return w.index.Index()
}

// dir compares a directory of upper with what lower has in its place; merged
// says that lower has a directory there. It returns whether the layer got
// anything in it.
func (w *differ) dir(path string, merged bool) (changed bool, err error) {
	if w.ctx.Err() != nil {
		return false, context.Cause(w.ctx)
	}
	above, err := w.upper.ReadDir("/" + path)
	if err != nil {
		return false, err
	}
	old := map[string]digest.Entry{}
	if merged {
		below, err := w.lower.ReadDir("/" + path)
		if err != nil {
			return false, err
		}
		for _, e := range below {
			old[e.Name()] = e
		}
	}
	for _, e := range above {
		o, ok := old[e.Name()]
		delete(old, e.Name())
		c, err := w.entry(e, o, ok)
		if err != nil {
			return false, fmt.Errorf("%q: %w", e.Path, err)
		}
		changed = changed || c
	}
	for _, o := range old {
		if err := w.whiteout(o.Path); err != nil {
			return false, fmt.Errorf("%q: %w", o.Path, err)
		}
		changed = true
	}
	return changed, nil
}

// entry compares one name.
func (w *differ) entry(e, old digest.Entry, hasOld bool) (changed bool, err error) {
	if !e.IsDir() {
		if hasOld && sameFile(e, old) {
			return false, nil
		}
		return true, w.file(e)
	}
	merged := hasOld && old.IsDir()
	inside, err := w.dir(e.Path, merged)
	if err != nil {
		return false, err
	}
	if !inside && merged && sameDir(e, old) {
		return false, nil
	}
	if err := w.mkdirs(e.Path); err != nil {
		return false, err
	}
	// What is in it has been written; now it can become what it is to be.
	if err := w.describe(e); err != nil {
		return false, err
	}
	e.Hardlink = ""
	w.index.Add(e)
	return true, nil
}

// sameDir tells whether directories are alike but for what is in them.
func sameDir(a, b digest.Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && maps.Equal(a.Xattrs, b.Xattrs)
}

func sameFile(a, b digest.Entry) bool {
	return sameDir(a, b) && a.Size == b.Size && a.Hash == b.Hash && a.Link == b.Link &&
		a.Major == b.Major && a.Minor == b.Minor && a.ModTime.Equal(b.ModTime)
}

// mkdirs creates a directory of the layer and those that lead to it.
func (w *differ) mkdirs(rel string) error {
	return os.MkdirAll(filepath.Join(w.draft.Dir, rel), 0o700)
}

func (w *differ) whiteout(rel string) error {
	if err := w.mkdirs(parentOf(rel)); err != nil {
		return err
	}
	err := unix.Mknod(filepath.Join(w.draft.Dir, rel), unix.S_IFCHR, 0)
	if err != nil {
		return fmt.Errorf("create whiteout: %w", err)
	}
	w.index.Add(digest.Entry{Path: rel, Mode: unix.S_IFCHR, Whiteout: true, ModTime: time.Unix(0, 0)})
	return nil
}

// file puts a file of upper into the layer, as a hard link.
func (w *differ) file(e digest.Entry) error {
	host, err := w.upper.HostPath("/" + e.Path)
	if err != nil {
		return err
	}
	if err := w.mkdirs(parentOf(e.Path)); err != nil {
		return err
	}
	to := filepath.Join(w.draft.Dir, e.Path)
	err = os.Link(host, to)
	if errors.Is(err, unix.EMLINK) {
		err = w.copy(e, to)
	}
	if err != nil {
		return err
	}
	// Hard links of upper's stay such where they come from one layer.
	inode := host
	if e.Hardlink != "" {
		inode = strings.TrimSuffix(host, e.Path) + e.Hardlink
	}
	e.Hardlink = w.links[inode]
	if e.Hardlink == "" {
		w.links[inode] = e.Path
	}
	w.index.Add(e)
	return nil
}

// copy takes the place of a hard link to a file that has as many as it can have.
func (w *differ) copy(e digest.Entry, to string) error {
	if !e.IsRegular() {
		return fmt.Errorf("hard link: %w", unix.EMLINK)
	}
	src, err := w.upper.Open("/" + e.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return w.store.describe(to, e)
}

func (w *differ) describe(e digest.Entry) error {
	return w.store.describe(filepath.Join(w.draft.Dir, e.Path), e)
}

package tree

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
)

// View is a read-only mount of a tree. It keeps the tree from being removed.
type View struct {
	// Dir is the mounted root directory.
	Dir string

	close func() error
}

// Close takes the mount down. Files that are open stay so.
func (v *View) Close() error { return v.close() }

// View mounts a tree read-only. All layers must be Ready.
func (s *Store) View(ctx context.Context, t cache.Tree) (*View, error) {
	n, release, err := s.hold(t)
	if err != nil {
		return nil, err
	}
	lowers, err := s.lowers(ctx, n, 2)
	if err != nil {
		release()
		return nil, fmt.Errorf("mount tree %s: %w", t, err)
	}
	at := s.path(mountsDir, newID())
	if err := s.mount(overlay{lowers: lowers}, at); err != nil {
		release()
		return nil, fmt.Errorf("mount tree %s: %w", t, err)
	}
	return &View{Dir: at, close: sync.OnceValue(func() error {
		defer release()
		if err := detach(at); err != nil {
			return err
		}
		return os.Remove(at)
	})}, nil
}

// mount mounts o on a new directory.
func (s *Store) mount(o overlay, at string) error {
	o.userXattr, o.legacy = s.cfg.Rootless, s.legacy
	if err := os.Mkdir(at, 0o700); err != nil {
		return fmt.Errorf("create mount point: %w", err)
	}
	if err := o.mount(at); err != nil {
		os.Remove(at)
		return err
	}
	return nil
}

// lowers returns the directories of a tree's layers, bottom first, with as many
// empty ones below them as an overlay needs to have at least. Overlay takes no
// directory twice. Of a layer that is in a chain more than once, as Merge makes
// them, the uppermost is enough: whatever it has, or hides, overrules what it has
// or hides further down.
func (s *Store) lowers(ctx context.Context, n *node, least int) ([]string, error) {
	if _, err := s.dirs(n.chain()); err != nil {
		return nil, err
	}
	flat := s.flattened(n)
	var out []string // top first
	seen := map[cache.LayerID]bool{}
	for at := n; at != flat; at = at.parent {
		if seen[at.layer.id] {
			continue
		}
		seen[at.layer.id] = true
		dirs, err := s.dirs([]*layerRecord{at.layer})
		if err != nil {
			return nil, err
		}
		out = append(out, s.path(layersDir, dirs[0], fsName))
	}
	if flat != nil {
		dir, err := s.flat(ctx, flat)
		if err != nil {
			return nil, err
		}
		out = append(out, dir)
	}
	for i := 0; len(out) < least; i++ {
		out = append(out, s.path(emptyDir, strconv.Itoa(i)))
	}
	slices.Reverse(out)
	return out, nil
}

// hold keeps a tree from being removed until release is called.
func (s *Store) hold(t cache.Tree) (*node, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.nodeLocked(t)
	if err != nil || n == nil {
		return nil, func() {}, err
	}
	n.holds++
	return n, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		n.letGoLocked()
	}), nil
}

func (n *node) letGoLocked() {
	n.holds--
	n.used = time.Now()
}

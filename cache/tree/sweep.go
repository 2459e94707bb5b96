package tree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/buildd/buildd/cache"
)

// Info is what Sweep and its planner know of a tree.
type Info struct {
	Tree, Parent cache.Tree
	Layer        cache.LayerID
	// InUse says that a lease or a mount holds the tree itself, Held that Sweep
	// would spare it, as it does what was just made or let go of, too.
	InUse, Held bool
}

// All returns all trees, parents before their children, and all layers.
func (s *Store) All() ([]Info, map[cache.LayerID]LayerInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	nodes := make([]*node, 0, len(s.trees))
	for _, n := range s.trees {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *node) int { return a.depth - b.depth })
	trees := make([]Info, len(nodes))
	for i, n := range nodes {
		trees[i] = Info{Tree: n.name, Layer: n.layer.id, InUse: n.holds > 0, Held: s.heldLocked(n, now)}
		if n.parent != nil {
			trees[i].Parent = n.parent.name
		}
	}
	layers := make(map[cache.LayerID]LayerInfo, len(s.layers))
	for id, r := range s.layers {
		layers[id] = r.infoLocked()
	}
	return trees, layers
}

// grace is how long a tree stays after its last holder let go of it: from one to
// the next, as from the step that made it to the build that waits for the step, it
// is in nobody's hands for a moment.
const grace = 500 * time.Millisecond

func (s *Store) heldLocked(n *node, now time.Time) bool {
	idle := now.Sub(n.used)
	return n.holds > 0 || idle < s.grace() || n.fresh && idle < s.cfg.Spare
}

func (s *Store) grace() time.Duration { return min(grace, s.cfg.Spare) }

// Settle waits for trees that were let go of a moment ago to be free for Sweep,
// half a second at most.
func (s *Store) Settle(ctx context.Context) error {
	wait := time.NewTimer(s.untilSettled(time.Now()))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Store) untilSettled(now time.Time) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.trees {
		if n.holds == 0 {
			wait = max(wait, s.grace()-now.Sub(n.used))
		}
	}
	return wait
}

// Blobs returns the digests of all blobs that layers name, whether they are here
// or not.
func (s *Store) Blobs() map[digest.Digest]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[digest.Digest]bool{}
	for _, r := range s.layers {
		for _, d := range r.blobsLocked() {
			out[d] = true
		}
	}
	return out
}

func (r *layerRecord) blobsLocked() (out []digest.Digest) {
	if r.Desc != nil {
		out = append(out, r.Desc.Digest)
	}
	for _, p := range r.Packed {
		out = append(out, p.Digest)
	}
	return out
}

// Size is the bytes that the files of all layers take on disk.
func (s *Store) Size() (size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.layers {
		size += r.Size
	}
	return size
}

// Sweep removes all trees that neither are in roots, nor are held, nor lie below
// one that is, and all layers that are in no tree any more. It returns the
// removed layers. Their blobs are left to who sweeps blobs.
func (s *Store) Sweep(ctx context.Context, roots []cache.Tree) ([]LayerInfo, error) {
	gone, flats := s.cut(roots)
	infos := make([]LayerInfo, len(gone))
	var dirs []string
	for i, r := range gone { // they are nobody else's any more
		infos[i] = r.infoLocked()
		if r.Dir != "" {
			dirs = append(dirs, r.Dir)
		}
	}
	s.indexes.forget(dirs)
	var errs []error
	// Records first, but a disk too full for that is no reason to keep it full:
	// records without files are dropped by Open.
	if len(gone) > 0 {
		errs = append(errs, s.Sync(context.WithoutCancel(ctx)))
	}
	for _, dir := range dirs {
		errs = append(errs, s.remove(s.path(layersDir, dir)))
	}
	for _, dir := range flats {
		errs = append(errs, s.remove(s.path(flatsDir, dir)))
	}
	if err := errors.Join(errs...); err != nil {
		return infos, fmt.Errorf("sweep layers: %w", err)
	}
	return infos, nil
}

// cut takes out of the maps what is to be removed: layers and flat directories.
func (s *Store) cut(roots []cache.Tree) (gone []*layerRecord, flats []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	live := make(map[*node]bool, len(s.trees))
	mark := func(n *node) {
		for ; n != nil && !live[n]; n = n.parent {
			live[n] = true
		}
	}
	for _, t := range roots {
		mark(s.trees[t])
	}
	for _, n := range s.trees {
		if s.heldLocked(n, now) {
			mark(n)
		}
	}
	for t, n := range s.trees {
		if !live[n] {
			n.layer.nodes--
			if n.flat != "" {
				flats = append(flats, n.flat)
			}
			delete(s.trees, t)
			s.dirtyTrees[t] = struct{}{}
		}
	}
	needed := s.neededLocked()
	for id, r := range s.layers {
		if needed[id] {
			continue
		}
		delete(s.layers, id)
		s.dirtyLayers[id] = struct{}{}
		gone = append(gone, r)
	}
	return gone, flats
}

// neededLocked returns the layers that are in a tree or used otherwise, and those
// below them in their images for as long as they are not here: Ensure may need
// them.
func (s *Store) neededLocked() map[cache.LayerID]bool {
	needed := make(map[cache.LayerID]bool, len(s.layers))
	for id, r := range s.layers {
		if r.nodes <= 0 && r.holds <= 0 {
			continue
		}
		needed[id] = true
		for r.Dir == "" && r.Parent != "" && !needed[r.Parent] {
			below, ok := s.layers[r.Parent]
			if !ok {
				break
			}
			needed[r.Parent] = true
			r = below
		}
	}
	return needed
}

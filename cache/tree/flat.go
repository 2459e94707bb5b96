package tree

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/flight"
)

// flatStep is after how many layers a chain that is too long for a mount gets a
// flat directory: the files of all layers below, as hard links. Chains over the
// same one share it.
func (s *Store) flatStep() int {
	if s.legacy {
		return maxLowersLegacy - 1
	}
	return maxLowers - 1
}

// flattened returns the tree below n whose flat directory takes its layers' place
// in a mount; nil if n can be mounted as it is.
func (s *Store) flattened(n *node) *node {
	step := s.flatStep()
	if n == nil || n.depth <= maxLayers(step+1) {
		return nil
	}
	for depth := (n.depth - 1) / step * step; n.depth > depth; {
		n = n.parent
	}
	return n
}

// flat returns the flat directory of a tree, which it makes if there is none. It
// lasts as long as the tree does in this process.
func (s *Store) flat(ctx context.Context, n *node) (string, error) {
	if dir := s.flatOf(n); dir != "" {
		return dir, nil
	}
	return s.flats.Do(ctx, n.name, struct{}{}, func(ctx context.Context, _ *flight.Call[struct{}, string]) (string, error) {
		if dir := s.flatOf(n); dir != "" {
			return dir, nil // by a flight that has just ended
		}
		if err := s.flatten(ctx, n); err != nil {
			return "", fmt.Errorf("flatten tree %s: %w", n.name, err)
		}
		return s.flatOf(n), nil
	})
}

func (s *Store) flatOf(n *node) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.flat == "" {
		return ""
	}
	return s.path(flatsDir, n.flat, fsName)
}

func (s *Store) flatten(ctx context.Context, n *node) (err error) {
	// Not what is compared but what is written is of interest: everything.
	view, err := s.viewOf(ctx, n.chain())
	if err != nil {
		return err
	}
	d, err := s.newDraft(ctx, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Discard()) }()
	w := &differ{ctx: ctx, store: s, lower: digest.NewView(nil), upper: view, draft: d, links: map[string]string{}}
	x, err := w.run()
	if err != nil {
		return err
	}
	root, _ := x.Lookup("")
	if err := s.describe(d.Dir, root); err != nil {
		return err
	}
	if err := os.Rename(s.path(draftsDir, d.id), s.path(flatsDir, d.id)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n.flat = d.id
	return nil
}

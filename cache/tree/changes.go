package tree

import (
	"context"
	"errors"
	"fmt"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

// Changes calls fn for each path that sel selects and in which two trees differ,
// as digest.Changes does. It fetches nothing. Of whole trees whose lower layers
// are the same ones and not here it compares the others: what these change in
// files of the lower layers then looks like new files. The error is
// cache.ErrNotFound for a tree that is gone and ErrNotReady for one whose files
// are needed and not here.
func (s *Store) Changes(ctx context.Context, old, new cache.Tree, sel cache.Selector, fn func(digest.Change) error) error {
	var nodes [2]*node
	var views [2]*digest.View
	for i, t := range []cache.Tree{old, new} {
		n, release, err := s.hold(t)
		if err != nil {
			return fmt.Errorf("compare trees: %w", err)
		}
		defer release()
		nodes[i] = n
	}
	var err error
	for i, t := range []cache.Tree{old, new} {
		if views[i], err = s.Files(ctx, t); err != nil {
			break
		}
	}
	if errors.Is(err, ErrNotReady) && sel == cache.Root {
		views, err = s.tops(ctx, nodes)
	}
	if err != nil {
		return fmt.Errorf("compare trees: %w", err)
	}
	return digest.Changes(ctx, views[0], views[1], sel, fn)
}

// tops returns views of what two trees have over the layers that both begin with.
func (s *Store) tops(ctx context.Context, nodes [2]*node) (views [2]*digest.View, err error) {
	old, new := nodes[0].chain(), nodes[1].chain()
	for len(old) > 0 && len(new) > 0 && old[0] == new[0] {
		old, new = old[1:], new[1:]
	}
	for i, chain := range [][]*layerRecord{old, new} {
		if views[i], err = s.viewOf(ctx, chain); err != nil {
			return views, err
		}
	}
	return views, nil
}

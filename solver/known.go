package solver

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/cache"
)

// Peeker is a Cache that can be looked into without that counting as a use.
type Peeker interface {
	Peek(ctx context.Context, k cache.Key) (cache.Record, error)
}

// Known returns the tree of e as far as it can be told without running anything:
// because the build made it, or because the cache remembers it. The tree is not
// held. The error of one that is not known is cache.ErrNotFound.
func (b *Build) Known(ctx context.Context, e Edge) (cache.Tree, error) {
	f, ok := b.results.get(e.Vertex.Digest)
	trees := f.trees
	if !ok {
		k, ok := b.keys.get(e.Vertex.Digest)
		p, can := b.s.cache.(Peeker)
		if !ok || !can || k.fresh {
			return "", fmt.Errorf("result of %s: %w", e.Vertex.Name, cache.ErrNotFound)
		}
		r, err := p.Peek(ctx, k.Key)
		if err != nil {
			return "", err
		}
		trees = r.Trees
	}
	if e.Output < 0 || e.Output >= len(trees) {
		return "", fmt.Errorf("output %d of %s: the step has %d outputs: %w", e.Output, e.Vertex.Name, len(trees), cache.ErrNotFound)
	}
	return trees[e.Output], nil
}

package solver

import (
	"context"
	"errors"

	"github.com/buildd/buildd/cache"
)

// Import is a cache that one build reads beside the solver's own, such as one
// that its client names. It returns cache.ErrNotFound, possibly wrapped, for
// what it does not know.
//
// It is a stranger's word, and good for this build only. A step that it has is
// found under the key that follows from what it says itself of the step's inputs,
// so a cache that was made elsewhere, of inputs that came out differently there,
// is of use still. A step that runs does so under a key that follows from the
// trees that are its inputs, whatever was said of them: no key of the solver's own
// cache ever depends on an import.
type Import interface {
	Result(ctx context.Context, k cache.Key) (cache.Record, error)
	Content(ctx context.Context, k cache.Key, output int, s cache.Selector) (cache.Key, error)
}

// imported is an Import with the keys of steps as they follow from it.
type imported struct {
	Import
	keys memo[key]
}

// Import makes the build look in c for what the solver's own cache does not have.
// Caches are asked in the order in which they came.
func (b *Build) Import(c Import) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.imports = append(b.imports, &imported{Import: c})
}

func (b *Build) importedCaches() []*imported {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.imports[:len(b.imports):len(b.imports)]
}

// keyIn returns the key that v has where its inputs are what im says.
func (b *Build) keyIn(ctx context.Context, im *imported, v *Vertex) (key, error) {
	return im.keys.do(ctx, b, v, func(ctx context.Context) (key, error) {
		return b.derive(ctx, v, func(ctx context.Context, v *Vertex, e Edge, sel cache.Selector) (key, error) {
			if sel == "" {
				k, err := b.keyIn(ctx, im, e.Vertex)
				return k.output(e), err
			}
			c, err := b.contentIn(ctx, im, e, sel)
			if errors.Is(err, cache.ErrNotFound) {
				return b.content(ctx, v, e, sel)
			}
			return key{Key: c}, err
		})
	})
}

// contentIn returns what im says of e.
func (b *Build) contentIn(ctx context.Context, im *imported, e Edge, sel cache.Selector) (cache.Key, error) {
	k, err := b.keyIn(ctx, im, e.Vertex)
	if err != nil {
		return cache.Key{}, err
	}
	if k.fresh {
		return cache.Key{}, cache.ErrNotFound
	}
	return im.Content(ctx, k.Key, e.Output, sel)
}

// claimed returns what an import says of e, whose key is k.
func (b *Build) claimed(ctx context.Context, k key, e Edge, sel cache.Selector) (cache.Key, error) {
	for _, im := range b.importedCaches() {
		c, err := im.Content(ctx, k.Key, e.Output, sel)
		if errors.Is(err, cache.ErrNotFound) {
			c, err = b.contentIn(ctx, im, e, sel)
		}
		if err == nil || !errors.Is(err, cache.ErrNotFound) {
			return c, err
		}
	}
	return cache.Key{}, cache.ErrNotFound
}

package solver

import (
	"context"

	"github.com/buildd/buildd/cache"
)

// Cache remembers what steps produced by key, and the content digests of parts
// of it. Implementations are safe for concurrent use and return
// cache.ErrNotFound, possibly wrapped, for what they do not know.
type Cache interface {
	Result(ctx context.Context, k cache.Key) (cache.Record, error)
	// SetResult replaces the record of k and, if its trees differ from the old
	// ones, forgets every content digest kept under k.
	SetResult(ctx context.Context, k cache.Key, r cache.Record) error
	// Content is kept per key, output and selector.
	Content(ctx context.Context, k cache.Key, output int, s cache.Selector) (cache.Key, error)
	SetContent(ctx context.Context, k cache.Key, output int, s cache.Selector, c cache.Key) error
}

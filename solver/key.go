package solver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/buildd/buildd/cache"
	"github.com/opencontainers/go-digest"
)

// key is a vertex's key; fresh says that the cache must not be asked.
type key struct {
	cache.Key
	fresh bool
	parts []cache.Key // of the inputs
}

// sees returns the digest of what v can see of its input e. Where the selector is
// empty that is the key of e.
type sees func(ctx context.Context, v *Vertex, e Edge, sel cache.Selector) (key, error)

// key returns the key of v. It makes only those inputs that count by content
// and whose content nobody remembers.
func (b *Build) key(ctx context.Context, v *Vertex) (key, error) {
	return b.keys.do(ctx, b, v, func(ctx context.Context) (key, error) { return b.derive(ctx, v, b.content) })
}

func (b *Build) derive(ctx context.Context, v *Vertex, see sees) (key, error) {
	d, err := v.Op.Digest(ctx, b, v)
	if err != nil {
		return key{}, b.blame(v, err)
	}
	ks, err := each(ctx, inputs(v), func(ctx context.Context, i int) (key, error) {
		return see(ctx, v, v.Inputs[i], v.Op.Selector(i))
	})
	if err != nil {
		return key{}, err
	}
	out := key{fresh: v.NoCache}
	parts := [][]byte{d[:]}
	for _, k := range ks {
		out.fresh = out.fresh || k.fresh
		parts = append(parts, k.Key[:])
		out.parts = append(out.parts, k.Key)
	}
	out.Key = cache.Hash("step", parts...)
	return out, nil
}

// output is what k says of e, an output of the step with that key.
func (k key) output(e Edge) key {
	return key{Key: cache.Hash("output", k.Key[:], binary.BigEndian.AppendUint64(nil, uint64(e.Output))), fresh: k.fresh}
}

// content returns the digest of what v sees of e by the word of a cache, or
// else of e's tree, which may have to be made for that.
func (b *Build) content(ctx context.Context, v *Vertex, e Edge, sel cache.Selector) (key, error) {
	k, err := b.key(ctx, e.Vertex)
	if err != nil {
		return key{}, err
	}
	if sel == "" {
		return k.output(e), nil
	}
	if !k.fresh {
		c, err := b.s.cache.Content(ctx, k.Key, e.Output, sel)
		if errors.Is(err, cache.ErrNotFound) {
			c, err = b.claimed(ctx, k, e, sel)
		}
		if err == nil || !errors.Is(err, cache.ErrNotFound) {
			return key{Key: c}, err
		}
	}
	return b.seen(ctx, v, e, sel)
}

// sight is one part of a step's output.
type sight struct {
	step   digest.Digest
	output int
	sel    cache.Selector
}

// seen returns the digest of what v sees of the tree that e is solved to.
func (b *Build) seen(ctx context.Context, v *Vertex, e Edge, sel cache.Selector) (key, error) {
	for losses := 0; ; losses++ {
		k, err := b.seenOnce(ctx, v, e, sel)
		if !errors.Is(err, cache.ErrLost) {
			return k, err
		}
		if losses == maxLosses || !b.Forget(e) {
			return k, b.blame(v, err)
		}
	}
}

func (b *Build) seenOnce(ctx context.Context, v *Vertex, e Edge, sel cache.Selector) (key, error) {
	f, err := b.solve(ctx, e.Vertex)
	if err != nil {
		return key{}, err
	}
	if sel == "" {
		if f.from == nil {
			return f.key.output(e), nil
		}
		sel = cache.Root
	}
	at := sight{e.Vertex.Digest, e.Output, sel}
	if c, err := b.remembered(ctx, f, at); err == nil || !errors.Is(err, cache.ErrNotFound) {
		return key{Key: c}, err
	}
	t, err := f.tree(e)
	if err != nil {
		return key{}, err
	}
	c, err := b.s.contents.Content(ctx, lender{b, e.Vertex}, t, sel)
	if err != nil { // in the words that clients of BuildKit look for
		err = fmt.Errorf("failed to compute cache key: failed to calculate checksum of ref %s: %w", t, err)
		if !errors.Is(err, cache.ErrLost) {
			err = b.blame(v, err)
		}
		return key{}, err
	}
	b.mu.Lock()
	b.sights[at] = c
	b.mu.Unlock()
	if f.from != nil {
		return key{Key: c}, nil
	}
	return key{Key: c}, b.s.cache.SetContent(ctx, f.Key, e.Output, sel, c)
}

// remembered returns what is known of a part of a tree. What the solver's own
// cache knows is about what it found, or what others made: not about what was
// imported, or made although it was known.
func (b *Build) remembered(ctx context.Context, f found, at sight) (cache.Key, error) {
	b.mu.Lock()
	c, ok := b.sights[at]
	b.mu.Unlock()
	switch {
	case ok:
		return c, nil
	case f.from != nil || f.fresh:
		return cache.Key{}, cache.ErrNotFound
	default:
		return b.s.cache.Content(ctx, f.Key, at.output, at.sel)
	}
}

// Hold keeps t from being evicted until the build ends.
func (b *Build) Hold(t cache.Tree) error { return b.hold(t) }

// Lender returns the build as the only one that waits for something that has to
// do with v.
func (b *Build) Lender(v *Vertex) Waiters { return lender{b, v} }

type lender struct {
	b *Build
	v *Vertex
}

func (l lender) Sessions() []string          { return l.b.sessions }
func (l lender) Log(stream int, data []byte) { l.b.events.Log(l.v, stream, data) }
func (l lender) Status(s Status)             { l.b.events.Status(l.v, s) }

func inputs(v *Vertex) []int {
	out := make([]int, len(v.Inputs))
	for i := range out {
		out[i] = i
	}
	return out
}

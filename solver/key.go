package solver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/buildd/buildd/cache"
)

// key is a vertex's key; fresh says that the cache must not be asked.
type key struct {
	cache.Key
	fresh bool
	parts []cache.Key // of the inputs, for the explanation of a miss
}

// key returns the key of v. It makes only those inputs that count by content
// and whose content nobody remembers.
func (b *Build) key(ctx context.Context, v *Vertex) (key, error) {
	return b.keys.do(ctx, b, v, func(ctx context.Context) (key, error) { return b.derive(ctx, v) })
}

func (b *Build) derive(ctx context.Context, v *Vertex) (key, error) {
	d, err := v.Op.Digest(ctx, b, v)
	if err != nil {
		return key{}, b.blame(v, err)
	}
	ks, err := each(ctx, inputs(v), func(ctx context.Context, i int) (key, error) {
		if sel := v.Op.Selector(i); sel != "" {
			return b.content(ctx, v, v.Inputs[i], sel)
		}
		k, err := b.key(ctx, v.Inputs[i].Vertex)
		k.Key = outputKey(k.Key, v.Inputs[i].Output)
		return k, err
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

func outputKey(k cache.Key, output int) cache.Key {
	return cache.Hash("output", k[:], binary.BigEndian.AppendUint64(nil, uint64(output)))
}

// content returns the digest of what v can see of its input e.
func (b *Build) content(ctx context.Context, v *Vertex, e Edge, sel cache.Selector) (key, error) {
	k, err := b.key(ctx, e.Vertex)
	if err != nil {
		return key{}, err
	}
	if !k.fresh {
		c, err := b.s.cache.Content(ctx, k.Key, e.Output, sel)
		if err == nil || !errors.Is(err, cache.ErrNotFound) {
			return key{Key: c}, err
		}
	}
	t, err := b.Solve(ctx, e)
	if err != nil {
		return key{}, err
	}
	if k, err = b.key(ctx, e.Vertex); err != nil { // another if solving changed it
		return key{}, err
	}
	c, err := b.s.contents.Content(ctx, lender{b, e.Vertex}, t, sel)
	if err != nil { // in the words that clients of BuildKit look for
		return key{}, b.blame(v, fmt.Errorf("failed to compute cache key: failed to calculate checksum of ref %s: %w", t, err))
	}
	return key{Key: c}, b.s.cache.SetContent(ctx, k.Key, e.Output, sel, c)
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

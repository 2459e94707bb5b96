package solver

import (
	"context"
	"errors"

	"github.com/buildd/buildd/cache"
	"github.com/opencontainers/go-digest"
)

// Known is what a build knows of one of its steps.
type Known struct {
	Vertex *Vertex
	// Key is what the step is found under by who knows, for each of its inputs, the
	// Seen of that input.
	Key cache.Key
	// Record is of the step's trees, which are held for this build; nil if they are
	// not known.
	Record *cache.Record
	// Seen is what the other steps see of this one.
	Seen []Seen
}

// Seen is the content digest of a part of a step's output.
type Seen struct {
	Output   int
	Selector cache.Selector
	Digest   cache.Key
}

// Steps returns what the build knows of the steps that the edges were solved
// from, inputs first. It runs nothing: of steps that were not needed, because
// one that depends on them was found, it tells what the cache remembers where
// that one was found.
func (b *Build) Steps(ctx context.Context, edges ...Edge) ([]*Known, error) {
	w := &stepWalk{b: b, known: map[digest.Digest]*Known{}}
	for _, e := range edges {
		if _, err := w.visit(ctx, e.Vertex, nil); err != nil {
			return nil, err
		}
	}
	return w.out, nil
}

type stepWalk struct {
	b     *Build
	known map[digest.Digest]*Known // nil for a step without key
	out   []*Known
}

// visit returns what is known of v; from is the import, if any, that the step was
// found in which asks for it.
func (w *stepWalk) visit(ctx context.Context, v *Vertex, from *imported) (*Known, error) {
	if n, ok := w.known[v.Digest]; ok {
		return n, nil
	}
	w.known[v.Digest] = nil
	f, err := w.find(ctx, v, from)
	if errors.Is(err, cache.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i, e := range v.Inputs {
		in, err := w.visit(ctx, e.Vertex, f.from)
		if err != nil {
			return nil, err
		}
		sel := v.Op.Selector(i)
		if in == nil || sel == "" {
			continue
		}
		in.see(Seen{e.Output, sel, f.parts[i]})
	}
	n := &Known{Vertex: v, Key: f.Key, Record: f.record}
	w.known[v.Digest] = n
	w.out = append(w.out, n)
	return n, nil
}

// see adds what was seen. Of two that differ, because one of two steps was found
// in an import, the first one stays.
func (n *Known) see(s Seen) {
	for _, old := range n.Seen {
		if old.Output == s.Output && old.Selector == s.Selector {
			return
		}
	}
	n.Seen = append(n.Seen, s)
}

type foundRecord struct {
	key
	from   *imported
	record *cache.Record
}

// find returns the key of v, or cache.ErrNotFound, with the trees of v if they
// are known.
func (w *stepWalk) find(ctx context.Context, v *Vertex, from *imported) (foundRecord, error) {
	out := foundRecord{from: from}
	f, solved := w.b.results.get(v.Digest)
	keys := &w.b.keys
	if from != nil {
		keys = &from.keys
	}
	if solved {
		out.key, out.from = f.key, f.from
	} else if k, ok := keys.get(v.Digest); ok {
		out.key = k
	} else {
		return out, cache.ErrNotFound
	}
	var c Import = w.b.s.cache
	if out.from != nil {
		c = out.from
	}
	r, err := c.Result(ctx, out.Key)
	switch {
	case solved && err != nil: // it is known all the same
		r = cache.Record{Name: v.Name, Kind: v.Op.Kind()}
	case errors.Is(err, cache.ErrNotFound):
		return out, nil
	case err != nil:
		return out, err
	}
	if solved {
		r.Trees = f.trees
	}
	if err := w.b.holdAll(r.Trees); err != nil {
		return out, nil // it has gone just now
	}
	out.record = &r
	return out, nil
}

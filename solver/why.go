package solver

import (
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
)

// Asked is what a build asked a cache for: a step and what its key was derived
// from.
type Asked struct {
	Vertex *Vertex
	Key    cache.Key
	// Inputs are the digests of what the step sees of its inputs, in their order.
	Inputs []cache.Key
	// Fresh says that no cache was to be asked, for this step or, where an input
	// counts by its key, for that.
	Fresh bool
}

// Miss is a step that has to run.
type Miss struct {
	Asked
	// Trees are the step's inputs, in their order.
	Trees []cache.Tree
}

// asked is what is known of v, whose key is k.
func asked(v *Vertex, k key) Asked {
	return Asked{Vertex: v, Key: k.Key, Inputs: k.parts, Fresh: k.fresh}
}

// Asked returns the steps that the build has a key for, sorted by their vertices.
func (b *Build) Asked() []Asked {
	var out []Asked
	for _, v := range b.Vertices() {
		if k, ok := b.keys.get(v.Digest); ok {
			out = append(out, asked(v, k))
		}
	}
	return out
}

// Vertices returns the steps that the build knows, sorted by digest.
func (b *Build) Vertices() []*Vertex {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*Vertex, 0, len(b.vertices))
	for _, v := range b.vertices {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *Vertex) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return out
}

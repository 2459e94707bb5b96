package attest

import (
	"context"
	"slices"

	"github.com/buildd/buildd/solver"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layers tells the layers of what a step made, bottom first, as far as blobs of
// them are known: nil if one is not. Nothing is made for it.
type Layers func(ctx context.Context, e solver.Edge) []ocispecs.Descriptor

// layers lists the layers of every output that the graph of c uses, by
// STEP:OUTPUT.
func (l Layers) layers(ctx context.Context, c *Capture, steps *config) map[string][][]ocispecs.Descriptor {
	out := map[string][][]ocispecs.Descriptor{}
	var walk func(e solver.Edge)
	walk = func(e solver.Edge) {
		if _, ok := steps.index[e.Vertex.Digest]; !ok {
			return
		}
		name := steps.output(e.Vertex.Digest, e.Output)
		if _, ok := out[name]; ok {
			return
		}
		out[name] = nil
		if chain := l(ctx, e); len(chain) > 0 {
			out[name] = [][]ocispecs.Descriptor{plain(chain)}
		}
		for _, in := range e.Vertex.Inputs {
			walk(in)
		}
	}
	walk(c.edge)
	for name, chains := range out {
		if chains == nil {
			delete(out, name)
		}
	}
	return out
}

// plain drops the annotations that are for readers of the image only.
func plain(chain []ocispecs.Descriptor) []ocispecs.Descriptor {
	chain = slices.Clone(chain)
	for i := range chain {
		chain[i] = ocispecs.Descriptor{MediaType: chain[i].MediaType, Digest: chain[i].Digest, Size: chain[i].Size}
	}
	return chain
}

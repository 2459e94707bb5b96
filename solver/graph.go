package solver

import (
	"context"

	"github.com/buildd/buildd/cache"
	"github.com/opencontainers/go-digest"
)

// Vertex is a step of a build graph. Vertices are immutable once a build has
// seen them, and one build knows one Vertex per Digest.
type Vertex struct {
	// Digest is the LLB digest of the step's definition, inputs included.
	Digest digest.Digest
	// Name is what progress calls the step.
	Name string
	// Group is the progress group's ID, name and weak flag; nil without one.
	Group *Group
	Op    Op
	// Inputs are in the order of the op's inputs.
	Inputs []Edge
	// NoCache makes the step run although its key may be known (--no-cache).
	NoCache bool
}

// Group lets progress show several vertices as one.
type Group struct {
	ID, Name string
	Weak     bool
}

// Edge is one output of a vertex.
type Edge struct {
	Vertex *Vertex
	Output int
}

// Op is what a vertex does, as far as the solver has to know it.
type Op interface {
	// Digest covers all that the outcome depends on except the inputs. For a
	// source it pins what the source names now; v is the vertex that progress is
	// shown under.
	Digest(ctx context.Context, b *Build, v *Vertex) (cache.Key, error)
	// Selector says which files of input i count. Empty: the input counts by
	// its key.
	Selector(i int) cache.Selector
	// Kind is the BuildKit usage record type of the result, such as "regular".
	Kind() string
}

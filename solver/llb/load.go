package llb

import (
	"context"
	"errors"
	"fmt"

	"github.com/buildd/buildd/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// ErrEmpty is returned for a definition without steps: FROM scratch and nothing
// else.
var ErrEmpty = errors.New("the definition is empty")

// Pin says what a source names now. Key covers all that the fetched files
// depend on.
type Pin interface{ PinKey() string }

// Pinner finds out what sources name now.
type Pinner interface {
	Pin(ctx context.Context, v *solver.Vertex, s *pb.SourceOp, p *pb.Platform) (Pin, error)
}

// Options say how a definition becomes vertices of a build.
type Options struct {
	// Build interns the vertices.
	Build *solver.Build
	// Pinner pins sources.
	Pinner Pinner
	// Check refuses ops that may not run, such as for want of an entitlement.
	Check func(*pb.Op) error
	// Rewrite returns what is to be fetched in the place of a source; nil fetches
	// what is asked for.
	Rewrite func(*pb.SourceOp) (*pb.SourceOp, error)
	// NoCache makes every step ignore the cache.
	NoCache bool
}

// Load returns the edge that def asks for. It fails for a definition that is
// not well-formed: every input must name an op of the definition and an output
// that exists, and every op must be one that buildd knows.
func Load(def *pb.Definition, o Options) (solver.Edge, error) {
	if def == nil || len(def.Def) == 0 {
		return solver.Edge{}, ErrEmpty
	}
	l := &loader{Options: o, def: def, ops: make(map[digest.Digest]*pb.Op, len(def.Def)), done: map[digest.Digest]*solver.Vertex{}}
	var last *pb.Op
	for i, raw := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(raw); err != nil {
			return solver.Edge{}, fmt.Errorf("read op %d of the definition: %w", i, err)
		}
		l.ops[digest.FromBytes(raw)] = op
		last = op
	}
	// The last op stands for the result: it does nothing and has one input.
	if last.Op != nil || len(last.Inputs) != 1 {
		return solver.Edge{}, errors.New("the definition does not end in an op that names its result")
	}
	return l.edge(last.Inputs[0])
}

type loader struct {
	Options
	def  *pb.Definition
	ops  map[digest.Digest]*pb.Op
	done map[digest.Digest]*solver.Vertex
}

func (l *loader) edge(in *pb.Input) (solver.Edge, error) {
	v, err := l.vertex(digest.Digest(in.Digest))
	if err != nil {
		return solver.Edge{}, err
	}
	e := solver.Edge{Vertex: v, Output: int(in.Index)}
	if n := v.Op.(*Op).Outputs(); in.Index < 0 || in.Index >= int64(n) {
		return e, fmt.Errorf("output %d of %q is asked for: the step has %d outputs", in.Index, v.Name, n)
	}
	return e, nil
}

func (l *loader) vertex(d digest.Digest) (*solver.Vertex, error) {
	if v, ok := l.done[d]; ok {
		return v, nil
	}
	def, ok := l.ops[d]
	if !ok {
		return nil, fmt.Errorf("op %s is an input but not in the definition", d)
	}
	meta := l.def.Metadata[string(d)]
	v := &solver.Vertex{Digest: d, NoCache: l.NoCache || meta.GetIgnoreCache()}
	if l.Check != nil {
		if err := l.Check(def); err != nil {
			return nil, &solver.StepError{Vertex: v, Err: err}
		}
	}
	def, err := l.rewrite(def)
	if err != nil {
		return nil, &solver.StepError{Vertex: v, Err: err}
	}
	if v.Op, err = newOp(def, meta, l.Pinner); err != nil {
		return nil, &solver.StepError{Vertex: v, Err: fmt.Errorf("op %s: %w", d, err)}
	}
	v.Name = name(def, meta)
	if g := meta.GetProgressGroup(); g != nil {
		v.Group = &solver.Group{ID: g.Id, Name: g.Name, Weak: g.Weak}
	}
	for _, in := range def.Inputs {
		e, err := l.edge(in)
		if err != nil {
			return nil, err
		}
		v.Inputs = append(v.Inputs, e)
	}
	v = l.Build.Intern(v)
	l.done[d] = v
	return v, nil
}

// rewrite applies Rewrite. The vertex keeps its digest: within one build a
// source is always rewritten to the same.
func (l *loader) rewrite(def *pb.Op) (*pb.Op, error) {
	src := def.GetSource()
	if src == nil || l.Rewrite == nil {
		return def, nil
	}
	to, err := l.Rewrite(src)
	if err != nil || to == src {
		return def, err
	}
	def = def.CloneVT()
	def.Op = &pb.Op_Source{Source: to}
	return def, nil
}

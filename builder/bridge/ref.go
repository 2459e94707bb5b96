package bridge

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/buildd/buildd/builder/policy"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/solver"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// Ref is a lazy result. It implements gwclient.Reference.
type Ref struct {
	b    *Build
	def  *pb.Definition
	edge solver.Edge

	solved atomic.Bool
}

// NewRef returns the lazy result of a definition, whose sources p may rewrite;
// nil for an empty one.
func (b *Build) NewRef(ctx context.Context, def *pb.Definition, p *policy.Engine) (*Ref, error) {
	e, err := b.Load(ctx, def, p)
	if err != nil || e == nil {
		return nil, err
	}
	return &Ref{b: b, def: def, edge: *e}, nil
}

// Edge returns what the reference is in the build's graph.
func (r *Ref) Edge() solver.Edge { return r.edge }

// Definition returns what the reference is the result of.
func (r *Ref) Definition() *pb.Definition { return r.def }

// Tree solves the reference.
func (r *Ref) Tree(ctx context.Context) (cache.Tree, error) {
	t, err := r.b.Solve.Solve(ctx, r.edge)
	if err == nil {
		r.solved.Store(true)
	}
	return t, r.b.Locate(err)
}

// Solved implements attest.Ref.
func (r *Ref) Solved() (solver.Edge, bool) { return r.edge, r.solved.Load() }

// ToState implements gwclient.Reference.
func (r *Ref) ToState() (llb.State, error) {
	op, err := llb.NewDefinitionOp(r.def)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

// Evaluate implements gwclient.Reference.
func (r *Ref) Evaluate(ctx context.Context) error {
	_, err := r.Tree(ctx)
	return err
}

func (r *Ref) view(ctx context.Context) (*digest.View, error) {
	for {
		t, err := r.Tree(ctx)
		if err != nil {
			return nil, err
		}
		v, err := r.b.Files.Open(ctx, r.b.Solve.Lender(r.edge.Vertex), t)
		if !errors.Is(err, cache.ErrLost) || !r.b.Solve.Forget(r.edge) {
			return v, err
		}
	}
}

// ReadFile implements gwclient.Reference.
func (r *Ref) ReadFile(ctx context.Context, req gwclient.ReadRequest) ([]byte, error) {
	v, err := r.view(ctx)
	if err != nil {
		return nil, err
	}
	return readFile(v, req)
}

// StatFile implements gwclient.Reference.
func (r *Ref) StatFile(ctx context.Context, req gwclient.StatRequest) (*fstypes.Stat, error) {
	v, err := r.view(ctx)
	if err != nil {
		return nil, err
	}
	return statFile(v, req)
}

// ReadDir implements gwclient.Reference.
func (r *Ref) ReadDir(ctx context.Context, req gwclient.ReadDirRequest) ([]*fstypes.Stat, error) {
	v, err := r.view(ctx)
	if err != nil {
		return nil, err
	}
	return readDir(v, req)
}

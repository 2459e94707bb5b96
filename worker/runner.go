package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/buildd/buildd/worker/op"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Steps runs ops that are no sources: an op.Worker, or one on another machine.
type Steps interface {
	Run(ctx context.Context, r op.Request) ([]cache.Tree, error)
}

// Pinned is an llb.Pin that knows what a source was pinned to.
type Pinned interface{ Source() source.Pin }

// Config is what a Runner stands on.
type Config struct {
	Trees    *tree.Store
	Sources  *source.Set
	Sessions *session.Manager
	Steps    Steps
	// Provider gives the blobs of layers that were never fetched.
	Provider func(session.Client) tree.Provider
}

// Runner implements solver.Runner and solver.Contents.
type Runner struct{ Config }

// New returns a Runner.
func New(c Config) *Runner { return &Runner{c} }

// Run implements solver.Runner.
func (r *Runner) Run(ctx context.Context, w solver.Waiters, s solver.Step) ([]cache.Tree, error) {
	o, ok := s.Vertex.Op.(*llb.Op)
	if !ok {
		return nil, fmt.Errorf("an op of type %T is not of LLB", s.Vertex.Op)
	}
	client := r.Sessions.Client(w.Sessions)
	switch o.Def.Op.(type) {
	case *pb.Op_Source:
		return r.source(ctx, w, client, o)
	case *pb.Op_Exec, *pb.Op_File, *pb.Op_Diff: // the others read no files
		for _, t := range s.Inputs {
			if err := r.ensure(ctx, w, client, t); err != nil {
				return nil, err
			}
		}
	}
	return r.Steps.Run(ctx, op.Request{
		Name: s.Vertex.Name, Op: o.Def, Resources: o.Resources, Platform: o.Def.Platform, Inputs: s.Inputs, Client: client, Progress: w,
	})
}

func (r *Runner) source(ctx context.Context, w solver.Waiters, c session.Client, o *llb.Op) ([]cache.Tree, error) {
	p, ok := o.Pin().(Pinned)
	if !ok {
		return nil, fmt.Errorf("source %s was not pinned", o.Def.GetSource().Identifier)
	}
	pin := p.Source()
	pin.Request.Log = w.Log
	t, err := r.Sources.Fetch(ctx, c, pin, w.Status)
	if err != nil {
		return nil, err
	}
	return []cache.Tree{t}, nil
}

// Content implements solver.Contents.
func (r *Runner) Content(ctx context.Context, w solver.Waiters, t cache.Tree, sel cache.Selector) (cache.Key, error) {
	if sel != cache.Root {
		if err := r.ensure(ctx, w, r.Sessions.Client(w.Sessions), t); err != nil {
			return cache.Key{}, err
		}
	}
	return r.Trees.Content(ctx, t, sel)
}

// Open returns the files of a tree, fetching first what is not here.
func (r *Runner) Open(ctx context.Context, w solver.Waiters, t cache.Tree) (*digest.View, error) {
	if err := r.ensure(ctx, w, r.Sessions.Client(w.Sessions), t); err != nil {
		return nil, err
	}
	return r.Trees.Files(ctx, t)
}

// ensure fetches the layers of t that were only heard of, and shows it as
// progress of the step that needs them.
func (r *Runner) ensure(ctx context.Context, w solver.Waiters, c session.Client, t cache.Tree) error {
	begin := time.Now()
	return r.Trees.Ensure(ctx, t, r.Provider(c), func(d ocispecs.Descriptor, done, total int64, unpacked bool) {
		s := solver.Status{ID: d.Digest.String(), Current: done, Total: total, Started: begin}
		if unpacked {
			s.Completed = time.Now()
		}
		w.Status(s)
	})
}

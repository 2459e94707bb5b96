package dockerfile

import (
	"context"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// lateOutput is an llb.Output that is made when the state is marshalled.
type lateOutput struct {
	make func() llb.Output
	once sync.Once
	out  llb.Output // after once
}

func (l *lateOutput) get() llb.Output {
	l.once.Do(func() { l.out = l.make() })
	return l.out
}

// ToInput implements llb.Output.
func (l *lateOutput) ToInput(ctx context.Context, c *llb.Constraints) (*pb.Input, error) {
	return l.get().ToInput(ctx, c)
}

// Vertex implements llb.Output.
func (l *lateOutput) Vertex(ctx context.Context, c *llb.Constraints) llb.Vertex {
	return l.get().Vertex(ctx, c)
}

// failedOutput is an llb.Output that cannot be had. Only a state that needs it fails to marshal.
type failedOutput struct{ err error }

// ToInput implements llb.Output.
func (f failedOutput) ToInput(context.Context, *llb.Constraints) (*pb.Input, error) {
	return nil, f.err
}

// Vertex implements llb.Output.
func (f failedOutput) Vertex(context.Context, *llb.Constraints) llb.Vertex { return failedVertex(f) }

type failedVertex struct{ err error }

func (f failedVertex) Validate(context.Context, *llb.Constraints) error { return f.err }
func (f failedVertex) Output() llb.Output                               { return failedOutput(f) }
func (f failedVertex) Inputs() []llb.Output                             { return nil }

func (f failedVertex) Marshal(context.Context, *llb.Constraints) (digest.Digest, []byte, *pb.OpMetadata, []*llb.SourceLocation, error) {
	return "", nil, nil, nil, f.err
}

package dockerfile

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
)

// gateway is the client of one build, with what does not change during it asked for once.
type gateway struct {
	client gwclient.Client
	gwclient.BuildOpts
	sources metaResolver
	inputs  map[string]llb.State // definitions that the client sent along
}

func newGateway(ctx context.Context, c gwclient.Client) (*gateway, error) {
	g := &gateway{client: c, BuildOpts: c.BuildOpts(), sources: metaResolver{client: c}}
	if !supports(g.LLBCaps, pb.CapFileBase) {
		return nil, fmt.Errorf("the build server knows no file operations, which COPY needs: want BuildKit 0.5 or later")
	}
	if supports(g.Caps, gwpb.CapFrontendInputs) {
		var err error
		if g.inputs, err = c.Inputs(ctx); err != nil {
			return nil, fmt.Errorf("get frontend inputs: %w", err)
		}
	}
	return g, nil
}

// supports is false for a set that was never filled too, on which Supports would panic.
func supports(s apicaps.CapSet, id apicaps.CapID) bool {
	return s.Contains(id) && s.Supports(id) == nil
}

func (g *gateway) marshal(ctx context.Context, st llb.State) (*llb.Definition, error) {
	return st.Marshal(ctx, llb.WithCaps(g.LLBCaps))
}

// files returns st made, to be read at once: what went wrong in making it must not look like a missing file. The reference is
// nil if st is empty.
func (g *gateway) files(ctx context.Context, st llb.State) (gwclient.Reference, error) {
	def, err := g.marshal(ctx, st)
	if err != nil {
		return nil, err
	}
	return g.solve(ctx, gwclient.SolveRequest{Definition: def.ToPB(), Evaluate: true})
}

func (g *gateway) solve(ctx context.Context, r gwclient.SolveRequest) (gwclient.Reference, error) {
	res, err := g.client.Solve(ctx, r)
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}

// sessionFor is the client that has the local directory name; clients that share a build between sessions name it.
func (g *gateway) sessionFor(name string) string {
	if id, ok := g.Opts[prefixSessionID+name]; ok {
		return id
	}
	return g.SessionID
}

// notExist is the error for a file of an empty state, as opening it in any other would give.
func notExist(name string) error {
	return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func internalLog(name string) string { return "[internal] " + name }

func internalName(name string) llb.ConstraintsOpt { return llb.WithCustomName(internalLog(name)) }

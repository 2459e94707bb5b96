package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/builder/attest"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// maxDepth bounds how deep frontends may call frontends.
const maxDepth = 16

// Client is a frontend's view of a build. It implements gwclient.Client.
type Client struct {
	b      *Build
	opts   map[string]string
	inputs map[string]*pb.Definition
	depth  int
	call   *attest.Call // records what the frontend does
}

func asType[E error](err error) (E, bool) { return errors.AsType[E](err) }

// Client returns the view of a frontend that was called with these options and
// inputs.
func (b *Build) Client(opts map[string]string, inputs map[string]*pb.Definition) *Client {
	return &Client{b: b, opts: opts, inputs: inputs, call: b.Call}
}

// BuildOpts implements gwclient.Client.
func (c *Client) BuildOpts() gwclient.BuildOpts {
	return gwclient.BuildOpts{
		Opts: c.opts, SessionID: c.b.Session, Workers: c.b.Workers, Product: "buildd",
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()), Caps: gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

// Solve implements gwclient.Client. The references of the result are lazy
// unless the request says to evaluate them.
func (c *Client) Solve(ctx context.Context, req gwclient.SolveRequest) (*gwclient.Result, error) {
	res, record, err := c.solve(ctx, req)
	if err != nil {
		return nil, c.b.Locate(err)
	}
	if req.Evaluate {
		err = res.EachRef(func(r gwclient.Reference) error { return r.Evaluate(ctx) })
	}
	if err == nil {
		err = record(refs(res)...)
	}
	return res, err
}

// solve returns with a result what records it.
func (c *Client) solve(ctx context.Context, req gwclient.SolveRequest) (*gwclient.Result, func(...attest.Ref) error, error) {
	switch {
	case req.Frontend != "" && req.Definition != nil && len(req.Definition.Def) > 0:
		return nil, nil, errors.New("a request has either a frontend or a definition: this one has both")
	case req.Frontend != "":
		sub := c.call.Enter(attest.Request{Frontend: req.Frontend, Args: req.FrontendOpt, Inputs: req.FrontendInputs})
		res, err := c.callFrontend(ctx, req, sub)
		return res, func(refs ...attest.Ref) error { return c.call.Return(sub, refs...) }, err
	}
	p, err := c.b.Policy.With(req.SourcePolicies...)
	if err != nil {
		return nil, nil, err
	}
	if c.b.Import != nil {
		if err := c.b.Import(req.CacheImports); err != nil {
			return nil, nil, err
		}
	}
	ref, err := c.b.NewRef(ctx, req.Definition, p)
	if err != nil {
		return nil, nil, err
	}
	res := gwclient.NewResult()
	if ref != nil {
		res.SetRef(ref)
	}
	return res, c.call.Solve, nil
}

func (c *Client) callFrontend(ctx context.Context, req gwclient.SolveRequest, call *attest.Call) (*gwclient.Result, error) {
	f, ok := c.b.Frontends[req.Frontend]
	if !ok {
		return nil, fmt.Errorf("frontend %q not found: want one of %s", req.Frontend, strings.Join(c.frontends(), ", "))
	}
	if c.depth >= maxDepth {
		return nil, fmt.Errorf("frontend %s: frontends call each other more than %d deep", req.Frontend, maxDepth)
	}
	return f.Build(ctx, &Client{b: c.b, opts: req.FrontendOpt, inputs: req.FrontendInputs, depth: c.depth + 1, call: call})
}

func (c *Client) frontends() []string {
	var names []string
	for n := range c.b.Frontends {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Inputs implements gwclient.Client.
func (c *Client) Inputs(context.Context) (map[string]llb.State, error) {
	out := make(map[string]llb.State, len(c.inputs))
	for name, def := range c.inputs {
		op, err := llb.NewDefinitionOp(def)
		if err != nil {
			return nil, fmt.Errorf("read input %s: %w", name, err)
		}
		out[name] = llb.NewState(op)
	}
	return out, nil
}

// ResolveSourceMetadata implements gwclient.Client.
func (c *Client) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	name := o.LogName
	if name == "" {
		name = "resolve " + op.Identifier
	}
	p, err := c.b.Policy.With(o.SourcePolicies...)
	if err != nil {
		return nil, err
	}
	if op, err = p.Apply(op); err != nil {
		return nil, err
	}
	t := c.b.Log.Begin(name)
	res, err := c.b.Sources.Describe(ctx, c.b.Lend, c.b.request(op, nil), o)
	t.End(err)
	if err == nil && res.Image != nil {
		c.call.Image(lookedUp(res, o))
	}
	return res, err
}

// ResolveImageConfig implements gwclient.Client.
func (c *Client) ResolveImageConfig(ctx context.Context, ref string, o sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	scheme := "docker-image://"
	if o.OCILayoutOpt != nil {
		scheme = "oci-layout://"
	}
	res, err := c.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: scheme + ref}, o)
	if err != nil {
		return "", "", nil, err
	}
	if res.Image == nil {
		return "", "", nil, fmt.Errorf("resolve %s: the source is no image", ref)
	}
	_, resolved, _ := strings.Cut(res.Op.Identifier, "://")
	return resolved, res.Image.Digest, res.Image.Config, nil
}

// Warn implements gwclient.Client.
func (c *Client) Warn(_ context.Context, d digest.Digest, msg string, o gwclient.WarnOpts) error {
	c.b.Log.Warn(&control.VertexWarning{
		Vertex: string(d), Level: int64(o.Level), Short: []byte(msg), Detail: o.Detail, Url: o.URL, Info: o.SourceInfo, Ranges: o.Range,
	})
	return nil
}

var _ gwclient.Client = (*Client)(nil)
var _ error = (*errdefs.VertexError)(nil)

package dockerfile

import (
	"context"

	"github.com/buildd/buildd/frontend"
	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Version is that of the Dockerfile syntax that the frontend knows, as
// docker/dockerfile is released under.
const Version = "1.28.0"

// Frontend builds Dockerfiles. It has no state: everything about a build is in the client.
type Frontend struct{}

var _ frontend.Frontend = Frontend{}

// Build implements frontend.Frontend.
func (Frontend) Build(ctx context.Context, c gwclient.Client) (*gwclient.Result, error) {
	b, err := newBuild(ctx, c)
	if err != nil {
		return nil, err
	}
	forward, missing := missingCap(b.Opts[optFrontendCaps])
	if missing != nil && !forward {
		return nil, missing
	}
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	if s := b.otherSyntax(); s != nil {
		return b.forward(ctx, s)
	}
	if missing != nil {
		return nil, missing
	}
	if res, answered, err := b.subrequest(ctx); answered {
		return res, err
	}
	return b.run(ctx)
}

// build is one request while it is served.
type build struct {
	*gateway
	options    *options
	contexts   *contexts
	definition *definition
}

func newBuild(ctx context.Context, c gwclient.Client) (*build, error) {
	g, err := newGateway(ctx, c)
	if err != nil {
		return nil, err
	}
	o, err := parseOptions(g.Opts)
	if err != nil {
		return nil, err
	}
	return &build{gateway: g, options: o}, nil
}

// open finds the build context and loads the Dockerfile.
func (b *build) open(ctx context.Context) (err error) {
	b.contexts = &contexts{gateway: b.gateway, options: b.options}
	if b.contexts.main, err = findMainContext(ctx, b.gateway, b.options); err != nil {
		return err
	}
	if b.definition, err = readDefinition(ctx, b.gateway, b.contexts.main); err != nil {
		return err
	}
	b.contexts.specific = b.definition.ignore
	return nil
}

// lowerOptions are those that hold for every platform.
func (b *build) lowerOptions(ctx context.Context) lower.Options {
	o := b.options
	out := lower.Options{
		Target:         o.target,
		BuildArgs:      o.buildArgs,
		Labels:         o.labels,
		BuildPlatforms: []ocispecs.Platform{b.workerPlatform()},
		MultiPlatform:  o.multiPlatform,
		Contexts:       b.contexts,
		MetaResolver:   sourceresolver.NewImageMetaResolver(&b.sources),
		ResolveMode:    o.resolveMode,
		SourceMap:      b.definition.SourceMap,
		Caps:           &b.LLBCaps,
		Check:          o.check,
		Warn:           b.definition.warn(ctx, b.client),
		Run:            o.run,
	}
	if o.check != nil {
		own := *o.check // lower fills it in, once for each platform
		out.Check = &own
	}
	return out
}

// workerPlatform is what steps run on natively.
func (b *build) workerPlatform() ocispecs.Platform {
	if len(b.Workers) > 0 && len(b.Workers[0].Platforms) > 0 {
		return b.Workers[0].Platforms[0]
	}
	return platforms.Normalize(platforms.DefaultSpec())
}

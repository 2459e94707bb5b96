package dockerfile

import (
	"context"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/moby/buildkit/client/llb"
)

// contexts are the files that a build works with. It serves all platforms of a build at once.
type contexts struct {
	*gateway
	options *options
	main    *mainContext
	ignore  memo[[]string]
	// specific is the ignore file beside the Dockerfile, nil if there is none. It takes the place of the context's own.
	specific *ignoreFile
}

var _ lower.Contexts = (*contexts)(nil)

// Main implements lower.Contexts.
func (c *contexts) Main(ctx context.Context, o ...llb.LocalOption) (*llb.State, error) {
	if c.main.state != nil {
		return c.main.state, nil
	}
	excludes, err := c.Ignored(ctx)
	if err != nil {
		return nil, err
	}
	st := llb.Local(localContext, append([]llb.LocalOption{
		llb.SessionID(c.sessionFor(localContext)),
		llb.ExcludePatterns(excludes),
		llb.SharedKeyHint(localContext),
		internalName("load build context"),
	}, o...)...)
	return &st, nil
}

// Ignored implements lower.Contexts.
func (c *contexts) Ignored(ctx context.Context) ([]string, error) {
	if c.main.state != nil {
		return nil, nil
	}
	return c.ignore.do(ctx, localContext, func(ctx context.Context) ([]string, error) {
		if c.specific != nil {
			return c.specific.patterns()
		}
		f, err := c.readIgnoreFile(ctx, localContext, "[internal] load "+dockerignore, localContext+"-"+dockerignore)
		if err != nil {
			return nil, err
		}
		return f.patterns()
	})
}

// NoCache implements lower.Contexts.
func (c *contexts) NoCache(stage string) bool { return c.options.noCache.stage(stage) }

package dockerfile

import (
	"context"
	"errors"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/moby/buildkit/client/llb"
)

// contexts are the files that a build works with. It serves all platforms of a build at once.
type contexts struct {
	*gateway
	options *options
	main    *mainContext
	ignore  memo[ignored]
	// specific is the ignore file beside the Dockerfile, nil if there is none. It takes the place of the context's own.
	specific *ignoreFile
}

var _ lower.Contexts = (*contexts)(nil)

// ignored is what the ignore file of the build context says.
type ignored struct {
	patterns []string
	missing  error // the client's directory cannot be had, which is a fault only if the Dockerfile wants something of it
}

// Main implements lower.Contexts.
func (c *contexts) Main(ctx context.Context, o ...llb.LocalOption) (*llb.State, error) {
	if c.main.state != nil {
		return c.main.state, nil
	}
	ig, err := c.ignored(ctx)
	if err != nil {
		return nil, err
	}
	if ig.missing != nil {
		st := llb.NewState(failedOutput{ig.missing})
		return &st, nil
	}
	st := llb.Local(localContext, append([]llb.LocalOption{
		llb.SessionID(c.sessionFor(localContext)),
		llb.ExcludePatterns(ig.patterns),
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
	ig, err := c.ignored(ctx)
	return ig.patterns, err
}

func (c *contexts) ignored(ctx context.Context) (ignored, error) {
	return c.ignore.do(ctx, localContext, func(ctx context.Context) (out ignored, err error) {
		file := c.specific
		if file == nil {
			file, err = c.readIgnoreFile(ctx, localContext, "[internal] load "+dockerignore, localContext+"-"+dockerignore)
			if load := (*loadError)(nil); errors.As(err, &load) && ctx.Err() == nil {
				return ignored{missing: err}, nil
			}
			if err != nil {
				return ignored{}, err
			}
		}
		out.patterns, err = file.patterns()
		return out, err
	})
}

// NoCache implements lower.Contexts.
func (c *contexts) NoCache(stage string) bool { return c.options.noCache.stage(stage) }

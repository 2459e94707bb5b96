package lower

import (
	"context"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Contexts gives the files that a Dockerfile does not make itself. One value serves one build of one platform or of many at
// once, so it must be safe for concurrent use.
//
// Lower asks in this order: SourceTime only if SOURCE_DATE_EPOCH is not a number; Named for the name of every stage and for
// every base image that is needed; the loaders of those that the target needs, several at a time; Ignored once if something is
// copied from the build context; Main last, when it is known which paths are read, and not at all if none are.
type Contexts interface {
	// Main returns the build context. Options narrow it to what is used; they mean nothing for a context that is not local.
	Main(ctx context.Context, o ...llb.LocalOption) (*llb.State, error)
	// Named returns how to load the context that takes the place of the stage or image called name, nil if there is none.
	// It is cheap: the work is in the loader. Name is as written, or an image reference in full.
	Named(name string, o NamedOptions) (ContextLoader, error)
	// Ignored returns the patterns of the ignore file of the build context, none if the context is not local.
	Ignored(ctx context.Context) ([]string, error)
	// NoCache says whether the steps of a stage (its name as written, "" if it has none) shall run even if they are cached.
	NoCache(stage string) bool
	// SourceTime returns when the one source in a state was last changed, nil if it does not say. What is the name of the
	// vertex that clients see for it.
	SourceTime(ctx context.Context, st llb.State, what string) (*time.Time, error)
}

// ContextLoader returns the files of a context and its image config, which is nil for a context that is not an image.
type ContextLoader func(ctx context.Context) (*llb.State, *dockerspec.DockerOCIImage, error)

// NamedOptions say what a named context is wanted for.
type NamedOptions struct {
	Platform    *ocispecs.Platform // nil: the build's target platform, or the daemon's own if that is not known either
	ResolveMode llb.ResolveMode
	// Paths returns options that narrow a local context to the paths that the Dockerfile uses. They are known only after the
	// whole of it has been read, so Paths may be called no sooner than when the state is marshalled. Nil: take all.
	Paths func() []llb.LocalOption
}

// localContext is what a build has that says nothing about contexts.
type localContext struct{}

func (localContext) Main(_ context.Context, o ...llb.LocalOption) (*llb.State, error) {
	o = append([]llb.LocalOption{llb.SharedKeyHint("context"), internalName("load build context")}, o...)
	st := llb.Local("context", o...)
	return &st, nil
}

func (localContext) Named(string, NamedOptions) (ContextLoader, error) { return nil, nil }
func (localContext) Ignored(context.Context) ([]string, error)         { return nil, nil }
func (localContext) NoCache(string) bool                               { return false }
func (localContext) SourceTime(context.Context, llb.State, string) (*time.Time, error) {
	return nil, nil
}

// namedContext asks for a named context, except under the two names that no context can take.
func (o *Options) namedContext(name string, n NamedOptions) (ContextLoader, error) {
	if strings.EqualFold(name, scratch) || strings.EqualFold(name, "context") {
		return nil, nil
	}
	if n.Platform == nil {
		n.Platform = o.TargetPlatform
	}
	n.ResolveMode = o.ResolveMode
	return o.Contexts.Named(name, n)
}

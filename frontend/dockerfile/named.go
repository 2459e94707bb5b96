package dockerfile

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// namedContext is an option "context:NAME" or "context:NAME::PLATFORM", which takes the place of a stage or an image.
type namedContext struct {
	*contexts
	name   string // as the Dockerfile calls it, in the familiar form
	key    string // name, with the platform if the option has it: what clients see
	source string // KIND:WHERE
	want   lower.NamedOptions
}

// Named implements lower.Contexts. A context for the platform goes before one for all.
func (c *contexts) Named(name string, o lower.NamedOptions) (lower.ContextLoader, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("invalid context name %q: %w", name, err)
	}
	name = strings.TrimSuffix(reference.FamiliarString(ref), ":latest")
	p := platforms.DefaultSpec()
	if o.Platform != nil {
		p = *o.Platform
	}
	for _, key := range []string{name + "::" + platforms.FormatAll(platforms.Normalize(p)), name} {
		if source, ok := c.Opts[prefixContext+key]; ok {
			n := &namedContext{contexts: c, name: name, key: key, source: source, want: o}
			return n.load, nil
		}
	}
	return nil, nil
}

// load follows the source to its files. A source policy may turn an image into another kind of source, but not for ever.
func (n *namedContext) load(ctx context.Context) (*llb.State, *dockerspec.DockerOCIImage, error) {
	seen := []string{}
	for source := n.source; ; {
		if slices.Contains(seen, source) {
			return nil, nil, fmt.Errorf("context %s: source policies turn %s into itself", n.key, strings.Join(append(seen, source), " into "))
		}
		seen = append(seen, source)
		st, img, other, err := n.open(ctx, source)
		if err != nil {
			return nil, nil, fmt.Errorf("context %s: %w", n.key, err)
		}
		if other == "" {
			return st, img, nil
		}
		source = other
	}
}

// open returns the files of source and the config of the image that it is, or what the source policies want instead of it.
func (n *namedContext) open(ctx context.Context, source string) (st *llb.State, img *dockerspec.DockerOCIImage, other string, err error) {
	kind, where, ok := strings.Cut(source, ":")
	if !ok {
		return nil, nil, "", n.unknown(source)
	}
	switch kind {
	case "docker-image":
		return n.image(ctx, strings.TrimPrefix(where, "//"))
	case "oci-layout":
		st, img, err = n.layout(ctx, strings.TrimPrefix(where, "//"))
	case "local":
		st, err = n.local(ctx, strings.TrimPrefix(where, "//"))
	case "input":
		st, img, err = n.input(where)
	default:
		st, err = n.remote(source)
	}
	return st, img, "", err
}

func (n *namedContext) unknown(source string) error {
	hint := ""
	if strings.HasPrefix(source, "target:") {
		hint = " (docker buildx bake turns target: into input: before it asks for a build)"
	}
	return optionError(prefixContext+n.key, source,
		"docker-image://REF, oci-layout://REF@DIGEST, local:NAME, input:NAME, a git URL or an http(s) URL"+hint, nil)
}

func (n *namedContext) remote(url string) (*llb.State, error) {
	if st, ok, err := gitState(url, n.options); ok || err != nil {
		return st, err
	}
	if !isHTTP(url) {
		return nil, n.unknown(url)
	}
	st := llb.HTTP(url, llb.Filename(downloaded), n.vertexName(url))
	return &st, nil
}

func (n *namedContext) vertexName(what string) llb.ConstraintsOpt {
	return llb.WithCustomName("[context " + n.key + "] " + what)
}

// platformOption is the platform that the context is wanted for, none if the daemon's own will do.
func platformOption(p *ocispecs.Platform) []llb.ConstraintsOpt {
	if p == nil {
		return nil
	}
	return []llb.ConstraintsOpt{llb.Platform(*p)}
}

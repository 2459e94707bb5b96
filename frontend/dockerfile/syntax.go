package dockerfile

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
)

// Builtin says whether an image of "# syntax=" means this frontend: docker/dockerfile and docker/dockerfile-upstream, of
// whatever version and registry (mirrors keep the path), or the name that BuildKit gives the frontend itself.
func Builtin(image string) bool {
	if image == "dockerfile.v0" {
		return true
	}
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	path := "/" + reference.Path(ref)
	return strings.HasSuffix(path, "/docker/dockerfile") || strings.HasSuffix(path, "/docker/dockerfile-upstream")
}

// syntax is the frontend image that a request or a Dockerfile asks for.
type syntax struct {
	image    string
	cmdline  string // the image and what follows it
	location []parser.Range
}

// otherSyntax returns the image that must be run in place of this frontend, nil if this one is meant.
func (b *build) otherSyntax() *syntax {
	if _, ok := b.Opts[optCmdline]; ok {
		return nil // we were chosen by one who had read it
	}
	var s syntax
	if arg := strings.TrimSpace(b.Opts[argSyntax]); arg != "" {
		s.cmdline = arg
		s.image, _, _ = strings.Cut(arg, " ")
	} else {
		var found bool
		s.image, s.cmdline, s.location, found = parser.DetectSyntax(b.definition.Data)
		if !found {
			return nil
		}
	}
	if Builtin(s.image) {
		return nil
	}
	return &s
}

// forward lets the image s build the request.
func (b *build) forward(ctx context.Context, s *syntax) (*gwclient.Result, error) {
	opts := maps.Clone(b.Opts)
	if opts == nil {
		opts = map[string]string{}
	}
	opts[optCmdline], opts[optSource] = s.cmdline, s.image

	inputs := make(map[string]*pb.Definition, len(b.inputs))
	for name, st := range b.inputs {
		def, err := b.marshal(ctx, st)
		if err != nil {
			return nil, fmt.Errorf("marshal input %s: %w", name, err)
		}
		inputs[name] = def.ToPB()
	}
	res, err := b.client.Solve(ctx, gwclient.SolveRequest{Frontend: "gateway.v0", FrontendOpt: opts, FrontendInputs: inputs})
	if err == nil || len(errdefs.Sources(err)) > 0 {
		return res, err
	}
	if s.location == nil {
		return nil, fmt.Errorf("run frontend of %s %q: %w", argSyntax, s.cmdline, err)
	}
	err = fmt.Errorf("run frontend of syntax directive %q: %w", s.cmdline, err)
	return nil, lower.WithSource(parser.WithLocation(err, s.location), b.definition.SourceMap)
}

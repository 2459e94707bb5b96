package lower

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/subrequests/convertllb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Targets answers the subrequest frontend.targets: the stages of a Dockerfile.
func Targets(_ context.Context, src []byte) (*targets.List, error) {
	tree, err := parseTree(src)
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(tree.AST, silent())
	if err != nil {
		return nil, err
	}
	list := &targets.List{Sources: [][]byte{src}}
	for i, s := range stages {
		list.Targets = append(list.Targets, targets.Target{
			Name:        s.Name,
			Default:     i == len(stages)-1,
			Description: s.DocComment,
			Base:        s.BaseName,
			Platform:    s.Platform,
			Location:    pbLocation(s.Location),
		})
	}
	return list, nil
}

// Lint answers the subrequest frontend.lint: which rules the target breaks, and all stages if o.Target is empty. It needs
// o.SourceMap. What keeps the Dockerfile from being lowered is part of the answer, not an error.
func Lint(ctx context.Context, src []byte, o Options) (*lint.LintResults, error) {
	if o.SourceMap == nil {
		return nil, errors.New("lint needs the source of the Dockerfile")
	}
	sm := *o.SourceMap
	if sm.Definition == nil {
		sm.Definition = &llb.Definition{}
	}
	results := &lint.LintResults{}
	source := results.AddSource(&sm)
	o.Warn = func(rule, description, url, text string, where []parser.Range) {
		results.AddWarning(rule, description, url, text, source, where)
	}
	o.allStages = o.Target == ""
	if _, _, err := lowerTarget(ctx, src, o); err != nil {
		results.Error = &lint.BuildError{Message: err.Error()}
		var l *parser.LocationError
		if errors.As(err, &l) {
			results.Error.Location.SourceIndex = int32(source)
			results.Error.Location.Ranges = pbRanges(merged(l.Locations))
		}
	}
	return results, nil
}

// LLB answers the subrequest frontend.convertllb: the definition of the target, op by op.
func LLB(ctx context.Context, src []byte, o Options) (*convertllb.Result, error) {
	r, err := Lower(ctx, src, o)
	if err != nil {
		return nil, err
	}
	def, err := r.State.Marshal(ctx)
	if err != nil {
		return nil, fmt.Errorf("marshal definition: %w", err)
	}
	out := &convertllb.Result{Def: make(map[digest.Digest]*pb.Op, len(def.Def)), Metadata: def.Metadata, Source: def.Source}
	for _, raw := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(raw); err != nil {
			return nil, fmt.Errorf("read back definition: %w", err)
		}
		out.Def[digest.FromBytes(raw)] = &op
	}
	return out, nil
}

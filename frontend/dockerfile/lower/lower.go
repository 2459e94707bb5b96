package lower

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/patternmatcher"
)

// scratch is the name of the base that is no image.
const scratch = "scratch"

// Result is a lowered Dockerfile.
type Result struct {
	State     llb.State                  // the root file system of the target; marshalling it needs no further option
	Image     dockerspec.DockerOCIImage  // its config; RootFS.DiffIDs and times are the exporter's to fill in
	BaseImage *dockerspec.DockerOCIImage // the config of the image that it is based on, nil for scratch
	Epoch     *time.Time                 // SOURCE_DATE_EPOCH, nil if not set
	Scan      ScanTargets                // what a software bill of materials shall cover
	NoCache   bool                       // the target, or something in Scan, must run although it is cached
}

// ScanTargets are the states that BUILDKIT_SBOM_SCAN_CONTEXT and BUILDKIT_SBOM_SCAN_STAGE ask to be scanned.
type ScanTargets struct {
	Core   llb.State            // the target
	Extras map[string]llb.State // by name of the stage; "context" is the build context
}

// Lower reads a Dockerfile and lowers the target stage and what it needs. An error that the Dockerfile is to blame for carries
// its place in it, as errdefs.Source if o.SourceMap is set.
func Lower(ctx context.Context, src []byte, o Options) (*Result, error) {
	l, target, err := lowerTarget(ctx, src, o)
	if err != nil {
		return nil, WithSource(err, o.SourceMap)
	}
	r := &Result{
		State:     target.state,
		Image:     target.image,
		BaseImage: target.baseImage,
		Epoch:     l.epoch,
		Scan:      ScanTargets{Core: target.state, Extras: map[string]llb.State{}},
		NoCache:   target.noCache,
	}
	if target.scanContext {
		r.Scan.Extras["context"] = l.context
	}
	for _, s := range l.graph.needed(target) {
		if s != target && s.scanStage {
			r.Scan.Extras[s.label] = s.state
			r.NoCache = r.NoCache || s.noCache
		}
	}
	return r, nil
}

// lowering is the work on one Dockerfile for one platform.
type lowering struct {
	o       Options
	src     *source
	lint    *linter.Linter
	expand  *expander
	args    *vars // what FROM may use, and ARG without a value
	epoch   *time.Time
	proxy   *llb.ProxyEnv
	outline outlineNotes // of the global arguments
	graph   *graph

	context     llb.State // the build context; what it is becomes known last
	contextUsed usedPaths
	ignored     *patternmatcher.PatternMatcher // nil: nothing is ignored
	group       string                         // begins the IDs of progress groups
}

// lowerTarget lowers the target stage, or every stage if there is no target and all are wanted.
func lowerTarget(ctx context.Context, src []byte, o Options) (*lowering, *stage, error) {
	l, err := newLowering(ctx, src, o.withDefaults())
	if err != nil {
		return nil, nil, err
	}
	if err := l.makeStages(l.src.stages); err != nil {
		return nil, nil, err
	}
	target, err := l.graph.target(l.o.Target)
	if err != nil {
		return nil, nil, err
	}
	if err := l.connect(); err != nil {
		return nil, nil, err
	}
	root := target
	if l.o.allStages {
		root = nil
	}
	stages, err := l.resolve(ctx, root)
	if err != nil {
		return nil, nil, err
	}
	late := &lateOutput{}
	l.context = llb.NewState(late)
	if err := l.lowerStages(ctx, stages); err != nil {
		return nil, nil, err
	}
	if err := l.lint.Error(); err != nil {
		return nil, nil, err
	}
	target.used.addAll() // whoever asked for the target sees all of it
	if target.scanContext {
		l.contextUsed.addAll()
	}
	if !l.contextUsed.none() {
		main, err := l.o.Contexts.Main(ctx, l.contextUsed.localOptions()...)
		if err != nil {
			return nil, nil, fmt.Errorf("load build context: %w", err)
		}
		late.Output = main.Output()
	}
	l.finish(target)
	return l, target, nil
}

// newLowering reads the Dockerfile and what goes before its stages.
func newLowering(ctx context.Context, src []byte, o Options) (*lowering, error) {
	check := o.Check
	if check == nil {
		text, _, _, _ := parser.ParseDirective("check", src)
		var err error
		if check, err = linter.ParseLintOptions(text); err != nil {
			return nil, fmt.Errorf("parse check directive %q: %w", text, err)
		}
	}
	config := *check // the caller's own is not ours to write to
	if config.Warn = o.Warn; config.Warn == nil {
		config.Warn = func(string, string, string, string, []parser.Range) {} // rules may be errors, too
	}
	l := &lowering{o: o, lint: linter.New(&config), graph: newGraph(), group: groupID(src, &o)}

	var err error
	if l.src, err = parse(src, l.lint); err != nil {
		return nil, err
	}
	l.checkStageNames()
	l.checkCasing()
	l.expand = newExpander(l.src.escape, l.o.maxOutput)
	l.args = predefined(&l.o, l.src)
	l.checkDefaultArgs()
	infos, err := expandGlobals(l.expand, l.args, l.src.globals, l.o.BuildArgs)
	if err != nil {
		return nil, err
	}
	l.outline = newOutlineNotes()
	l.outline.args = infos
	if err := l.setEpoch(ctx); err != nil {
		return nil, err
	}
	l.proxy = proxyEnv(l.o.BuildArgs)
	return l, nil
}

// loadIgnored asks which paths the build context leaves out, if any stage copies from it.
func (l *lowering) loadIgnored(ctx context.Context, stages []*stage) error {
	if !slices.ContainsFunc(stages, (*stage).copiesContext) {
		return nil
	}
	patterns, err := l.o.Contexts.Ignored(ctx)
	if err != nil {
		return fmt.Errorf("read ignored paths of build context: %w", err)
	}
	if len(patterns) == 0 {
		return nil
	}
	if l.ignored, err = patternmatcher.New(patterns); err != nil {
		return fmt.Errorf("ignored paths of build context: %w", err)
	}
	return nil
}

// lowerStages lowers stages in order.
func (l *lowering) lowerStages(ctx context.Context, stages []*stage) error {
	if err := l.loadIgnored(ctx, stages); err != nil {
		return err
	}
	for _, s := range stages { // before any step that reads from them
		if s.base == nil && s.ref != "" {
			l.fromImage(s)
		}
	}
	for _, s := range stages {
		if s.ready {
			continue
		}
		if err := l.lowerStage(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// finish completes what the target becomes.
func (l *lowering) finish(target *stage) {
	if len(l.o.Labels) > 0 {
		if target.image.Config.Labels == nil {
			target.image.Config.Labels = map[string]string{}
		}
		maps.Copy(target.image.Config.Labels, l.o.Labels)
	}
	l.o.setTarget(&target.image)
	target.state = target.state.SetMarshalDefaults(llb.Platform(l.o.target()), llb.WithCaps(*l.o.Caps))
}

// lateOutput stands in for an output that is known only when all that reads from it is.
type lateOutput struct{ llb.Output }

package lower

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// setEpoch reads SOURCE_DATE_EPOCH, a build argument or global ARG: seconds since 1970, "context" for the time of the build
// context, the name of a context or of a stage that does nothing but ADD one download or repository for that source's time. What
// it stands for is then the value of the argument.
// https://reproducible-builds.org/specs/source-date-epoch/
func (l *lowering) setEpoch(ctx context.Context) error {
	text, given := l.o.BuildArgs[epochArg]
	if !given {
		text, _ = l.args.Get(epochArg)
	}
	if !given && text == "" {
		return nil
	}
	var err error
	if n, perr := strconv.ParseInt(text, 10, 64); perr == nil {
		t := time.Unix(n, 0).UTC()
		l.epoch = &t
	} else if text != "" {
		if l.epoch, err = l.epochOf(ctx, text); err != nil {
			return at(err, l.outline.args[epochArg].location)
		}
	}
	l.replaceEpochArg()
	return nil
}

// replaceEpochArg makes the argument say seconds, or nothing if the source that it names does not know its time.
func (l *lowering) replaceEpochArg() {
	_, given := l.o.BuildArgs[epochArg]
	_, global := l.args.Get(epochArg)
	if l.epoch == nil {
		delete(l.o.BuildArgs, epochArg)
		l.args.remove(epochArg)
		return
	}
	text := strconv.FormatInt(l.epoch.Unix(), 10)
	if given {
		l.o.BuildArgs[epochArg] = text
	}
	if global {
		l.args.set(epochArg, text)
	}
}

// epochOf returns the time of the source called name, nil if it has none.
func (l *lowering) epochOf(ctx context.Context, name string) (*time.Time, error) {
	if name == "context" {
		st, err := l.o.Contexts.Main(ctx)
		if err != nil {
			return nil, err
		}
		return l.o.Contexts.SourceTime(ctx, *st, "[internal] resolve main build context metadata")
	}
	stage := l.stageDef(name)
	load, err := l.o.Contexts.Named(name, NamedOptions{})
	switch {
	case err != nil && stage == nil:
		return nil, fmt.Errorf("invalid %s: %s: %w", epochArg, name, err)
	case err == nil && load != nil:
		st, _, err := load(ctx)
		if err != nil {
			return nil, err
		}
		return l.o.Contexts.SourceTime(ctx, *st, "[internal] resolve "+epochArg+" named context "+name)
	case stage == nil:
		return nil, fmt.Errorf("invalid %s: %s (must be a number of seconds, \"context\", or the name of a context or stage)", epochArg, name)
	}
	st, err := l.epochStage(stage)
	if err != nil {
		return nil, at(err, stage.Location)
	}
	return l.o.Contexts.SourceTime(ctx, *st, "[internal] resolve "+epochArg+" source stage "+stage.Name)
}

func (l *lowering) stageDef(name string) *instructions.Stage {
	for i := range l.src.stages {
		if strings.EqualFold(l.src.stages[i].Name, name) {
			return &l.src.stages[i]
		}
	}
	return nil
}

var errEpochStage = errors.New(epochArg + " stage must contain exactly one remote ADD")

// epochStage returns the source that a stage consists of.
func (l *lowering) epochStage(s *instructions.Stage) (*llb.State, error) {
	env := l.args.clone()
	env.remove(epochArg) // it is what we are about to find out
	base, err := l.expand.word(s.BaseName, env)
	if err != nil {
		return nil, err
	}
	if base.Result != scratch {
		return nil, errors.New(epochArg + " stage must use FROM scratch")
	}
	var st *llb.State
	for _, c := range s.Commands {
		switch c := c.(type) {
		case *instructions.ArgCommand:
			err = l.epochArgs(c, env)
		case *instructions.AddCommand:
			if st != nil {
				return nil, errEpochStage
			}
			st, err = l.epochSource(c, env)
		default:
			err = fmt.Errorf("%s stage does not meet source-only requirements: unsupported %s instruction", epochArg, c.Name())
		}
		if err != nil {
			return nil, err
		}
	}
	if st == nil {
		return nil, errEpochStage
	}
	return st, nil
}

func (l *lowering) epochArgs(c *instructions.ArgCommand, env *vars) error {
	for _, a := range c.Args {
		if _, err := expandGlobal(l.expand, env, a, l.o.BuildArgs); err != nil {
			return err
		}
	}
	return nil
}

// epochSource returns the source of an ADD as the lowering of the stage would make it.
func (l *lowering) epochSource(c *instructions.AddCommand, env *vars) (*llb.State, error) {
	if len(c.SourceContents) != 0 || len(c.SourcePaths) != 1 {
		return nil, errEpochStage
	}
	src, err := l.expand.word(c.SourcePaths[0], env)
	if err != nil {
		return nil, err
	}
	checksum, err := l.expand.word(c.Checksum, env)
	if err != nil {
		return nil, err
	}
	r, err := parseRemote(src.Result)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errors.New(epochArg + " stage source must be a single HTTP(S) or Git ADD")
	}
	if r.git != nil {
		if err := r.apply(c.KeepGitDir, checksum.Result); err != nil {
			return nil, err
		}
		st := l.gitState(r.git)
		return &st, nil
	}
	sum, err := parseChecksum(checksum.Result)
	if err != nil {
		return nil, err
	}
	st := llb.HTTP(r.url, llb.Filename(fileName(r.url)), llb.Checksum(sum))
	return &st, nil
}

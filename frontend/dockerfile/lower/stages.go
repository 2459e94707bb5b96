package lower

import (
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// makeStages turns the stages that were parsed into ones with a known base.
func (l *lowering) makeStages(defs []instructions.Stage) error {
	for i, def := range defs {
		s, err := l.makeStage(def, i)
		if err != nil {
			return at(err, def.Location)
		}
		l.graph.add(s)
	}
	return nil
}

func (l *lowering) makeStage(def instructions.Stage, index int) (*stage, error) {
	s := newStage(def, index)
	if err := l.expand.spend(itemCost * (1 + len(l.outline.args))); err != nil {
		return nil, err
	}
	s.outline = l.outline.clone()
	r, err := l.expand.word(def.BaseName, l.args)
	if err != nil {
		return nil, err
	}
	l.checkFromArgs(s, r)
	if r.Result == "" {
		return nil, fmt.Errorf("base name (%s) should not be blank", def.BaseName)
	}
	s.def.BaseName = r.Result
	used := map[string]struct{}{}
	for k := range r.Matched {
		used[k] = struct{}{}
	}
	if def.Platform != "" {
		if err := l.expandPlatform(s, used); err != nil {
			return nil, err
		}
	}

	s.label = s.name()
	if def.Name != "" {
		s.replaced, err = l.o.namedContext(def.Name, NamedOptions{Platform: s.platform, Paths: s.used.localOptions})
		if err != nil || s.replaced != nil {
			s.def.Commands = nil
			return s, err
		}
	}

	s.noCache = l.o.Contexts.NoCache(def.Name)
	s.base = l.graph.byName(s.def.BaseName)
	if s.base != nil {
		s.used = s.base.used
		s.outline = s.base.outline.clone()
	}
	for k := range used {
		s.outline.used[k] = struct{}{}
	}
	if s.base == nil && s.def.BaseName != scratch {
		s.total++
	}
	for _, c := range def.Commands {
		if makesLayer(c) {
			s.total++
		}
	}
	return s, nil
}

package lower

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// addTriggers puts the ONBUILD instructions of the bases of stages before the stages' own and reports whether one of them reads
// from a stage or image that may not be resolved yet.
// https://docs.docker.com/reference/dockerfile/#onbuild
func (l *lowering) addTriggers(stages []*stage) (more bool, err error) {
	for _, s := range stages {
		if s.triggered || s.ready {
			continue
		}
		s.triggered = true
		var steps []step
		for _, expr := range s.triggers() {
			st, err := l.makeTrigger(s, expr)
			if err != nil {
				return false, parser.SetLocation(fmt.Errorf("ONBUILD %s: %w", expr, err), s.def.Location)
			}
			more = more || len(st.from) > 0
			if makesLayer(st.Command) {
				s.total++
			}
			steps = append(steps, st)
		}
		s.steps = append(steps, s.steps...)
		s.image.Config.OnBuild = nil
	}
	if more {
		// A trigger may name a stage that needs this one.
		return true, l.graph.checkCycles()
	}
	return false, nil
}

// triggers returns the instructions that the base of s left for whoever builds on it.
func (s *stage) triggers() []string {
	if s.base == nil {
		return s.image.Config.OnBuild
	}
	var out []string
	for _, st := range s.base.steps {
		if c, ok := st.Command.(*instructions.OnbuildCommand); ok {
			out = append(out, c.Expression)
		}
	}
	return out
}

// makeTrigger reads one instruction. Its place is the FROM instruction that brought it.
func (l *lowering) makeTrigger(s *stage, expr string) (step, error) {
	if err := checkText([]byte(expr)); err != nil {
		return step{}, err
	}
	tree, err := parser.Parse(strings.NewReader(expr))
	if err != nil {
		return step{}, err
	}
	if n := len(tree.AST.Children); n != 1 {
		return step{}, fmt.Errorf("a trigger must be one instruction, not %d", n)
	}
	node := tree.AST.Children[0]
	node.StartLine, node.EndLine = lineSpan(s.def.Location)
	parsed, err := instructions.ParseInstructionWithLinter(node, silent())
	if err != nil {
		return step{}, err
	}
	c, ok := parsed.(instructions.Command)
	if !ok {
		return step{}, fmt.Errorf("%s cannot be a trigger", node.Value)
	}
	st, err := l.makeStep(c)
	st.trigger = true
	return st, err
}

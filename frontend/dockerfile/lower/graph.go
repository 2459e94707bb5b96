package lower

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// graph holds the stages of a Dockerfile and the images and contexts that its steps read from.
type graph struct {
	stages    []*stage // in the order of the Dockerfile
	externals []*stage // in the order in which they are named first
	names     map[string]*stage
	outside   map[string]*stage
}

func newGraph() *graph {
	return &graph{names: map[string]*stage{}, outside: map[string]*stage{}}
}

// add makes a stage known; a later one of the same name hides an earlier one.
func (g *graph) add(s *stage) {
	g.stages = append(g.stages, s)
	if s.def.Name != "" {
		g.names[strings.ToLower(s.def.Name)] = s
	}
}

// byName returns the stage called name, nil if there is none.
func (g *graph) byName(name string) *stage { return g.names[strings.ToLower(name)] }

// labels are the names of all stages, for suggestions.
func (g *graph) labels() []string {
	var out []string
	for _, s := range g.stages {
		if s.label != "" {
			out = append(out, s.label)
		}
	}
	return out
}

// target finds the stage to build.
func (g *graph) target(name string) (*stage, error) {
	if name == "" {
		return g.stages[len(g.stages)-1], nil
	}
	if s := g.byName(name); s != nil {
		return s, nil
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(g.stages) {
		return g.stages[i], nil
	}
	return nil, suggested(fmt.Errorf("target stage %q could not be found", name), name, g.labels())
}

// connect finds the stages that the steps of every stage read from.
func (l *lowering) connect() error {
	for _, s := range l.graph.stages {
		s.steps = make([]step, 0, len(s.def.Commands))
		for _, c := range s.def.Commands {
			st, err := l.makeStep(c)
			if err != nil {
				return at(err, c.Location())
			}
			s.steps = append(s.steps, st)
		}
	}
	if err := l.graph.checkCycles(); err != nil {
		return err
	}
	if len(l.graph.stages) == 1 && !l.graph.stages[0].reads() {
		l.graph.stages[0].label = ""
	}
	return nil
}

// reads reports whether a step may read from anything but the build context.
func (s *stage) reads() bool {
	for _, st := range s.steps {
		if len(st.from) > 0 {
			return true
		}
	}
	return false
}

func (l *lowering) makeStep(c instructions.Command) (step, error) {
	st := step{Command: c}
	switch c := c.(type) {
	case *instructions.CopyCommand:
		if c.From == "" {
			return st, nil
		}
		from, err := l.copySource(c)
		st.from = []*stage{from}
		return st, err
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			var from *stage
			if m.From != "" {
				from = l.graph.source(m.From, c)
			}
			st.from = append(st.from, from)
		}
		return st, nil
	default:
		return st, nil
	}
}

// copySource finds what COPY --from names: a stage by number or name, a context, an image.
func (l *lowering) copySource(c *instructions.CopyCommand) (*stage, error) {
	r, err := shell.NewLex(l.src.escape).ProcessWordWithMatches(c.From, newVars())
	if err != nil {
		return nil, err
	}
	if r.Result != c.From {
		return nil, errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
	}
	if i, err := strconv.Atoi(c.From); err == nil {
		if i < 0 || i >= len(l.graph.stages) {
			return nil, fmt.Errorf("invalid stage index %d: the Dockerfile has stages 0 to %d", i, len(l.graph.stages)-1)
		}
		return l.graph.stages[i], nil
	}
	return l.graph.source(c.From, c), nil
}

// source returns the stage called name or what stands for the image or context of that name.
func (g *graph) source(name string, c instructions.Command) *stage {
	if s := g.byName(name); s != nil {
		return s
	}
	if s := g.outside[name]; s != nil {
		s.named = append(s.named, c.Location())
		return s
	}
	s := newStage(instructions.Stage{BaseName: name, Location: c.Location()}, -1)
	s.named = [][]parser.Range{c.Location()}
	g.outside[name] = s
	g.externals = append(g.externals, s)
	return s
}

// needed returns target and all that it needs, in the order of the Dockerfile, what is outside of it last. Without a target it is
// everything.
func (g *graph) needed(target *stage) []*stage {
	reached := map[*stage]bool{}
	var reach func(*stage)
	reach = func(s *stage) {
		if reached[s] {
			return
		}
		reached[s] = true
		for _, d := range s.needs() {
			reach(d)
		}
	}
	if target != nil {
		reach(target)
	}
	var out []*stage
	for _, list := range [][]*stage{g.stages, g.externals} {
		for _, s := range list {
			if target == nil || reached[s] {
				out = append(out, s)
			}
		}
	}
	return out
}

// checkCycles refuses stages that need each other.
func (g *graph) checkCycles() error {
	const walking, done = 1, 2
	seen := map[*stage]int{}
	var path []*stage
	var visit func(*stage) error
	visit = func(s *stage) error {
		switch seen[s] {
		case done:
			return nil
		case walking:
			return cycleError(path, s)
		}
		seen[s] = walking
		path = append(path, s)
		for _, d := range s.needs() {
			if err := visit(d); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		seen[s] = done
		return nil
	}
	for _, s := range g.stages {
		if err := visit(s); err != nil {
			return err
		}
	}
	return nil
}

// cycleError tells the way from a stage back to itself; path ends before that stage comes again.
func cycleError(path []*stage, again *stage) error {
	for path[0] != again {
		path = path[1:]
	}
	var way strings.Builder
	for _, s := range path {
		way.WriteString(s.name() + " -> ")
	}
	err := fmt.Errorf("circular dependency detected on stage: %s (%s%s)", again.name(), way.String(), again.name())
	for i, s := range path {
		next := again
		if i+1 < len(path) {
			next = path[i+1]
		}
		err = parser.WithLocation(err, s.whereNeeded(next))
	}
	return err
}

// whereNeeded is the place of the instruction for which s needs another stage.
func (s *stage) whereNeeded(other *stage) []parser.Range {
	for _, st := range s.steps {
		for _, d := range st.from {
			if d == other {
				return st.Location()
			}
		}
	}
	return s.def.Location
}

package lower

import (
	"fmt"
	"slices"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// stage is a stage of a Dockerfile, or an image or context that --from names and that is treated as a stage without steps.
//
// Its life: made by stages.go (name, base, steps), joined to others by graph.go, its base found by resolve.go, triggers of the base
// added by onbuild.go, then lowered step by step in the order of the Dockerfile.
type stage struct {
	def      instructions.Stage // with BaseName expanded
	index    int                // in the Dockerfile, -1 for an external one
	label    string             // in the names of vertices; "" if the Dockerfile has nothing but this stage
	base     *stage             // nil if the base is no stage
	named    [][]parser.Range   // of an external one: all places that name it
	replaced ContextLoader      // the named context that takes the place of the whole stage
	steps    []step
	noCache  bool

	ref       string // of the base image, with its digest
	implicit  bool   // nobody named the platform
	resolved  bool   // its base has been asked for
	triggered bool   // the triggers of its base are among the steps
	ready     bool   // state and image are final

	platform  *ocispecs.Platform
	image     dockerspec.DockerOCIImage
	baseImage *dockerspec.DockerOCIImage
	state     llb.State
	env       *vars                               // what the state's environment is
	dir       string                              // and its working directory
	args      []instructions.KeyValuePairOptional // by ARG, of base stages too
	used      *usedPaths                          // what is read of it; shared with its base, whose files they are too

	number, total int  // of vertices, for their names
	inTrigger     bool // the current vertex comes from a trigger
	seen          seenOnce
	outline       outlineNotes
	scanStage     bool
	scanContext   bool
}

// step is an instruction of a stage with the stages that it reads from: one for COPY, one per mount for RUN, where nil is the
// build context or nothing.
type step struct {
	instructions.Command
	from    []*stage
	trigger bool // came with the base image by ONBUILD
}

func newStage(def instructions.Stage, index int) *stage {
	return &stage{def: def, index: index, used: &usedPaths{}, outline: newOutlineNotes()}
}

// external reports whether the stage stands for an image or context that only --from names.
func (s *stage) external() bool { return s.index < 0 }

// name is what messages call the stage by.
func (s *stage) name() string {
	switch {
	case s.external():
		return s.def.BaseName
	case s.def.Name != "":
		return s.def.Name
	default:
		return fmt.Sprintf("stage-%d", s.index)
	}
}

// needs returns the stages that s needs, each once: its base and those that its steps read from.
func (s *stage) needs() []*stage {
	var out []*stage
	have := map[*stage]bool{nil: true}
	add := func(d *stage) {
		if !have[d] {
			have[d] = true
			out = append(out, d)
		}
	}
	add(s.base)
	for _, st := range s.steps {
		for _, d := range st.from {
			add(d)
		}
	}
	return out
}

// copiesContext reports whether a step of s copies from the build context.
func (s *stage) copiesContext() bool {
	return slices.ContainsFunc(s.steps, func(st step) bool {
		_, isAdd := st.Command.(*instructions.AddCommand)
		_, isCopy := st.Command.(*instructions.CopyCommand)
		return isAdd || isCopy && len(st.from) == 0
	})
}

// inherit makes s begin where its base ends.
func (s *stage) inherit() {
	b := s.base
	if b == nil {
		return
	}
	s.state = b.state
	s.platform = b.platform
	s.image = cloneImage(b.image)
	s.image.Config.OnBuild = nil // they are triggered by s, not handed on
	s.baseImage = cloneImagePtr(b.baseImage)
	if b.env != nil { // a context has none until it is read
		s.env, s.dir = b.env.clone(), b.dir
	}
	s.args = append([]instructions.KeyValuePairOptional(nil), b.args...)
	s.seen.workdir = b.seen.workdir
	s.used = b.used
}

// weight is about how many bytes a stage has that it shares with no other.
func (s *stage) weight() int {
	c := &s.image.Config
	items := len(s.image.History) + len(s.args) + len(c.Env) + len(c.Labels) + len(c.ExposedPorts) + len(c.Volumes)
	if s.env != nil {
		items += s.env.size/itemCost + len(s.env.keys)
	}
	return items * itemCost
}

// makesLayer reports whether an instruction is a vertex of its own.
func makesLayer(c instructions.Command) bool {
	switch c.(type) {
	case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
		return true
	default:
		return false
	}
}

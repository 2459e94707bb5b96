package explain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

const (
	// maxSteps is how many steps of a build are remembered; a larger one is not
	// compared with.
	maxSteps = 2000
	// maxAge is for how many builds a step is remembered that none of them had:
	// builds that fail do not come to all of their steps.
	maxAge = 8
	// formatVersion is that of what is remembered; another one is forgotten.
	formatVersion = 1
)

// lastBuild is what is remembered of the last build of a target.
type lastBuild struct {
	Version int    `json:"version"`
	Steps   []step `json:"steps"`

	by map[digest.Digest]*step
}

// step is one step of a build, as it was asked for.
type step struct {
	Digest digest.Digest `json:"digest"`
	Name   string        `json:"name"`
	// Place is where in its Dockerfile the step stands, see place.
	Place  string  `json:"place"`
	Parts  []part  `json:"parts"`
	Inputs []input `json:"inputs,omitempty"`
	// Trees are the outputs; nil if they are not known.
	Trees []cache.Tree `json:"trees,omitempty"`
	// Unfinished says that it failed, or was cancelled.
	Unfinished bool `json:"unfinished,omitempty"`
	// Age counts the builds since that did not have it.
	Age int `json:"age,omitempty"`
}

// input is what a step saw of another one.
type input struct {
	Step     digest.Digest  `json:"step"`
	Output   int            `json:"output,omitempty"`
	Selector cache.Selector `json:"selector"`
	// Content is the digest of what the selector selects; zero if it is not known.
	Content cache.Key `json:"content"`
}

// describe returns a step that a build knows, without its trees.
func describe(v *solver.Vertex, o *llb.Op, contents []cache.Key) step {
	s := step{Digest: v.Digest, Name: v.Name, Place: place(v.Name, o), Parts: parts(o)}
	for i, e := range v.Inputs {
		in := input{Step: e.Vertex.Digest, Output: e.Output, Selector: o.Selector(i)}
		if i < len(contents) {
			in.Content = contents[i]
		}
		s.Inputs = append(s.Inputs, in)
	}
	return s
}

// place names a step across builds: its number within its stage, as in
// "build 2", without the number of steps and the command, so that a step whose
// command changed is still the same step. COPY --link makes two steps with one
// number, of different kinds.
func place(name string, o *llb.Op) string {
	in, _, ok := strings.Cut(strings.TrimPrefix(name, "["), "]")
	if !ok || !strings.HasPrefix(name, "[") || internal(name) {
		return kind(o) + " " + name
	}
	if slash := strings.LastIndexByte(in, '/'); slash >= 0 {
		in = in[:slash]
	}
	return kind(o) + " " + strings.Join(strings.Fields(in), " ")
}

// internal tells whether a step is none of the Dockerfile's.
func internal(name string) bool { return strings.HasPrefix(name, "[internal]") }

func kind(o *llb.Op) string {
	switch o.Def.Op.(type) {
	case *pb.Op_Source:
		return "source"
	case *pb.Op_Exec:
		return "exec"
	case *pb.Op_File:
		return "file"
	case *pb.Op_Merge:
		return "merge"
	case *pb.Op_Diff:
		return "diff"
	default:
		return "other"
	}
}

// stage is the part of a place that the steps of a stage share.
func (s *step) stage() string {
	if i := strings.LastIndexByte(s.Place, ' '); i >= 0 {
		return s.Place[:i]
	}
	return s.Place
}

// text is what the instruction says, whatever its variables are: two steps with
// one text are the same instruction.
func (s *step) text() string {
	var b strings.Builder
	kind, _, _ := strings.Cut(s.Place, " ")
	b.WriteString(kind)
	for _, p := range s.Parts {
		if p.Kind == explainv1.Kind_KIND_COMMAND || p.Kind == explainv1.Kind_KIND_SOURCE && p.Name != partPin {
			b.WriteString("\n" + p.Value + p.Sum)
		}
	}
	return b.String()
}

func decodeLast(b []byte) (*lastBuild, error) {
	var l lastBuild
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("read what is known of the last build: %w", err)
	}
	if l.Version != formatVersion {
		return nil, fmt.Errorf("what is known of the last build has version %d", l.Version)
	}
	l.index()
	return &l, nil
}

func (l *lastBuild) encode() ([]byte, error) {
	l.Version = formatVersion
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("remember build: %w", err)
	}
	return b, nil
}

func (l *lastBuild) index() {
	l.by = make(map[digest.Digest]*step, len(l.Steps))
	for i := range l.Steps {
		l.by[l.Steps[i].Digest] = &l.Steps[i]
	}
}

// over returns what is to be remembered after a build of steps: those, and of
// the build before what has no counterpart among them.
func (l *lastBuild) over(steps []step, counterparts map[digest.Digest]*step) *lastBuild {
	out := &lastBuild{Steps: steps}
	if l == nil {
		return out
	}
	gone := map[*step]bool{}
	for _, s := range counterparts {
		gone[s] = true
	}
	for i := range l.Steps {
		s := l.Steps[i]
		if s.Age++; !gone[&l.Steps[i]] && s.Age <= maxAge && len(out.Steps) < maxSteps {
			out.Steps = append(out.Steps, s)
		}
	}
	return out
}

// match finds for each of the steps of a build its counterpart in the last one:
// the same instruction at the same place, else the same instruction elsewhere in
// the stage or the build, for steps that were inserted or moved, else what has
// taken its place, for an instruction that was edited.
func (l *lastBuild) match(now []step) map[digest.Digest]*step {
	out := make(map[digest.Digest]*step, len(now))
	if l == nil {
		return out
	}
	taken := make(map[*step]bool, len(l.Steps))
	pass := func(name func(*step) string) {
		old := map[string][]*step{}
		for i := range l.Steps {
			if s := &l.Steps[i]; !taken[s] {
				old[name(s)] = append(old[name(s)], s)
			}
		}
		for i := range now {
			s := &now[i]
			if out[s.Digest] != nil {
				continue
			}
			n := name(s)
			if len(old[n]) > 0 {
				out[s.Digest], taken[old[n][0]] = old[n][0], true
				old[n] = old[n][1:]
			}
		}
	}
	texts := map[*step]string{}
	text := func(s *step) string {
		if _, ok := texts[s]; !ok {
			texts[s] = s.text()
		}
		return texts[s]
	}
	pass(func(s *step) string { return s.Place + "\n" + text(s) })
	pass(func(s *step) string { return s.stage() + "\n" + text(s) })
	pass(text)
	l.matchEdited(now, out, taken)
	pass(func(s *step) string { return s.Place })
	return out
}

// maxEdited bounds the pairs of steps that are compared for likeness.
const maxEdited = 64

// matchEdited finds the counterparts of instructions that were edited where others
// have moved them from their places: those most alike of one stage.
func (l *lastBuild) matchEdited(now []step, out map[digest.Digest]*step, taken map[*step]bool) {
	type pair struct {
		now, old *step
		alike    float64
	}
	var pairs []pair
	news, olds := 0, 0
	for i := range now {
		s := &now[i]
		if out[s.Digest] != nil || news == maxEdited {
			continue
		}
		news++
		olds = 0
		for j := range l.Steps {
			o := &l.Steps[j]
			if taken[o] || o.stage() != s.stage() || olds == maxEdited {
				continue
			}
			olds++
			if a := alike(s.text(), o.text()); a >= 0.5 {
				pairs = append(pairs, pair{s, o, a})
			}
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(b.alike, a.alike) })
	for _, p := range pairs {
		if out[p.now.Digest] == nil && !taken[p.old] {
			out[p.now.Digest], taken[p.old] = p.old, true
		}
	}
}

// alike tells how much of two texts is the same, from 0 to 1, as far as their
// beginnings and ends show it.
func alike(a, b string) float64 {
	_, a, _ = strings.Cut(a, "\n") // without the kind
	_, b, _ = strings.Cut(b, "\n")
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b) == 0 {
		return 0
	}
	n := 0
	for n < len(a) && a[n] == b[n] {
		n++
	}
	m := 0
	for m < len(a)-n && a[len(a)-1-m] == b[len(b)-1-m] {
		m++
	}
	return float64(n+m) / float64(len(b))
}

// resembles tells whether a build is of what the last one was of: they have an
// instruction in common, or none can be compared.
func (l *lastBuild) resembles(now []step) bool {
	have := map[string]bool{}
	for i := range l.Steps {
		have[l.Steps[i].text()] = true
	}
	comparable := slices.DeleteFunc(slices.Clone(now), func(s step) bool { return internal(s.Name) })
	return len(comparable) == 0 || slices.ContainsFunc(comparable, func(s step) bool { return have[s.text()] })
}

package why

import (
	"strings"
	"time"

	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
)

// Build is a build as it is shown.
type Build struct {
	Build     string
	Created   time.Time
	Completed time.Time
	Error     string `json:",omitempty"`
	Steps     []Step
}

// Step is one step. State is ran, cached, failed or canceled.
type Step struct {
	Number    int32
	Name      string
	Digest    string
	Locations []Location `json:",omitempty"`
	State     string
	Internal  bool    `json:",omitempty"`
	Why       string  `json:",omitempty"`
	Causes    []Cause `json:",omitempty"`
	CutOff    bool    `json:",omitempty"`
	Started   time.Time
	Duration  time.Duration
}

// Location is where a step stands in a file.
type Location struct {
	File                string
	FirstLine, LastLine int32
}

// Cause is a reason to run. Kind is the API's name in lower case, such as files.
type Cause struct {
	Kind   string
	Text   string
	Name   string `json:",omitempty"`
	Old    string `json:",omitempty"`
	New    string `json:",omitempty"`
	Hidden bool   `json:",omitempty"`
	Files  []File `json:",omitempty"`
	More   int32  `json:",omitempty"`
	Step   string `json:",omitempty"`
}

// File is one that differs. Change is added, removed or changed.
type File struct {
	Path   string
	Change string
	How    []string `json:",omitempty"`
}

func build(r *explainv1.WhyResponse) Build {
	b := Build{Build: r.Build, Created: stamp(r.CreatedNs), Completed: stamp(r.CompletedNs), Error: r.Error, Steps: []Step{}}
	for _, s := range r.Steps {
		x := Step{
			Number: s.Number, Name: s.Name, Digest: s.Digest, State: word(s.State.String(), "STATE_"), Internal: s.Internal,
			Why: s.Why, CutOff: s.CutOff, Started: stamp(s.StartedNs), Duration: time.Duration(s.DurationNs),
		}
		for _, l := range s.Locations {
			x.Locations = append(x.Locations, Location{l.File, l.FirstLine, l.LastLine})
		}
		for _, c := range s.Causes {
			x.Causes = append(x.Causes, cause(c))
		}
		b.Steps = append(b.Steps, x)
	}
	return b
}

func cause(c *explainv1.Cause) Cause {
	x := Cause{
		Kind: word(c.Kind.String(), "KIND_"), Text: c.Text, Name: c.Name, Old: c.Old, New: c.New, Hidden: c.Hidden, More: c.More, Step: c.Step,
	}
	for _, f := range c.Files {
		x.Files = append(x.Files, File{Path: f.Path, Change: word(f.Change.String(), "CHANGE_"), How: f.How})
	}
	return x
}

// word is the name of an enumeration's value as people write it.
func word(name, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", " ")
}

func stamp(ns int64) time.Time { return time.Unix(0, ns).UTC() }

package progress

import (
	"bytes"
	"fmt"
	"io"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// maxTail is how much of a step's log is kept in case it fails, in bytes.
const maxTail = 64 << 10

// Failures keeps what failed steps wrote, for displays that do not show it.
type Failures struct {
	steps map[digest.Digest]*step
	order []digest.Digest
}

type step struct {
	name, err string
	log       []byte
}

// Add takes an event. It is to be called by one goroutine.
func (f *Failures) Add(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		st := f.step(v.Digest)
		st.name, st.err = v.Name, v.Error
	}
	for _, l := range s.Logs {
		st := f.step(l.Vertex)
		st.log = append(st.log, l.Data...)
		if n := len(st.log); n > 2*maxTail {
			st.log = append([]byte(nil), st.log[n-maxTail:]...)
		}
	}
}

func (f *Failures) step(d digest.Digest) *step {
	if f.steps == nil {
		f.steps = map[digest.Digest]*step{}
	}
	st, ok := f.steps[d]
	if !ok {
		st = &step{}
		f.steps[d], f.order = st, append(f.order, d)
	}
	return st
}

// Print writes the logs of failed steps, in the form of the other displays.
func (f *Failures) Print(w io.Writer) {
	for _, d := range f.order {
		if st := f.steps[d]; st.err != "" && len(st.log) > 0 {
			fmt.Fprintf(w, "------\n > %s:\n%s\n------\n", st.name, bytes.TrimRight(st.log, "\n"))
		}
	}
}

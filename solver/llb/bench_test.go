package llb

import (
	"fmt"
	"testing"

	"github.com/buildd/buildd/solver"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
)

// definition is a chain of n steps that each see a file of a side chain too.
func definition(b *testing.B, n int) *pb.Definition {
	b.Helper()
	state := llb.Image("busybox")
	for i := range n / 2 {
		side := llb.Scratch().File(llb.Mkfile("/conf", 0o644, fmt.Append(nil, i)))
		state = state.Run(llb.Shlex(fmt.Sprint("make step", i)), llb.AddMount("/in", side, llb.SourcePath("/conf"), llb.Readonly)).Root()
	}
	def, err := state.Marshal(b.Context(), llb.LinuxAmd64)
	if err != nil {
		b.Fatal(err)
	}
	return def.ToPB()
}

// quiet is progress that nobody watches.
type quiet struct{ solver.Events }

func (quiet) Vertex(*solver.Vertex, solver.State) {}

// BenchmarkLoad checks a definition and derives each op's part of its key, which
// every build does, cached or not.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 1000} {
		def := definition(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				build := solver.New(solver.Config{}).NewBuild(solver.BuildConfig{ID: "bench", Events: quiet{}})
				if _, err := Load(def, Options{Build: build}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/step")
		})
	}
}

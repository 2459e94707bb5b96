package solver

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/buildd/buildd/cache"
)

// elsewhere is an Import in memory.
type elsewhere struct {
	results  map[cache.Key]cache.Record
	contents map[string]cache.Key
}

func (e *elsewhere) Result(_ context.Context, k cache.Key) (cache.Record, error) {
	r, ok := e.results[k]
	if !ok {
		return r, cache.ErrNotFound
	}
	return r, nil
}

func (e *elsewhere) Content(_ context.Context, k cache.Key, output int, s cache.Selector) (cache.Key, error) {
	c, ok := e.contents[fmt.Sprint(k, output, s)]
	if !ok {
		return c, cache.ErrNotFound
	}
	return c, nil
}

// export makes an Import of what a build knows.
func export(t *testing.T, b *Build, v *Vertex) *elsewhere {
	t.Helper()
	e := &elsewhere{results: map[cache.Key]cache.Record{}, contents: map[string]cache.Key{}}
	steps, err := b.Steps(t.Context(), Edge{Vertex: v})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if s.Record != nil {
			e.results[s.Key] = *s.Record
		}
		for _, c := range s.Seen {
			e.contents[fmt.Sprint(s.Key, c.Output, c.Selector)] = c.Digest
		}
	}
	return e
}

// stages is a build like most are: what it is built from, tools, sources, and a
// part of the outcome copied over.
func stages(src, tools string) *Vertex {
	base := vtx("base", 0).makes("base=base")
	tool := vtx("tools", 0, base).sees("/").makes(cache.Tree(tools))
	in := vtx("src-"+src, 0).makes(cache.Tree("src=" + src))
	cp := vtx("cp", 0, tool, in).sees("/").makes(cache.Tree("cp=" + tools + src))
	cp.Op.(*fakeOp).sel[1] = "/src"
	build := vtx("build", 0, cp).sees("/").makes(cache.Tree("build=" + tools + src))
	end := vtx("end", 0, vtx("base2", 0).makes("base2=base2"), build).sees("/").makes(cache.Tree("end=" + tools + src))
	end.Op.(*fakeOp).sel[1] = "/out"
	return end
}

func importing(t *testing.T, w *world, s *Solver, id string, v *Vertex, from ...*elsewhere) *Build {
	t.Helper()
	b, _ := w.build(s, id)
	for _, e := range from {
		b.Import(e)
	}
	solve(t, b, v)
	return b
}

func sorted(s string) string {
	f := strings.Fields(s)
	slices.Sort(f)
	return strings.Join(f, " ")
}

func TestImportedBuildRunsNothing(t *testing.T) {
	s, w := newWorld(4)
	g := stages("1", "t=1")
	e := export(t, importing(t, w, s, "1", g), g)

	s, w = newWorld(4)
	importing(t, w, s, "2", stages("1", "t=1"), e)
	if ran := w.ran(); ran != "" || w.hashed > 0 {
		t.Errorf("ran %q, hashed %d times", ran, w.hashed)
	}
	if len(w.results) > 0 || len(w.contents) > 0 {
		t.Errorf("an import entered the solver's cache: %v, %v", w.results, w.contents)
	}

	t.Run("changed", func(t *testing.T) {
		s, w := newWorld(4)
		g := stages("2", "t=1")
		b := importing(t, w, s, "3", g, e)
		if ran := sorted(w.ran()); ran != "build cp end src-2" {
			t.Errorf("ran %q", ran)
		}
		// What is exported then has what was imported, too.
		e2 := export(t, b, g)
		s, w = newWorld(4)
		importing(t, w, s, "4", stages("2", "t=1"), e2)
		if ran := w.ran(); ran != "" || w.hashed > 0 {
			t.Errorf("from the second export on: ran %q, hashed %d times", ran, w.hashed)
		}
		s, w = newWorld(4)
		importing(t, w, s, "5", stages("3", "t=1"), e2)
		if ran := sorted(w.ran()); ran != "build cp end src-3" {
			t.Errorf("changed, from the second export on: ran %q", ran)
		}
	})
}

// A cache is of use although a step came out differently where it was made.
func TestImportOfOtherOutcomes(t *testing.T) {
	s, w := newWorld(4)
	g := stages("2", "t=theirs")
	e := export(t, importing(t, w, s, "1", g), g)

	s, w = newWorld(4)
	importing(t, w, s, "2", stages("1", "t=ours"))
	w.ran()
	b := importing(t, w, s, "3", stages("2", "t=ours"), e)
	if ran := sorted(w.ran()); ran != "" {
		t.Errorf("ran %q", ran)
	}
	end, err := b.Solve(t.Context(), Edge{Vertex: b.Intern(stages("2", "t=ours"))})
	if err != nil || end != "end=t=theirs2" {
		t.Errorf("%s, %v", end, err)
	}
}

// What a cache lies about must not last longer than the build that imports it.
func TestImportThatLies(t *testing.T) {
	s, w := newWorld(4)
	g := stages("1", "t=1")
	e := export(t, importing(t, w, s, "1", g), g)
	for k, r := range e.results {
		for i, tr := range r.Trees {
			_, content, _ := strings.Cut(string(tr), "=")
			r.Trees[i] = cache.Tree("evil=not " + content)
		}
		e.results[k] = r
	}

	s, w = newWorld(4)
	importing(t, w, s, "2", stages("1", "t=1"), e)
	importing(t, w, s, "3", stages("2", "t=1"), e)
	w.ran()
	for i, src := range []string{"1", "2"} {
		clean := stages(src, "t=1")
		b := importing(t, w, s, fmt.Sprint("clean", i), clean)
		got, err := b.Solve(t.Context(), Edge{Vertex: clean})
		if err != nil || strings.Contains(string(got), "evil") {
			t.Errorf("%s, %v", got, err)
		}
	}
	for _, r := range w.results {
		if strings.Contains(fmt.Sprint(r.Trees), "evil") {
			t.Errorf("the solver's cache has %v", r.Trees)
		}
	}
}

func TestImportsOfRandomGraphs(t *testing.T) {
	for seed := range 200 {
		g := func() *Vertex {
			v := randomGraph(rand.New(rand.NewSource(int64(seed))))
			var quick func(*Vertex)
			quick = func(v *Vertex) {
				v.Op.(*fakeOp).took, v.NoCache = 0, false
				for _, in := range v.Inputs {
					quick(in.Vertex)
				}
			}
			quick(v)
			return v
		}
		s, w := newWorld(0)
		v := g()
		b := importing(t, w, s, "1", v)
		first := solve(t, b, v)
		e := export(t, b, v)
		s, w = newWorld(0)
		if got := solve(t, importing(t, w, s, "2", g(), e), v); got != first || w.ran() != "" || w.hashed > 0 {
			t.Fatalf("seed %d: got %s, not %s", seed, got, first)
		}
	}
}

package solver

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

func TestCachedBuildRunsNothing(t *testing.T) {
	s, w := newWorld(4)
	g := func() *Vertex { a := vtx("a", 0); return vtx("c", 0, vtx("b", 0, a), a) }
	b, _ := w.build(s, "1")
	solve(t, b, g())
	if got := w.ran(); got != "a b c" {
		t.Fatal(got)
	}
	b, st := w.build(s, "2")
	solve(t, b, g())
	if got := w.ran(); got != "" {
		t.Fatal(got)
	}
	for _, n := range []string{"a", "b", "c"} {
		if !st.last(n).Cached {
			t.Errorf("%s is not said to be cached", n)
		}
	}
}

func TestEarlyCutoff(t *testing.T) {
	s, w := newWorld(4)
	mk := func(src string) *Vertex {
		build := vtx("build", 0, vtx(src, 0)).makes(cache.Tree(src + "=binary"))
		return vtx("run", 0, vtx("copy", 0, build).sees("/bin").makes("copied=binary"))
	}
	for i, c := range []struct{ src, want string }{{"src1", "src1 build copy run"}, {"src2", "src2 build"}, {"src2", ""}} {
		b, _ := w.build(s, fmt.Sprint(i))
		n := w.hashed
		solve(t, b, mk(c.src))
		if got := w.ran(); got != c.want {
			t.Fatalf("build %d ran %q, want %q", i, got, c.want)
		}
		if c.want == "" && w.hashed != n {
			t.Error("a cached build hashed files")
		}
	}
}

func TestSharedAcrossBuilds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWorld(4)
		var eg errgroup.Group
		var stories []*story
		for i := range 10 {
			b, st := w.build(s, fmt.Sprint(i))
			stories = append(stories, st)
			eg.Go(func() error {
				time.Sleep(time.Duration(i) * time.Second)
				_, err := b.Solve(t.Context(), Edge{Vertex: vtx("b", time.Minute, vtx("a", time.Minute))})
				return err
			})
		}
		if err := eg.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := w.ran(); got != "a b" {
			t.Fatal(got)
		}
		if w.waiters["b"] != 10 {
			t.Fatal(w.waiters)
		}
		for i, st := range stories {
			if !slices.Equal(st.logs, []string{"begin a", "begin b"}) {
				t.Errorf("build %d was told %q", i, st.logs)
			}
			if l := st.last("b"); l.Cached || l.Completed.Sub(l.Started) != time.Minute {
				t.Errorf("build %d saw b as %+v", i, l)
			}
		}
	})
}

func TestCancelOnlyWhenLastLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWorld(4)
		run := func(ctx context.Context, id, name string) error {
			b, _ := w.build(s, id)
			_, err := b.Solve(ctx, Edge{Vertex: vtx(name, time.Hour)})
			return err
		}
		c1, stop1 := context.WithCancel(t.Context())
		var eg errgroup.Group
		eg.Go(func() error {
			if err := run(c1, "1", "a"); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("1: %v", err)
			}
			return nil
		})
		eg.Go(func() error { return run(t.Context(), "2", "a") })
		time.Sleep(time.Minute)
		stop1()
		synctest.Wait()
		if got := w.ran(); got != "" {
			t.Fatal(got)
		}
		if err := eg.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := w.ran(); got != "a" {
			t.Fatal(got)
		}
		c3, stop3 := context.WithTimeout(t.Context(), time.Minute)
		defer stop3()
		if err := run(c3, "3", "z"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if got := w.ran(); got != "z:cancelled" {
			t.Fatal(got)
		}
		if err := run(t.Context(), "4", "z"); err != nil || w.ran() != "z" {
			t.Fatal("a cancelled step cannot be run again", err)
		}
	})
}

// Two vertices, one an input of the other, get the same key; the result is lost.
func TestVertexWithKeyOfItsOwnInput(t *testing.T) {
	s, w := newWorld(4)
	g := func() *Vertex {
		cp := func(in *Vertex) *Vertex { return vtx("cp", 0, in).sees("/").makes("c=x") }
		return cp(cp(vtx("src", 0).makes("s=x")))
	}
	for i := range 2 {
		b, _ := w.build(s, fmt.Sprint(i))
		solve(t, b, g())
		if got := w.ran(); got != "src cp" {
			t.Fatal(got)
		}
		w.evict()
	}
}

// Build A has one -> two, build B has two -> one, with the same two keys.
func TestCrosswiseBuildsDoNotDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWorld(4)
		op := func(name string, in *Vertex) *Vertex {
			return vtx(name, time.Second, in).sees("/").makes(cache.Tree(name + "=x"))
		}
		src := func() *Vertex { return vtx("src", 0).makes("s=x") }
		ga := func() *Vertex { return op("two", op("one", src())) }
		gb := func() *Vertex { return op("one", op("two", src())) }
		for i, g := range []func() *Vertex{ga, gb} {
			b, _ := w.build(s, fmt.Sprint("w", i))
			solve(t, b, g())
		}
		w.ran()
		w.evict()
		var eg errgroup.Group
		for i, g := range []func() *Vertex{ga, gb} {
			b, _ := w.build(s, fmt.Sprint(i))
			eg.Go(func() error { _, err := b.Solve(t.Context(), Edge{Vertex: g()}); return err })
		}
		if err := eg.Wait(); err != nil {
			t.Fatal(err)
		}
		got := w.ran()
		if strings.Count(got, "one") != 1 || strings.Count(got, "two") != 1 {
			t.Fatal(got)
		}
	})
}

// An input that was lost and made again differs: nothing may be kept under keys
// that were derived from the old one.
func TestInputMadeAgainDiffers(t *testing.T) {
	s, w := newWorld(4)
	n := 0
	g := func() *Vertex {
		a := vtx("a", 0)
		a.Op.(*fakeOp).out = func([]cache.Tree) cache.Tree { n++; return cache.Tree(fmt.Sprintf("a=%d", n)) }
		cp := vtx("cp", 0, a).sees("/")
		cp.Op.(*fakeOp).out = func(in []cache.Tree) cache.Tree { return "cp" + in[0] }
		end := vtx("end", 0, cp).sees("/")
		end.Op.(*fakeOp).out = func(in []cache.Tree) cache.Tree { return "end" + in[0] }
		return end
	}
	b, _ := w.build(s, "1")
	r1 := solve(t, b, g())
	w.evict()
	b, _ = w.build(s, "2")
	r2 := solve(t, b, g())
	if r1 == r2 {
		t.Fatal(r1, r2)
	}
	// Another input with the old content must lead to the old outcome.
	other := vtx("cp", 0, vtx("other", 0).makes("o=1")).sees("/")
	other.Op.(*fakeOp).out = func(in []cache.Tree) cache.Tree { return "cp" + in[0] }
	end := vtx("end", 0, other).sees("/")
	end.Op.(*fakeOp).out = func(in []cache.Tree) cache.Tree { return "end" + in[0] }
	b, _ = w.build(s, "3")
	if r := solve(t, b, end); !strings.HasSuffix(string(r), "=1") {
		t.Fatalf("content 1 led to %s", r)
	}
}

func TestNoCacheIsFreshDownstream(t *testing.T) {
	s, w := newWorld(4)
	g := func(no bool) *Vertex { a := vtx("a", 0); a.NoCache = no; return vtx("b", 0, a) }
	for i, c := range []struct {
		no   bool
		want string
	}{{false, "a b"}, {true, "a b"}, {false, ""}} {
		b, _ := w.build(s, fmt.Sprint(i))
		solve(t, b, g(c.no))
		if got := w.ran(); got != c.want {
			t.Fatalf("build %d ran %q, want %q", i, got, c.want)
		}
	}
}

func TestTreeThatIsGoneIsMadeAgain(t *testing.T) {
	s, w := newWorld(4)
	b, _ := w.build(s, "1")
	r := solve(t, b, vtx("a", 0).makes("a=1"))
	w.ran()
	w.gone[r] = true
	again := vtx("a", 0)
	again.Op.(*fakeOp).out = func([]cache.Tree) cache.Tree { delete(w.gone, r); return r }
	b, _ = w.build(s, "2")
	solve(t, b, again)
	if got := w.ran(); got != "a" {
		t.Fatal(got)
	}
}

func TestFailureNamesTheStep(t *testing.T) {
	s, w := newWorld(4)
	bad := vtx("bad", 0)
	bad.Op.(*fakeOp).err = errBroken
	b, st := w.build(s, "1")
	_, err := b.Solve(t.Context(), Edge{Vertex: vtx("top", 0, vtx("mid", 0, bad).sees("/"), vtx("other", 0))})
	step, ok := errors.AsType[*StepError](err)
	if !ok || step.Vertex.Name != "bad" || !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	if st.last("bad").Err == nil {
		t.Error("progress does not say that the step failed")
	}
	bad.Op.(*fakeOp).err = nil
	b, _ = w.build(s, "2")
	solve(t, b, bad) // a failure is not remembered
}

func TestMissesAreTold(t *testing.T) {
	s, w := newWorld(4)
	g := func(src string, sel cache.Selector) *Vertex {
		return vtx("build", 0, vtx("src", 0, vtx(src, 0)).makes(cache.Tree("t="+src))).sees(sel)
	}
	b, st := w.build(s, "1")
	solve(t, b, g("one", "/"))
	first := st.missed["build"]
	if len(st.missed) != 3 || len(first.Inputs) != 1 || !slices.Equal(first.Trees, []cache.Tree{"t=one"}) || first.Fresh {
		t.Errorf("the first build missed %+v", st.missed)
	}
	b, st = w.build(s, "2")
	solve(t, b, g("two", "/"))
	second := st.missed["build"]
	if second.Inputs[0] == first.Inputs[0] || second.Key == first.Key || !slices.Equal(second.Trees, []cache.Tree{"t=two"}) {
		t.Errorf("another input is told as %+v", second)
	}
	b, st = w.build(s, "3")
	solve(t, b, intern(b, g("two", "/")))
	if len(st.missed) > 0 {
		t.Errorf("a cached build has misses: %v", st.missed)
	}
	asked := b.Asked()
	if len(asked) != 3 {
		t.Fatalf("a cached build asked for %+v", asked)
	}
	for _, a := range asked {
		if a.Vertex.Name == "build" && (a.Key != second.Key || !slices.Equal(a.Inputs, second.Inputs)) {
			t.Errorf("a cached step was asked for as %+v, when it ran as %+v", a, second)
		}
	}
	v := g("two", "/")
	v.NoCache = true
	b, st = w.build(s, "4")
	solve(t, b, v)
	if m := st.missed["build"]; !m.Fresh || m.Key != second.Key || len(st.missed) != 1 {
		t.Errorf("without the cache the build missed %+v", st.missed)
	}
}

// intern makes a graph known to a build, as loading it does.
func intern(b *Build, v *Vertex) *Vertex {
	for i, e := range v.Inputs {
		v.Inputs[i].Vertex = intern(b, e.Vertex)
	}
	return b.Intern(v)
}

func TestOneSlotManyVertices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWorld(1)
		var in []*Vertex
		for i := range 50 {
			in = append(in, vtx(fmt.Sprint("l", i), time.Second, vtx(fmt.Sprint("k", i%5), time.Second)))
		}
		b, _ := w.build(s, "1")
		solve(t, b, vtx("root", time.Second, in...))
		if n := len(strings.Fields(w.ran())); n != 56 {
			t.Fatal(n)
		}
	})
}

// Random graphs, random cancellations, lost results: whoever is not cancelled
// gets an outcome.
func TestStress(t *testing.T) {
	for seed := range 200 {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewSource(int64(seed)))
			s, w := newWorld(int64(1 + r.Intn(4)))
			var wg sync.WaitGroup
			for i := range 8 {
				root := randomGraph(rand.New(rand.NewSource(int64(r.Intn(3)))))
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(1+r.Intn(100))*time.Second)
				if i == 0 {
					ctx, stop = context.WithCancel(t.Context())
				}
				b, _ := w.build(s, fmt.Sprint(i))
				wg.Go(func() {
					defer stop()
					time.Sleep(time.Duration(i) * time.Second)
					if _, err := b.Solve(ctx, Edge{Vertex: root}); err != nil && i == 0 {
						t.Error(err)
					}
				})
			}
			wg.Go(func() { time.Sleep(7 * time.Second); w.evict() })
			wg.Wait()
		})
	}
}

func randomGraph(r *rand.Rand) *Vertex {
	var all []*Vertex
	for j := range 20 {
		var in []*Vertex
		for range r.Intn(3) {
			if len(all) > 0 {
				in = append(in, all[r.Intn(len(all))])
			}
		}
		v := vtx(fmt.Sprint("v", j%7), time.Duration(r.Intn(10))*time.Second, in...)
		o := v.Op.(*fakeOp)
		o.sel = map[int]cache.Selector{}
		for k := range in {
			if r.Intn(2) == 0 {
				o.sel[k] = "/"
			}
		}
		v.Digest = digest.FromString(fmt.Sprint(v.Digest, o.sel))
		v.NoCache = r.Intn(10) == 0
		all = append(all, v)
	}
	return all[len(all)-1]
}

func BenchmarkCachedChain(b *testing.B) {
	s, w := newWorld(0)
	mk := func() *Vertex {
		v := vtx("v", 0)
		for i := range 1000 {
			d := v.Digest
			v = vtx(fmt.Sprint("v", i), 0, v)
			v.Digest = digest.FromString(fmt.Sprint(d, i))
		}
		return v
	}
	build, _ := w.build(s, "w")
	if _, err := build.Solve(b.Context(), Edge{Vertex: mk()}); err != nil {
		b.Fatal(err)
	}
	v := mk()
	for b.Loop() {
		build, _ := w.build(s, "x")
		if _, err := build.Solve(b.Context(), Edge{Vertex: v}); err != nil {
			b.Fatal(err)
		}
	}
}

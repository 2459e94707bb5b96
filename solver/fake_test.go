package solver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/opencontainers/go-digest"
)

// fakeOp is an op of the fake world: what it makes is a name.
type fakeOp struct {
	name string
	sel  map[int]cache.Selector
	took time.Duration
	out  func(in []cache.Tree) cache.Tree
	err  error
}

func (o *fakeOp) Digest(context.Context, *Build, *Vertex) (cache.Key, error) {
	return cache.Hash("fake", []byte(o.name)), nil
}
func (o *fakeOp) Selector(i int) cache.Selector { return o.sel[i] }
func (o *fakeOp) Kind() string                  { return "regular" }

// world is a runner, a cache and a hasher in memory. It notes what ran.
type world struct {
	mu       sync.Mutex
	runs     []string
	waiters  map[string]int
	results  map[cache.Key]cache.Record
	contents map[string]cache.Key
	gone     map[cache.Tree]bool
	hashed   int
}

func newWorld(slots int64) (*Solver, *world) {
	w := &world{waiters: map[string]int{}, results: map[cache.Key]cache.Record{}, contents: map[string]cache.Key{}, gone: map[cache.Tree]bool{}}
	return New(Config{Cache: w, Contents: hasher{w}, Runner: w, Slots: slots}), w
}

func (w *world) Run(ctx context.Context, who Waiters, s Step) ([]cache.Tree, error) {
	o := s.Vertex.Op.(*fakeOp)
	who.Log(1, []byte("begin "+o.name))
	select {
	case <-time.After(o.took):
	case <-ctx.Done():
		w.note(o.name+":cancelled", 0)
		return nil, context.Cause(ctx)
	}
	w.note(o.name, len(who.Sessions()))
	if o.err != nil {
		return nil, o.err
	}
	if o.out != nil {
		return []cache.Tree{o.out(s.Inputs)}, nil
	}
	return []cache.Tree{cache.Tree(fmt.Sprintf("%s(%s)", o.name, s.Inputs))}, nil
}

func (w *world) note(s string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs = append(w.runs, s)
	w.waiters[s] = n
}

// ran returns what ran since it was last asked.
func (w *world) ran() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.runs, " ")
	w.runs = nil
	return s
}

func (w *world) Result(_ context.Context, k cache.Key) (cache.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.results[k]
	if !ok {
		return r, cache.ErrNotFound
	}
	return r, nil
}

func (w *world) SetResult(_ context.Context, k cache.Key, r cache.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, ok := w.results[k]; !ok || fmt.Sprint(old.Trees) != fmt.Sprint(r.Trees) {
		for c := range w.contents {
			if strings.HasPrefix(c, k.String()) {
				delete(w.contents, c)
			}
		}
	}
	w.results[k] = r
	return nil
}

func (w *world) Content(_ context.Context, k cache.Key, output int, s cache.Selector) (cache.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.contents[fmt.Sprint(k, output, s)]
	if !ok {
		return c, cache.ErrNotFound
	}
	return c, nil
}

func (w *world) SetContent(_ context.Context, k cache.Key, output int, s cache.Selector, c cache.Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.contents[fmt.Sprint(k, output, s)] = c
	return nil
}

// hasher gives a tree the content that stands behind its "=".
type hasher struct{ w *world }

func (h hasher) Content(_ context.Context, _ Waiters, t cache.Tree, sel cache.Selector) (cache.Key, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.hashed++
	s := string(t)
	if _, after, ok := strings.Cut(s, "="); ok {
		s = after
	}
	return cache.Hash("content", []byte(s), []byte(sel)), nil
}

func (w *world) evict() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.results = map[cache.Key]cache.Record{}
}

// story notes what a build was told.
type story struct {
	mu     sync.Mutex
	states map[string][]State
	logs   []string
	missed map[string]Miss
}

func (s *story) Vertex(v *Vertex, st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[v.Name] = append(s.states[v.Name], st)
}
func (s *story) Log(_ *Vertex, _ int, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = append(s.logs, string(b))
}
func (s *story) Status(*Vertex, Status) {}
func (s *story) miss(m Miss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed[m.Vertex.Name] = m
}

// last returns how v ended for this build.
func (s *story) last(name string) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.states[name]); n > 0 {
		return s.states[name][n-1]
	}
	return State{}
}

func newStory() *story { return &story{states: map[string][]State{}, missed: map[string]Miss{}} }

func (w *world) build(s *Solver, id string) (*Build, *story) {
	st := newStory()
	return s.NewBuild(BuildConfig{ID: id, Sessions: []string{id}, Events: st, Missed: st.miss, Hold: func(t cache.Tree) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.gone[t] {
			return cache.ErrNotFound
		}
		return nil
	}}), st
}

// vtx makes a vertex whose digest says what it is made of.
func vtx(name string, took time.Duration, in ...*Vertex) *Vertex {
	d := name
	v := &Vertex{Name: name, Op: &fakeOp{name: name, took: took}}
	for _, u := range in {
		d += "<" + string(u.Digest) + ">"
		v.Inputs = append(v.Inputs, Edge{Vertex: u})
	}
	v.Digest = digest.FromString(d)
	return v
}

func (v *Vertex) sees(sel cache.Selector) *Vertex {
	o := v.Op.(*fakeOp)
	o.sel = map[int]cache.Selector{}
	for i := range v.Inputs {
		o.sel[i] = sel
	}
	return v
}

func (v *Vertex) makes(t cache.Tree) *Vertex {
	v.Op.(*fakeOp).out = func([]cache.Tree) cache.Tree { return t }
	return v
}

func solve(t *testing.T, b *Build, v *Vertex) cache.Tree {
	t.Helper()
	r, err := b.Solve(t.Context(), Edge{Vertex: v})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var errBroken = errors.New("broken")

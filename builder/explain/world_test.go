package explain

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/buildd/buildd/solver/progress"
	"github.com/buildd/buildd/worker/source"
	control "github.com/moby/buildkit/api/services/control"
	client "github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	godigest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// world is a daemon in memory: its files are digest.Entries, and what its RUNs do
// depends on the files that they see, see Run.
type world struct {
	t *testing.T
	x *Explainer

	mu       sync.Mutex
	results  map[cache.Key]cache.Record
	contents map[string]cache.Key
	views    map[cache.Tree]*digest.View
	made     map[cache.Tree]files
	memory   map[string][]byte
	writes   int // of memory

	context files            // what the client's directory holds
	images  map[string]files // by name
	commits map[string]string
	fail    string // the command that fails
	target  string
	unsure  bool
	settle  func() // called before a build ends
}

// files are the contents of files by path; with a "#" in it, a file is executable.
type files map[string]string

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, results: map[cache.Key]cache.Record{}, contents: map[string]cache.Key{}, views: map[cache.Tree]*digest.View{}, made: map[cache.Tree]files{}, memory: map[string][]byte{},
		images: map[string]files{}, commits: map[string]string{}, target: "target",
	}
	w.x = New(Config{Memory: w, Trees: w})
	return w
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

func (w *world) Peek(ctx context.Context, k cache.Key) (cache.Record, error) { return w.Result(ctx, k) }

func (w *world) SetResult(_ context.Context, k cache.Key, r cache.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.results[k] = r
	maps.DeleteFunc(w.contents, func(c string, _ cache.Key) bool { return strings.HasPrefix(c, k.String()) })
	return nil
}

type contents struct{ w *world }

// Content implements solver.Contents.
func (c contents) Content(ctx context.Context, _ solver.Waiters, t cache.Tree, sel cache.Selector) (cache.Key, error) {
	if sel == cache.Root {
		sel = digest.Selection{Paths: []digest.Select{{Path: "/"}}}.Selector()
	}
	s, err := digest.ParseSelector(sel)
	if err != nil {
		return cache.Key{}, err
	}
	return c.w.view(t).Content(ctx, s)
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

func (w *world) LastBuild(_ context.Context, target string) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.memory[target]
	if !ok {
		return nil, cache.ErrNotFound
	}
	return b, nil
}

func (w *world) SetLastBuild(_ context.Context, target string, text []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory[target] = text
	w.writes++
	return nil
}

// Changes implements Trees.
func (w *world) Changes(ctx context.Context, old, new cache.Tree, sel cache.Selector, fn func(digest.Change) error) error {
	a, b := w.view(old), w.view(new)
	if a == nil || b == nil {
		return cache.ErrNotFound
	}
	return digest.Changes(ctx, a, b, sel, fn)
}

func (w *world) view(t cache.Tree) *digest.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.views[t]
}

// prune forgets results and files.
func (w *world) prune() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.results)
	clear(w.contents)
	clear(w.views)
}

// tree makes a tree; equal files make equal trees.
func (w *world) tree(fs files) cache.Tree {
	var b digest.Builder
	dirs := map[string]bool{}
	for _, p := range slices.Sorted(maps.Keys(fs)) {
		for d := path.Dir(p); d != "/" && !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
			b.Add(digest.Entry{Path: d[1:], Mode: unix.S_IFDIR | 0o755})
		}
		text, mode, _ := strings.Cut(fs[p], "#")
		e := digest.Entry{Path: p[1:], Mode: unix.S_IFREG | 0o644, Size: int64(len(text)), Hash: cache.Hash(text)}
		if mode != "" {
			e.Mode = unix.S_IFREG | 0o755
		}
		b.Add(e)
	}
	x, err := b.Index()
	if err != nil {
		w.t.Error(err)
	}
	t := cache.Tree(x.Content().String())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.views[t] = digest.NewView([]digest.Layer{{Dir: string(t), Index: x}})
	w.made[t] = maps.Clone(fs)
	return t
}

// read returns the files of a tree, for a step to change.
func (w *world) read(t cache.Tree) files {
	w.mu.Lock()
	defer w.mu.Unlock()
	if fs := maps.Clone(w.made[t]); fs != nil {
		return fs
	}
	return files{}
}

// Pin implements llb.Pinner.
func (w *world) Pin(_ context.Context, _ *solver.Vertex, s *pb.SourceOp, _ *pb.Platform) (llb.Pin, error) {
	scheme, name, _ := strings.Cut(s.Identifier, "://")
	p := pin{Request: source.Request{Identifier: s.Identifier}}
	switch scheme {
	case "local":
		p.Tree = w.tree(w.context)
		p.Key = string(p.Tree)
		p.Resolved = p.Key
	case "docker-image":
		name, _, _ = strings.Cut(name, "@")
		p.Tree = w.tree(w.images[name])
		p.Key, p.Resolved = string(p.Tree), name+"@sha256:"+string(p.Tree)
	default:
		p.Tree = w.tree(files{"/of": w.commits[name]})
		p.Key, p.Resolved = w.commits[name], w.commits[name]
	}
	return p, nil
}

type pin source.Pin

func (p pin) PinKey() string     { return p.Key }
func (p pin) Source() source.Pin { return source.Pin(p) }

// Run implements solver.Runner: a copy copies, a RUN writes the upper case of
// what it finds in /src/main into /out.
func (w *world) Run(_ context.Context, _ solver.Waiters, s solver.Step) ([]cache.Tree, error) {
	o := s.Vertex.Op.(*llb.Op)
	switch x := o.Def.Op.(type) {
	case *pb.Op_Source:
		return []cache.Tree{o.Pin().(pin).Tree}, nil
	case *pb.Op_File:
		out := files{}
		for _, a := range x.File.Actions {
			if a.Input >= 0 && int(a.Input) < len(s.Inputs) {
				out = w.read(s.Inputs[a.Input])
			}
			c := a.GetCopy()
			if c == nil {
				out[a.GetMkfile().Path] = string(a.GetMkfile().Data)
				continue
			}
			for p, text := range w.read(s.Inputs[a.SecondaryInput]) {
				if rel, ok := strings.CutPrefix(p, strings.TrimSuffix(c.Src, "/")); ok {
					out[path.Join(c.Dest, rel)] = text
				}
			}
		}
		return []cache.Tree{w.tree(out)}, nil
	case *pb.Op_Exec:
		out := w.read(s.Inputs[0])
		if _, cmd := splitShell(x.Exec.Meta.Args); cmd == w.fail {
			return nil, fmt.Errorf("%s: %w", cmd, fs.ErrInvalid)
		}
		out["/out"] = strings.ToUpper(out["/src/main"])
		return []cache.Tree{w.tree(out)}, nil
	}
	out := files{} // of a merge
	for _, in := range s.Inputs {
		maps.Copy(out, w.read(in))
	}
	return []cache.Tree{w.tree(out)}, nil
}

// built is what came of a build.
type built struct {
	steps []*explainv1.Step
	lines []string // of progress
	err   error
}

// build builds a state.
func (w *world) build(st client.State, o ...func(*llb.Options)) built {
	w.t.Helper()
	def, err := st.Marshal(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	log := &progress.Log{}
	b := w.x.Begin(w.t.Context(), BuildConfig{
		Log: log, Target: func() (string, bool) { return w.target, !w.unsure },
		Where: func(godigest.Digest) []*errdefs.Source {
			at := func(first, last int32) *pb.Range {
				return &pb.Range{Start: &pb.Position{Line: first}, End: &pb.Position{Line: last}}
			}
			return []*errdefs.Source{{Info: &pb.SourceInfo{Filename: "Dockerfile"}, Ranges: []*pb.Range{at(9, 9), at(3, 4), at(5, 0)}}}
		},
	})
	s := solver.New(solver.Config{Cache: w, Contents: contents{w}, Runner: w}).NewBuild(solver.BuildConfig{
		ID: "build", Events: b, Missed: b.Missed, Hold: func(t cache.Tree) error {
			if t != "" && w.view(t) == nil {
				return cache.ErrNotFound
			}
			return nil
		},
	})
	b.Of(s)
	opts := llb.Options{Build: s, Pinner: w}
	for _, f := range o {
		f(&opts)
	}
	e, err := llb.Load(def.ToPB(), opts)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = s.Solve(w.t.Context(), e)
	if w.settle != nil {
		w.settle()
	}
	b.Close()
	log.Close()
	out := built{steps: b.Finish(w.t.Context()), err: err}
	if err := log.Follow(w.t.Context(), func(r *control.StatusResponse) error {
		for _, s := range r.Statuses {
			out.lines = append(out.lines, s.ID)
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// why returns why steps ran by their names; "cached" of those that did not.
func (b built) why() map[string]string {
	out := map[string]string{}
	for _, s := range b.steps {
		if out[s.Name] = s.Why; s.State == explainv1.State_STATE_CACHED {
			out[s.Name] = "cached"
		}
	}
	return out
}

// step returns a step by a part of its name.
func (b built) step(t *testing.T, name string) *explainv1.Step {
	t.Helper()
	for _, s := range b.steps {
		if strings.Contains(s.Name, name) {
			return s
		}
	}
	t.Fatalf("no step %q in %v", name, b.why())
	return nil
}

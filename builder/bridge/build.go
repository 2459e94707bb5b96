package bridge

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/buildd/buildd/builder/attest"
	"github.com/buildd/buildd/builder/policy"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/frontend"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/buildd/buildd/solver/progress"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	godigest "github.com/opencontainers/go-digest"
)

// Sources is what a build needs of the sources.
type Sources interface {
	Pin(ctx context.Context, c session.Client, r source.Request) (source.Pin, error)
	Describe(ctx context.Context, c session.Client, r source.Request, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error)
}

// Files opens trees for reading, fetching first what is not here yet.
type Files interface {
	Open(ctx context.Context, w solver.Waiters, t cache.Tree) (*digest.View, error)
}

// Config is what the builds of a daemon share.
type Config struct {
	Sources Sources
	Files   Files
	// Containers is nil where steps run elsewhere.
	Containers Containers
	// Frontends by the name that clients ask for, such as "dockerfile.v0".
	Frontends map[string]frontend.Frontend
	Workers   []gwclient.WorkerInfo
	// Forget empties the cache mounts with these IDs; nil where steps run
	// elsewhere.
	Forget func(ctx context.Context, ids ...string) error
	// Check refuses malformed ops.
	Check func(*pb.Op) error
}

// Build is one client's request.
type Build struct {
	*Config
	Solve   *solver.Build
	Log     *progress.Log
	Session string
	Lend    session.Client
	// Allow refuses ops that want what the build may not have.
	Allow func(*pb.Op) error
	// Import makes the build read caches; nil ignores them.
	Import func([]gwclient.CacheOptionsEntry) error
	// Policy says what may be fetched; nil is everything.
	Policy *policy.Engine
	// Call records what the client's own frontend does.
	Call *attest.Call

	memo source.Memo

	mu        sync.Mutex // guards sources and forgotten
	sources   map[godigest.Digest][]*errdefs.Source
	forgotten map[string]bool
}

// Load makes a definition's vertices known to the build. A nil edge means that
// the definition is empty. Its sources are rewritten by p.
func (b *Build) Load(ctx context.Context, def *pb.Definition, p *policy.Engine) (*solver.Edge, error) {
	if def == nil || len(def.Def) == 0 {
		return nil, nil
	}
	b.remember(def.Source)
	if err := b.forget(ctx, def); err != nil {
		return nil, err
	}
	e, err := llb.Load(def, llb.Options{Build: b.Solve, Pinner: b, Check: b.check, Rewrite: p.Apply})
	if err != nil {
		return nil, fmt.Errorf("invalid LLB: %w", err)
	}
	return &e, nil
}

func (b *Build) check(op *pb.Op) error {
	if b.Check != nil {
		if err := b.Check(op); err != nil {
			return err
		}
	}
	return b.Allow(op)
}

// Pin implements llb.Pinner. Where that means to transfer files, v is shown at
// work.
func (b *Build) Pin(ctx context.Context, v *solver.Vertex, s *pb.SourceOp, p *pb.Platform) (llb.Pin, error) {
	r := b.request(s, p)
	r.Progress = func(st solver.Status) { b.Log.Status(v, st) }
	r.Log = func(stream int, data []byte) { b.Log.Log(v, stream, data) }
	b.Log.Vertex(v, solver.State{Started: time.Now()})
	pin, err := b.Sources.Pin(ctx, b.Lend, r)
	if err != nil {
		return nil, err
	}
	if pin.Tree != "" {
		// The files came with the pin; without them the pin is worth nothing.
		if err := b.Solve.Hold(pin.Tree); err != nil {
			pin.Tree = ""
		}
	}
	return Pin(pin), nil
}

// Pin is a source.Pin as the solver knows it.
type Pin source.Pin

// PinKey implements llb.Pin.
func (p Pin) PinKey() string { return p.Key }

// Source implements worker.Pinned.
func (p Pin) Source() source.Pin { return source.Pin(p) }

func (b *Build) request(s *pb.SourceOp, p *pb.Platform) source.Request {
	return source.Request{Identifier: s.Identifier, Attrs: s.Attrs, Platform: p, Memo: &b.memo}
}

// remember keeps where in which file the steps of a definition come from.
func (b *Build) remember(src *pb.Source) {
	if src == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sources == nil {
		b.sources = map[godigest.Digest][]*errdefs.Source{}
	}
	for d, locs := range src.Locations {
		d := godigest.Digest(d)
		if len(b.sources[d]) > 0 {
			continue
		}
		for _, loc := range locs.GetLocations() {
			if i := loc.GetSourceIndex(); i >= 0 && int(i) < len(src.Infos) {
				b.sources[d] = append(b.sources[d], &errdefs.Source{Info: src.Infos[i], Ranges: loc.Ranges})
			}
		}
	}
}

// Where returns where a step stands in the files that it comes from.
func (b *Build) Where(d godigest.Digest) []*errdefs.Source {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sources[d]
}

// Locate adds to the error of a step which step it was and where in the
// Dockerfile it stands, as BuildKit's clients print it.
func (b *Build) Locate(err error) error {
	step, ok := asType[*solver.StepError](err)
	if !ok {
		return err
	}
	if _, located := asType[*errdefs.VertexError](err); located {
		return err
	}
	err = errdefs.WrapVertex(err, step.Vertex.Digest)
	for _, src := range b.Where(step.Vertex.Digest) {
		err = errdefs.WithSource(err, src)
	}
	return err
}

// forget empties, once a build, the cache mounts of the steps that ignore the
// cache, as BuildKit does.
func (b *Build) forget(ctx context.Context, def *pb.Definition) error {
	if b.Forget == nil {
		return nil
	}
	var ids []string
	b.mu.Lock()
	for _, raw := range def.Def {
		if !def.Metadata[string(godigest.FromBytes(raw))].GetIgnoreCache() {
			continue
		}
		op := &pb.Op{}
		if err := op.UnmarshalVT(raw); err != nil {
			continue // Load says what is wrong with it
		}
		for _, m := range op.GetExec().GetMounts() {
			if m.MountType != pb.MountType_CACHE {
				continue
			}
			id := cmp.Or(m.GetCacheOpt().GetID(), m.Dest)
			if !b.forgotten[id] {
				ids = append(ids, id)
			}
			if b.forgotten == nil {
				b.forgotten = map[string]bool{}
			}
			b.forgotten[id] = true
		}
	}
	b.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	return b.Forget(ctx, ids...)
}

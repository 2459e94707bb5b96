package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/builder/bridge"
	"github.com/buildd/buildd/builder/explain"
	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/builder/policy"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/frontend/gateway"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/progress"
	"github.com/distribution/reference"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	// findTimeout is how long a client may ask for a build before it asks to
	// build.
	findTimeout = 6 * time.Second
	// keepFinished is how long a finished build's progress stays for those who
	// ask late.
	keepFinished = 15 * time.Second
	// keepRecorded is that for a build whose record has its progress: it is for
	// those who asked for the record a moment before the build ended.
	keepRecorded = time.Second
)

// job is one request while it runs.
type job struct {
	b         *Builder
	req       *control.SolveRequest
	log       *progress.Log
	build     *bridge.Build
	lease     *tree.Lease
	exporters []export.Exporter
	gateway   *gateway.Session // nil unless the frontend runs in the client
	attests   *attestations
	why       *explain.Build
	caches    caches
	recorded  bool // the record has the progress
}

// newJob checks a request and registers it.
func (b *Builder) newJob(ctx context.Context, req *control.SolveRequest) (*job, error) {
	if req.Ref == "" {
		return nil, errors.New("a build needs a reference: set Ref")
	}
	translate(req)
	allow, err := allowance(req.Entitlements, b.Entitlements, b.Devices)
	if err != nil {
		return nil, err
	}
	pol, err := policy.New(req.SourcePolicy)
	if err != nil {
		return nil, err
	}
	j := &job{b: b, req: req, log: &progress.Log{}}
	if j.caches.exporters, err = b.cacheExporters(req.Cache.Exports); err != nil {
		return nil, err
	}
	if j.attests, err = b.newAttestations(req); err != nil {
		return nil, err
	}
	for _, e := range req.Exporters {
		x, err := b.Exporters.Resolve(e.Type, e.Attrs)
		if err != nil {
			return nil, err
		}
		j.exporters = append(j.exporters, x)
	}
	if err := b.jobs.add(req.Ref, j.log); err != nil {
		return nil, err
	}
	j.lease = b.Trees.Lease(req.Ref)
	var sessions []string
	if req.Session != "" {
		sessions = []string{req.Session}
	}
	j.why = b.Explainer.Begin(context.WithoutCancel(ctx), explain.BuildConfig{
		Log: j.log,
		Target: func() (string, bool) {
			return target(req, b.Sessions.SharedKey(context.WithoutCancel(ctx), req.Session))
		},
		Where: func(d digest.Digest) []*errdefs.Source { return j.build.Where(d) },
	})
	j.build = &bridge.Build{
		Config: b.Bridge, Log: j.log, Session: req.Session, Allow: allow, Policy: pol, Call: j.attests.call,
		Lend: b.Sessions.Client(func() []string { return sessions }),
		Solve: b.Solver.NewBuild(solver.BuildConfig{
			ID: req.Ref, Sessions: sessions, Events: j.why, Hold: j.lease.Add, Missed: j.why.Missed,
		}),
	}
	j.why.Of(j.build.Solve)
	j.attests.build.Layers = j.layers
	j.importCaches()
	return j, nil
}

func (j *job) end() {
	j.log.Close()
	j.attests.call.Release()
	j.caches.imports.Close()
	j.lease.Release()
	keep := keepFinished
	if j.recorded {
		keep = keepRecorded
	}
	j.b.jobs.finish(j.req.Ref, keep)
	if j.b.Collect != nil {
		j.b.Collect()
	}
}

// target names what is built, so that a build can be compared with the one
// before it: which frontend makes what of which directory. Clients that do not
// tell their directories apart may at least name images differently; without
// either different things may have one name, and sure is false.
func target(req *control.SolveRequest, directory string) (name string, sure bool) {
	a := req.FrontendAttrs
	repository, _, _ := strings.Cut(a["context"], "#") // of git; the ref is what changes
	var images string
	if directory == "" {
		images = repositories(req.Exporters)
	}
	parts := []string{req.Frontend, a["source"], repository, a["filename"], a["target"], a["platform"], directory, images}
	return fmt.Sprintf("%q", parts), directory != "" || images != "" || strings.Contains(repository, "://")
}

// repositories are the images that exporters are to name, without their tags.
func repositories(exporters []*control.Exporter) string {
	var out []string
	for _, e := range exporters {
		for _, n := range strings.Split(e.Attrs["name"], ",") {
			if ref, err := reference.ParseNormalizedNamed(n); err == nil {
				out = append(out, ref.Name())
			}
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

// jobs are the builds that run or ended a moment ago.
type jobs struct {
	mu      *sync.Mutex // guards all that follows
	logs    map[string]*progress.Log
	changed chan struct{}
}

func newJobs() jobs {
	return jobs{mu: &sync.Mutex{}, logs: map[string]*progress.Log{}, changed: make(chan struct{})}
}

func (s *jobs) add(ref string, l *progress.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.logs[ref]; ok {
		return fmt.Errorf("build %q exists already: every build needs a reference of its own", ref)
	}
	s.logs[ref] = l
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// finish forgets a build after a time.
func (s *jobs) finish(ref string, keep time.Duration) {
	time.AfterFunc(keep, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.logs, ref)
	})
}

func (s *jobs) find(ctx context.Context, ref string) (*progress.Log, error) {
	late := time.After(findTimeout)
	for {
		s.mu.Lock()
		l, changed := s.logs[ref], s.changed
		s.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-late:
			return nil, errdefs.NewUnknownJobError(ref)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

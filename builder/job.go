package builder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/buildd/buildd/builder/bridge"
	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/builder/policy"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/frontend/gateway"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/progress"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/errdefs"
)

const (
	// findTimeout is how long a client may ask for a build before it asks to
	// build.
	findTimeout = 6 * time.Second
	// keepFinished is how long a finished build's progress stays for those who
	// ask late.
	keepFinished = 15 * time.Second
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
	caches    caches
}

// newJob checks a request and registers it.
func (b *Builder) newJob(req *control.SolveRequest) (*job, error) {
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
	j.build = &bridge.Build{
		Config: b.Bridge, Log: j.log, Session: req.Session, Allow: allow, Policy: pol, Call: j.attests.call,
		Lend: b.Sessions.Client(func() []string { return sessions }),
		Solve: b.Solver.NewBuild(solver.BuildConfig{
			ID: req.Ref, Sessions: sessions, Events: j.log, Hold: j.lease.Add, Memory: b.Memory.Target(target(req)),
		}),
	}
	j.attests.build.Layers = j.layers
	j.importCaches()
	return j, nil
}

func (j *job) end() {
	j.log.Close()
	j.attests.call.Release()
	j.caches.imports.Close()
	j.lease.Release()
	j.b.jobs.finish(j.req.Ref)
	if j.b.Collect != nil {
		j.b.Collect()
	}
}

// target names what is built, so that a build can be compared with the one
// before it.
func target(req *control.SolveRequest) string {
	a := req.FrontendAttrs
	return fmt.Sprintf("%s %s %s %s %s", req.Frontend, a["context"], a["filename"], a["target"], a["platform"])
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

func (s *jobs) finish(ref string) {
	time.AfterFunc(keepFinished, func() {
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

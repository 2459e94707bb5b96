package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/buildd/buildd/builder/attest"
	"github.com/buildd/buildd/builder/bridge"
	"github.com/buildd/buildd/builder/explain"
	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/builder/remotecache"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/frontend/gateway"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/progress"
	"github.com/buildd/buildd/worker/session"
	control "github.com/moby/buildkit/api/services/control"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
)

// Recorder keeps the records of builds.
type Recorder interface {
	// Start is called before the first step; the function returned is called
	// once the build is over, and calls Outcome.Steps even if it records nothing.
	// ctx may carry the client's trace. recorded tells that the progress can be had
	// from the record from then on.
	Start(ctx context.Context, req *control.SolveRequest, log *progress.Log) (done func(context.Context, Outcome) (recorded bool))
}

// Outcome is how a build ended.
type Outcome struct {
	Response map[string]string
	Results  []*export.Result
	Err      error
	// Metadata is the frontend's.
	Metadata map[string][]byte
	// Attested is what is known of how the results came about.
	Attested []Attested
	// Steps says what became of each step, and why it ran. It is called once by who
	// records the build, and remembers it for the next one.
	Steps func(context.Context) []*explainv1.Step
}

// Config is what a Builder stands on.
type Config struct {
	Solver    *solver.Solver
	Bridge    *bridge.Config
	Sessions  *session.Manager
	Exporters *export.Set
	Caches    *remotecache.Set
	Trees     *tree.Store
	Explainer *explain.Explainer
	History   Recorder
	Forwarder *gateway.Forwarder
	// Provider gives the blobs of layers that were never fetched.
	Provider func(session.Client) tree.Provider
	// Entitlements are what clients may ask for.
	Entitlements []string
	// Devices are what RUN --device can choose from.
	Devices Devices
	// ProvenanceEnv are fields that provenance has in addition.
	ProvenanceEnv map[string]any
	// DockerfileVersion is that of the daemon's own frontend.
	DockerfileVersion string
	// Collect frees space; it is called when a build has ended.
	Collect func()
}

// Builder runs builds. It is safe for concurrent use.
type Builder struct {
	Config
	jobs      jobs
	producers *attest.Producers
}

// New returns a Builder.
func New(c Config) *Builder {
	return &Builder{Config: c, jobs: newJobs(), producers: attest.NewProducers()}
}

// Solve runs the build that req describes (BuildKit's control.proto). The
// response holds what the exporters say of their results. An error of a step
// carries where it stands in its file, as errdefs.Source.
func (b *Builder) Solve(ctx context.Context, req *control.SolveRequest) (*control.SolveResponse, error) {
	j, err := b.newJob(ctx, req)
	if err != nil {
		b.jobs.refuse(req.Ref)
		return nil, err
	}
	defer j.end()

	done := func(context.Context, Outcome) bool { return false }
	remove := j.acceptFrontend()
	defer remove()
	if !req.Internal && b.History != nil {
		done = b.History.Start(ctx, req, j.log)
	}
	out := j.run(ctx)
	out.Err = withStack(out.Err)
	j.why.Close()
	out.Steps = j.why.Finish
	j.log.Close()
	j.recorded = done(context.WithoutCancel(ctx), out)
	if out.Err != nil {
		return nil, out.Err
	}
	return &control.SolveResponse{ExporterResponse: out.Response}, nil
}

// run solves the request and exports the result.
func (j *job) run(ctx context.Context) Outcome {
	res, err := j.solve(ctx)
	if err != nil {
		return Outcome{Err: j.build.Locate(err)}
	}
	for {
		out := j.output(ctx, res)
		if !errors.Is(out.Err, cache.ErrLost) || !j.repeatable() || !j.build.Solve.Forget(j.caches.roots...) {
			return out
		}
	}
}

// repeatable tells whether exporters can be run again after one has failed: those
// that send to the client send once.
func (j *job) repeatable() bool {
	return len(j.exporters) == 1 || !slices.ContainsFunc(j.exporters, func(x export.Exporter) bool { return x.Type() != export.TypeImage })
}

// output exports a frontend's result.
func (j *job) output(ctx context.Context, res *gwclient.Result) Outcome {
	in, err := j.input(ctx, res)
	if err == nil {
		err = j.caches.remember(ctx, res)
	}
	if err != nil {
		return Outcome{Err: j.build.Locate(err)}
	}
	attested, err := j.attest(ctx, res, &in)
	if err != nil {
		return Outcome{Err: j.build.Locate(err)}
	}
	out := j.export(ctx, in)
	out.Metadata, out.Attested = in.Metadata, attested
	return out
}

// solve returns the frontend's result. Without a frontend and a definition the
// frontend runs in the client and calls the gateway.
func (j *job) solve(ctx context.Context) (*gwclient.Result, error) {
	if j.gateway != nil {
		return j.gateway.Wait(ctx)
	}
	return j.build.Client(j.req.FrontendAttrs, j.req.FrontendInputs).Solve(ctx, gwclient.SolveRequest{
		Definition: j.req.Definition, Frontend: j.req.Frontend, FrontendOpt: j.req.FrontendAttrs, FrontendInputs: j.req.FrontendInputs,
		CacheImports: importEntries(j.req),
	})
}

// acceptFrontend lets a frontend in the client reach this build.
func (j *job) acceptFrontend() (remove func()) {
	if j.req.Frontend != "" || j.req.Definition != nil {
		return func() {}
	}
	j.gateway = gateway.NewSession(j.build.Client(j.req.FrontendAttrs, j.req.FrontendInputs), j.req.FrontendInputs)
	forget := j.b.Forwarder.Add(j.req.Ref, j.gateway)
	return func() {
		forget()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		j.gateway.Close(ctx)
	}
}

// Follow sends a build's progress, from its beginning on. It waits for a build
// that is not known yet, as clients ask for the progress before they ask for the
// build.
func (b *Builder) Follow(ctx context.Context, ref string, send func(*control.StatusResponse) error) error {
	log, err := b.jobs.find(ctx, ref)
	if err != nil {
		return err
	}
	if err := log.Follow(ctx, send); err != nil {
		return fmt.Errorf("follow build %s: %w", ref, err)
	}
	return nil
}

package op

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/device"
	"github.com/buildd/buildd/worker/mount"
	"github.com/buildd/buildd/worker/network"
	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/session"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Config is what a Worker works with.
type Config struct {
	// Dir holds files and mounts of steps while they run; New empties it.
	Dir     string
	Trees   *tree.Store
	Runtime runtime.Runtime
	// Networks are what ops can choose from.
	Networks map[pb.NetMode]network.Provider
	// Caches keeps the directories of cache mounts.
	Caches *mount.Caches
	// Devices are what RUN --device can choose from; nil is none.
	Devices *device.Manager

	DNS DNS
	// UserXattr and IgnoreOwner are Trees' Rootless and IgnoreOwner.
	UserXattr, IgnoreOwner bool
	// Rootless, CgroupParent and the rest are those of runtime.SpecOptions.
	Rootless        bool
	CgroupParent    string
	OOMScoreAdj     *int
	ApparmorProfile string
	Seccomp         *specs.LinuxSeccomp
	NoNewPrivileges bool
	PidsLimit       int64
	// Logs bounds what is passed on of a step's output. The zero value is
	// BuildKit's limits, which its environment variables change.
	Logs LogLimits
}

func (c *Config) applyDefaults() error {
	if c.Dir == "" || c.Trees == nil || c.Runtime == nil || c.Caches == nil {
		return errors.New("worker needs a directory, trees, a runtime and cache mounts")
	}
	if c.Logs == (LogLimits{}) {
		c.Logs = defaultLogLimits() // clients expect BuildKit's
	}
	return c.DNS.check()
}

// Worker runs steps. It is safe for concurrent use.
type Worker struct {
	Config
	area  *mount.Area
	stubs stubLayers
	// defaults are the mount points that every container has.
	defaults []string
}

// New returns a Worker and removes what an earlier one of the same Dir left
// behind.
func New(c Config) (*Worker, error) {
	if err := c.applyDefaults(); err != nil {
		return nil, err
	}
	area, err := mount.OpenArea(c.Dir)
	if err != nil {
		return nil, err
	}
	c.Dir = area.Dir
	w := &Worker{Config: c, area: area}
	s, err := runtime.Spec(runtime.SpecOptions{ID: "defaults", Root: "/", Args: []string{"true"}, Rootless: c.Rootless})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find out default mounts: %w", err), area.Close())
	}
	for _, m := range s.Mounts {
		w.defaults = append(w.defaults, m.Destination)
	}
	return w, nil
}

// Close ends the use of Dir. No step may be running.
func (w *Worker) Close() error { return w.area.Close() }

// Progress hears how a step gets on; solver.Waiters is one.
type Progress interface {
	Log(stream int, data []byte)
	Status(s solver.Status)
}

// Request is one step.
type Request struct {
	// Name is what progress calls the step.
	Name string
	Op   *pb.Op
	// Platform is what an exec runs for; nil is the op's, or else this machine's.
	Platform *pb.Platform
	// Resources bound an exec; nil is no bound.
	Resources *pb.LinuxResources
	// Inputs are the trees of Op.Inputs, all of whose layers are here.
	Inputs []cache.Tree
	// Client lends secrets and ssh agents; nil if there is none.
	Client   session.Client
	Progress Progress
}

func (w *Worker) check(r Request) error {
	if err := Validate(r.Op); err != nil {
		return err
	}
	if len(r.Inputs) != len(r.Op.Inputs) {
		return fmt.Errorf("op has %d inputs, but %d trees are given", len(r.Op.Inputs), len(r.Inputs))
	}
	return nil
}

// Run runs an op of any type that a worker can run.
func (w *Worker) Run(ctx context.Context, r Request) ([]cache.Tree, error) {
	switch r.Op.GetOp().(type) {
	case *pb.Op_Exec:
		return w.Exec(ctx, r)
	case *pb.Op_File:
		return w.File(ctx, r)
	case *pb.Op_Merge:
		return w.Merge(ctx, r)
	case *pb.Op_Diff:
		return w.Diff(ctx, r)
	case *pb.Op_Passthrough:
		return w.Passthrough(ctx, r)
	default:
		return nil, Validate(r.Op)
	}
}

// Merge lays the inputs over each other.
func (w *Worker) Merge(ctx context.Context, r Request) ([]cache.Tree, error) {
	if err := w.check(r); err != nil {
		return nil, err
	}
	var trees []cache.Tree
	for _, in := range r.Op.GetMerge().Inputs {
		if in.Input != none {
			trees = append(trees, r.Inputs[in.Input])
		}
	}
	t, err := w.Trees.Merge(ctx, trees...)
	if err != nil {
		return nil, err
	}
	return []cache.Tree{t}, nil
}

// Diff makes a tree of what the upper input has and the lower has not.
func (w *Worker) Diff(ctx context.Context, r Request) ([]cache.Tree, error) {
	if err := w.check(r); err != nil {
		return nil, err
	}
	d := r.Op.GetDiff()
	var lower, upper cache.Tree
	if d.Lower.Input != none {
		lower = r.Inputs[d.Lower.Input]
	}
	if d.Upper.Input != none {
		upper = r.Inputs[d.Upper.Input]
	}
	t, err := w.Trees.Diff(ctx, lower, upper)
	if err != nil {
		return nil, err
	}
	return []cache.Tree{t}, nil
}

// Passthrough returns inputs as they are.
func (w *Worker) Passthrough(_ context.Context, r Request) ([]cache.Tree, error) {
	if err := w.check(r); err != nil {
		return nil, err
	}
	var out []cache.Tree
	for _, i := range r.Op.GetPassthrough().Outputs {
		out = append(out, r.Inputs[i])
	}
	return out, nil
}

// newID returns a name that no other container, lease or directory has.
func newID() string {
	var b [13]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/cgroup"
	"github.com/buildd/buildd/worker/runtime/native/zygote"
)

// Config is what a [Runtime] is made of.
type Config struct {
	// Rootless: the daemon is root of a user namespace and has no privileges
	// outside it.
	Rootless bool
	// KeepOwner: that user namespace has one ID. Owners that processes give to
	// files are kept in digest.OwnerXattr.
	KeepOwner bool
	// Log gets the warnings; default slog.Default().
	Log *slog.Logger
}

func (c *Config) applyDefaults() {
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Runtime runs containers. It implements runtime.Runtime.
type Runtime struct {
	config    Config
	cgroups   *cgroup.Tree // nil if there are none
	filters   filters
	warned    sync.Once // of missing limits
	noDevices sync.Once // of devices out of reach

	mu     sync.Mutex // guards what follows
	zygote *zygote.Zygote
	closed bool
	boxes  map[string]*box // between the start and the end of Run
}

var _ runtime.Runtime = (*Runtime)(nil)

// box is a container as further processes need to know it.
type box struct {
	spec    *specs.Spec
	noMknod atomic.Bool
}

// initialised tells New that this program will recognise itself.
var initialised atomic.Bool

// Init must be called first thing in main. In the process that containers are
// forked from it does not return.
func Init() {
	if zygote.Is() {
		zygote.Main()
	}
	initialised.Store(true)
}

// New returns a runtime, ready to run containers.
func New(c Config) (*Runtime, error) {
	c.applyDefaults()
	if !initialised.Load() {
		return nil, errors.New("native runtime: this program does not call native.Init first thing in main")
	}
	r := &Runtime{config: c, boxes: make(map[string]*box)}
	tree, err := cgroup.Open()
	switch {
	case err == nil:
		r.cgroups = tree
	case errors.Is(err, cgroup.ErrNone):
		r.warnLimits(err)
	default:
		return nil, fmt.Errorf("native runtime: %w", err)
	}
	if r.zygote, err = zygote.Start(c.Rootless); err != nil {
		return nil, fmt.Errorf("native runtime: %w", err)
	}
	return r, nil
}

// Close ends all containers and waits for that.
func (r *Runtime) Close() error {
	r.mu.Lock()
	z := r.zygote
	r.zygote, r.closed = nil, true
	r.mu.Unlock()
	if z != nil {
		z.Close()
	}
	return nil
}

// Cleanup removes the control groups below parent that a killed daemon has left.
// Its processes are gone already: they end with it.
func Cleanup(parent string) error {
	tree, err := cgroup.Open()
	if errors.Is(err, cgroup.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	return tree.Cleanup(parent)
}

// process is the zygote; a new one if the last has ended, which only something
// from outside can have done.
func (r *Runtime) process() (*zygote.Zygote, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errors.New("native runtime is closed")
	}
	if r.zygote != nil {
		select {
		case <-r.zygote.Done():
			r.zygote.Close()
			r.zygote = nil
		default:
			return r.zygote, nil
		}
	}
	z, err := zygote.Start(r.config.Rootless)
	if err != nil {
		return nil, fmt.Errorf("native runtime: %w", err)
	}
	r.zygote = z
	return z, nil
}

func (r *Runtime) warnLimits(err error) {
	r.warned.Do(func() {
		r.config.Log.Warn("containers run without resource limits and device rules: control groups cannot be used", "error", err)
	})
}

// closeDevices keeps a container from all devices but those of its own /dev, where
// no control group does: it may make no nodes, and those of its file systems do
// not work.
func (r *Runtime) closeDevices(req *zygote.Request) {
	r.noDevices.Do(func() {
		r.config.Log.Warn("containers run without CAP_MKNOD, and without devices outside /dev: no control group guards them")
	})
	dropMknod(&req.Process)
	c := req.Container
	c.NoDevices = true
	for i, m := range c.Mounts {
		if path.Clean(m.Target) != "/dev" || m.Kind != zygote.KindFS {
			c.Mounts[i].Set |= unix.MOUNT_ATTR_NODEV
			c.Mounts[i].Clear &^= unix.MOUNT_ATTR_NODEV
		}
	}
}

func dropMknod(p *zygote.Process) {
	for _, set := range []*uint64{&p.Bounding, &p.Effective, &p.Permitted, &p.Inheritable, &p.Ambient} {
		*set &^= 1 << unix.CAP_MKNOD
	}
}

// Run implements runtime.Runtime.
func (r *Runtime) Run(ctx context.Context, id string, s runtime.Sandbox, p runtime.Process) (err error) {
	if err := runtime.CheckID(id); err != nil {
		return err
	}
	c, err := r.container(s.Spec)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	box := &box{spec: s.Spec}
	if err := r.take(id, box); err != nil {
		return err
	}
	defer r.release(id)
	if p.Spec == nil {
		p.Spec = s.Spec.Process
	}
	req := &zygote.Request{ID: id, Container: c}
	if req.Process, err = r.processOf(p.Spec, s.Spec); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	group, err := r.group(s.Spec)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	defer func() {
		if e := group.Remove(); e != nil {
			r.config.Log.Warn("control group of a container is left behind", "id", id, "error", e)
		}
	}()
	c.Tasks, c.Cgroup = group.Tasks(), group.Dir()
	groupMounts(c, group)
	// In a user namespace the kernel guards them.
	if !group.GuardsDevices() && !r.config.Rootless && cgroup.DeniesDevices(s.Spec.Linux.Resources) {
		r.closeDevices(req)
		box.noMknod.Store(true)
	}
	status, err := r.run(ctx, req, p)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return exitError(ctx, status, group.OOMKilled())
}

// Exec implements runtime.Runtime.
func (r *Runtime) Exec(ctx context.Context, id string, p runtime.Process) error {
	if err := runtime.CheckID(id); err != nil {
		return err
	}
	if p.Spec == nil {
		return fmt.Errorf("container %s: no process to execute", id)
	}
	r.mu.Lock()
	box := r.boxes[id]
	r.mu.Unlock()
	if box == nil {
		return fmt.Errorf("container %s: %w", id, runtime.ErrNotRunning)
	}
	req := &zygote.Request{ID: id}
	var err error
	if req.Process, err = r.processOf(p.Spec, box.spec); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	if box.noMknod.Load() {
		dropMknod(&req.Process)
	}
	status, err := r.run(ctx, req, p)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return exitError(ctx, status, false)
}

func (r *Runtime) take(id string, b *box) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.boxes[id] != nil {
		return fmt.Errorf("container %s is running already", id)
	}
	r.boxes[id] = b
	return nil
}

func (r *Runtime) release(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.boxes, id)
}

// exitError makes an error of how a process ended.
func exitError(ctx context.Context, status syscall.WaitStatus, oom bool) error {
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	e := &runtime.ExitError{Code: status.ExitStatus(), OOM: oom}
	if status.Signaled() {
		e.Signal = status.Signal()
		e.Code = 128 + int(e.Signal)
		if ctx.Err() != nil && e.Signal == syscall.SIGKILL {
			e.Err = context.Cause(ctx)
		}
	}
	return e
}

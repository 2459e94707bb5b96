package op

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/session"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ContainerRequest is a container that a frontend runs processes in.
type ContainerRequest struct {
	Platform *pb.Platform
	// Mounts name Inputs by index, as those of an ExecOp do; their outputs are
	// not used.
	Mounts     []*pb.Mount
	Inputs     []cache.Tree
	Network    pb.NetMode
	Hostname   string
	ExtraHosts []*pb.HostIP
	Client     session.Client
}

// ProcessRequest is a process of a Container.
type ProcessRequest struct {
	Args      []string
	Env       []string
	SecretEnv []*pb.SecretEnv
	User      string
	// Cwd is absolute; "" is /.
	Cwd      string
	Terminal bool
	// Security counts for the first process only: it is the container's.
	Security pb.SecurityMode

	// The streams are as in runtime.Process.
	Stdin          io.ReadCloser
	Stdout, Stderr io.WriteCloser
}

// Container is a set of mounts in which processes run. The first process is the
// container's init: the others end with it.
type Container struct {
	w      *Worker
	s      *sandbox
	req    ContainerRequest
	ctx    context.Context // of all processes; ended by Release
	cancel context.CancelCauseFunc

	mu       sync.Mutex // guards the fields below
	spec     *specs.Spec
	released bool
	procs    sync.WaitGroup
}

// ContainerProcess is a process that was started.
type ContainerProcess struct {
	done   chan struct{}
	err    error // set before done is closed
	resize chan runtime.WinSize
	signal chan syscall.Signal
}

// NewContainer prepares mounts. The container lives until Release.
func (w *Worker) NewContainer(ctx context.Context, r ContainerRequest) (*Container, error) {
	var mounts []*pb.Mount
	for i, m := range r.Mounts {
		if m == nil {
			return nil, fmt.Errorf("mount %d is empty", i)
		}
		c := m.CloneVT()
		c.Output = none
		mounts = append(mounts, c)
	}
	if err := validateMounts(mounts, int64(len(r.Inputs)), "/"); err != nil {
		return nil, err
	}
	if err := errors.Join(validateHosts(r.ExtraHosts), validateHostname(r.Hostname)); err != nil {
		return nil, err
	}
	if _, ok := pb.NetMode_name[int32(r.Network)]; !ok {
		return nil, fmt.Errorf("network mode %d is unknown", r.Network)
	}
	s, err := w.newSandbox(ctx, sandboxRequest{
		name: "container", mounts: mounts, inputs: r.Inputs, client: r.Client, network: r.Network,
		hostname: r.Hostname, extraHosts: r.ExtraHosts,
	})
	if err != nil {
		return nil, err
	}
	c := &Container{w: w, s: s, req: r}
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return c, nil
}

var errReleased = errors.New("container is released")

// Start starts a process and returns when it executes or has failed to.
func (c *Container) Start(ctx context.Context, r ProcessRequest) (*ContainerProcess, error) {
	meta := &pb.Meta{Args: r.Args, Env: r.Env, User: r.User, Cwd: r.Cwd}
	if err := errors.Join(validateMeta(meta), validateSecretEnv(r.SecretEnv)); err != nil {
		return nil, err
	}
	env := newEnvironment(r.Env)
	if r.Terminal {
		env.setDefault("TERM", "xterm")
	}
	if err := env.setSecrets(ctx, c.req.Client, r.SecretEnv); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock() // one start after the other: the second needs what the first prepares
	if c.released {
		return nil, errReleased
	}
	p := &ContainerProcess{done: make(chan struct{}), resize: make(chan runtime.WinSize), signal: make(chan syscall.Signal)}
	rp := runtime.Process{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Resize: p.resize, Signal: p.signal}
	var run func() error
	if c.spec == nil {
		args := c.s.emulate(c.req.Platform, r.Args)
		spec, err := c.s.prepare(ctx, processRequest{
			args: args, env: env, cwd: r.Cwd, user: r.User, terminal: r.Terminal,
			insecure: r.Security == pb.SecurityMode_INSECURE,
		})
		if err != nil {
			return nil, err
		}
		c.spec = spec
		run = func() error { return c.w.Runtime.Run(c.ctx, c.s.id, runtime.Sandbox{Spec: spec}, rp) }
	} else {
		spec, err := c.process(r, env)
		if err != nil {
			return nil, err
		}
		rp.Spec = spec
		run = func() error { return c.w.Runtime.Exec(c.ctx, c.s.id, rp) }
	}
	executes := make(chan struct{})
	rp.Started = sync.OnceFunc(func() { close(executes) })
	c.procs.Go(func() {
		defer close(p.done)
		if err := exitError(c.ctx, run(), nil); err != nil {
			p.err = platformError(c.req.Platform, err, "")
		}
	})
	select {
	case <-executes:
	case <-p.done: // Wait tells why
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return p, nil
}

// process is the spec of a further process; what the request leaves out is the
// first one's.
func (c *Container) process(r ProcessRequest, env *environment) (*specs.Process, error) {
	p := *c.spec.Process
	p.Args, p.Terminal = r.Args, r.Terminal
	if emulator(c.req.Platform) != "" {
		p.Args = append([]string{emulatorPath}, r.Args...)
	}
	if r.Cwd != "" {
		p.Cwd = clean(r.Cwd)
	}
	if r.User != "" {
		// A process may have changed the user files since.
		user, err := lookupUser(liveRoot(c.s.root().dir), r.User)
		if err != nil {
			return nil, err
		}
		p.User = specs.User{UID: user.uid, GID: user.gid, AdditionalGids: user.groups}
		env.setDefault("HOME", user.home)
	}
	if len(r.Env) > 0 || len(r.SecretEnv) > 0 {
		env.setDefault("PATH", defaultPath)
		p.Env = env.list
	}
	return &p, nil
}

// Wait waits for the process to end. It returns nil for exit code 0, else an
// error that wraps the gateway's ExitError.
func (p *ContainerProcess) Wait() error {
	<-p.done
	return p.err
}

// Done is closed when the process has ended.
func (p *ContainerProcess) Done() <-chan struct{} { return p.done }

// Resize changes the size of the process's terminal.
func (p *ContainerProcess) Resize(ctx context.Context, size runtime.WinSize) error {
	return send(ctx, p, p.resize, size)
}

// Signal sends sig to the process.
func (p *ContainerProcess) Signal(ctx context.Context, sig syscall.Signal) error {
	return send(ctx, p, p.signal, sig)
}

// send does nothing if the process has ended.
func send[T any](ctx context.Context, p *ContainerProcess, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Release kills all processes, waits for them and removes the mounts.
func (c *Container) Release() error {
	c.cancel(errReleased)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = true
	c.procs.Wait()
	return c.s.close()
}

package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/buildd/buildd/worker/runtime"
)

// Config is what a [Runtime] is made of.
type Config struct {
	// Binary is the runtime program, a path or a name to look up; default the
	// first of runc and crun that is installed.
	Binary string
	// Root is a directory of the Runtime's own, for bundles and for the state of
	// the program.
	Root string
	// Args are further global options of the program, before the command.
	Args []string
	// Rootless: the daemon is root of a user namespace and has no privileges
	// outside it.
	Rootless bool
	// Log gets the warnings; default slog.Default().
	Log *slog.Logger
}

func (c *Config) applyDefaults() error {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	candidates := []string{c.Binary}
	if c.Binary == "" {
		candidates = []string{"runc", "crun"} // BuildKit's own order is buildkit-runc, runc
	}
	for _, name := range candidates {
		if path, err := exec.LookPath(name); err == nil {
			c.Binary = path
			return nil
		}
	}
	return fmt.Errorf("OCI runtime %s: not found in $PATH", strings.Join(candidates, " or "))
}

// Runtime runs containers. It implements runtime.Runtime.
type Runtime struct {
	config Config
	keep   bool // "run" knows --keep, so that a dead container can be looked at

	mu         sync.Mutex // guards containers
	containers map[string]*container
}

var _ runtime.Runtime = (*Runtime)(nil)

// container is one between the start and the end of Run.
type container struct {
	spec  *specs.Spec
	ended chan struct{} // closed at the end of Run
}

// New returns a runtime. Containers that a killed daemon left under c.Root are
// ended and removed.
func New(c Config) (*Runtime, error) {
	if err := c.applyDefaults(); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(c.Root) {
		return nil, fmt.Errorf("OCI runtime: root %q: want an absolute path", c.Root)
	}
	r := &Runtime{config: c, containers: make(map[string]*container)}
	for _, dir := range []string{r.bundles(), r.state()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("OCI runtime: %w", err)
		}
	}
	help, _ := exec.Command(c.Binary, "run", "--help").CombinedOutput()
	r.keep = strings.Contains(string(help), "--keep")
	help, _ = exec.Command(c.Binary, "--help").CombinedOutput()
	if c.Rootless && strings.Contains(string(help), "--cgroup-manager") {
		// crun would look at control groups that it is told not to make.
		r.config.Args = append([]string{"--cgroup-manager=disabled"}, c.Args...)
	}
	return r, r.cleanup()
}

func (r *Runtime) bundles() string { return filepath.Join(r.config.Root, "bundles") }
func (r *Runtime) state() string   { return filepath.Join(r.config.Root, "state") }

// cleanup removes what a killed daemon left.
func (r *Runtime) cleanup() error {
	left, err := os.ReadDir(r.state())
	if err != nil {
		return fmt.Errorf("OCI runtime: %w", err)
	}
	for _, e := range left {
		if runtime.CheckID(e.Name()) == nil {
			r.remove(e.Name())
		}
	}
	bundles, err := os.ReadDir(r.bundles())
	if err != nil {
		return fmt.Errorf("OCI runtime: %w", err)
	}
	for _, e := range bundles {
		if err := os.RemoveAll(filepath.Join(r.bundles(), e.Name())); err != nil {
			return fmt.Errorf("OCI runtime: %w", err)
		}
	}
	return nil
}

// command is a call of the program that ends by itself.
func (r *Runtime) command(ctx context.Context, args ...string) *exec.Cmd {
	all := append([]string{"--root", r.state()}, r.config.Args...)
	return exec.CommandContext(ctx, r.config.Binary, append(all, args...)...)
}

// removeTime bounds the calls that take a container away.
const removeTime = 10 * time.Second

// remove ends and removes a container; that there is none is what is wanted.
func (r *Runtime) remove(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), removeTime)
	defer cancel()
	out, err := r.command(ctx, "delete", "--force", id).CombinedOutput()
	if _, gone := os.Stat(filepath.Join(r.state(), id)); err != nil && gone == nil {
		r.config.Log.Warn("container is left behind", "id", id, "error", err, "output", strings.TrimSpace(string(out)))
	}
}

func (r *Runtime) add(id string, s *specs.Spec) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[id] != nil {
		return nil, fmt.Errorf("container %s is running already", id)
	}
	c := &container{spec: s, ended: make(chan struct{})}
	r.containers[id] = c
	return c, nil
}

func (r *Runtime) drop(id string, c *container) {
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	close(c.ended)
}

// Run implements runtime.Runtime.
func (r *Runtime) Run(ctx context.Context, id string, s runtime.Sandbox, p runtime.Process) error {
	if err := runtime.CheckID(id); err != nil {
		return err
	}
	if s.Spec == nil || s.Spec.Root == nil || s.Spec.Process == nil || s.Spec.Linux == nil {
		return fmt.Errorf("container %s: want root, process and linux in its spec", id)
	}
	if s.Spec.Hooks != nil {
		return fmt.Errorf("container %s: hooks are not supported", id)
	}
	if err := checkRoot(s.Spec.Root.Path); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	spec := *s.Spec
	// Older programs refuse newer versions, even if nothing new is used.
	spec.Version = "1.0.2"
	if p.Spec != nil {
		spec.Process = p.Spec
	}
	c, err := r.add(id, &spec)
	if err != nil {
		return err
	}
	defer r.drop(id, c)
	bundle, err := r.writeBundle(id, &spec)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	defer os.RemoveAll(bundle)
	defer r.remove(id)
	call := &call{
		r: r, id: id, dir: bundle, p: p, terminal: spec.Process.Terminal, size: spec.Process.ConsoleSize,
		args:   []string{"run", "--bundle", bundle},
		signal: func(ctx context.Context, sig string) error { return r.command(ctx, "kill", id, sig).Run() },
		oom:    func() bool { return oomKilled(spec.Linux.CgroupsPath) },
	}
	if r.keep {
		call.args = append(call.args, "--keep")
	}
	if err := call.run(ctx); err != nil {
		return wrap(id, err)
	}
	return nil
}

// Exec implements runtime.Runtime.
func (r *Runtime) Exec(ctx context.Context, id string, p runtime.Process) error {
	if err := runtime.CheckID(id); err != nil {
		return err
	}
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c == nil {
		return fmt.Errorf("container %s: %w", id, runtime.ErrNotRunning)
	}
	if p.Spec == nil || len(p.Spec.Args) == 0 {
		return fmt.Errorf("container %s: no process to execute", id)
	}
	if err := r.running(ctx, id); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	dir, err := os.MkdirTemp(r.bundles(), "exec-")
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	defer os.RemoveAll(dir)
	spec := *p.Spec
	if spec.Capabilities == nil {
		spec.Capabilities = c.spec.Process.Capabilities
	}
	file := filepath.Join(dir, "process.json")
	if err := writeJSON(file, &spec); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	pidFile := filepath.Join(dir, "pid")
	call := &call{
		r: r, id: id, dir: dir, p: p, terminal: spec.Terminal, size: spec.ConsoleSize,
		args:   []string{"exec", "--process", file, "--pid-file", pidFile},
		signal: func(_ context.Context, sig string) error { return signalPID(pidFile, sig) },
		oom:    func() bool { return false },
	}
	if err := call.run(ctx); err != nil {
		return wrap(id, err)
	}
	return nil
}

func wrap(id string, err error) error {
	var e *runtime.ExitError
	if errors.As(err, &e) && e.Err == nil {
		return err
	}
	return fmt.Errorf("container %s: %w", id, err)
}

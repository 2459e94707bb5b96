package main

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run of the program: the registry, the engines and what the
// workloads have made.
type bench struct {
	o        options
	dir      string // of everything
	config   string // buildkitd.toml for both daemons
	registry *registry
	engines  []engine
	made     map[string]bool // fixtures

	runSeconds float64                  // of w4b's RUN
	took       map[string]time.Duration // the last round, by engine
}

// configText turns garbage collection off, as what a round finds in the cache must
// not depend on the size of the disk, and names the control groups so that they
// can be removed.
const configText = `[worker.oci]
  gc = false
  defaultCgroupParent = "/%s"
[registry."%s"]
  http = true
`

func newBench(ctx context.Context, o options, dir string) (*bench, error) {
	b := &bench{o: o, dir: dir, config: filepath.Join(dir, "buildkitd.toml"), made: map[string]bool{}, took: map[string]time.Duration{}}
	var err error
	if b.registry, err = startRegistry(ctx, dir); err != nil {
		return nil, err
	}
	if err := b.prepare(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) prepare(ctx context.Context) error {
	if err := os.WriteFile(b.config, fmt.Appendf(nil, configText, filepath.Base(b.dir), b.registry.addr), 0o600); err != nil {
		return err
	}
	for _, name := range strings.Split(b.o.engines, ",") {
		e, err := newEngine(b.o, name, b)
		if err != nil {
			return err
		}
		b.engines = append(b.engines, e)
	}
	return b.makeBase(ctx)
}

func (b *bench) close() {
	for _, e := range b.engines {
		if err := e.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	b.registry.close()
}

func (b *bench) names() []string {
	var out []string
	for _, e := range b.engines {
		out = append(out, e.name())
	}
	return out
}

// makeBase pushes the image that most workloads build upon: busybox and the
// program that makes text.
func (b *bench) makeBase(ctx context.Context) error {
	root := filepath.Join(b.dir, "busybox.tar")
	if err := command(ctx, filepath.Join(programs(), "../../examples/make-busybox"), root); err != nil {
		return err
	}
	shell, err := compressLayer(filepath.Join(b.dir, "busybox.tar.gz"), func(w io.Writer) error { return copyFile(w, root) })
	if err != nil {
		return err
	}
	text, err := writeLayer(filepath.Join(b.dir, "text.tar.gz"), func(t *tar.Writer) error {
		return addHost(t, "bin", 0o755, filepath.Join(programs(), "text"))
	})
	if err != nil {
		return err
	}
	return b.registry.push(ctx, "base", []layer{shell, text})
}

// fixture makes something once per run of the program: make gets an empty
// directory for it, which is returned.
func (b *bench) fixture(name string, make func(dir string) error) (string, error) {
	dir := b.fixtureDir(name)
	if b.made[name] {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := make(dir); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	b.made[name] = true
	return dir, nil
}

// stateDir is what an engine keeps.
func (b *bench) stateDir(e engine) string { return filepath.Join(b.dir, e.name(), "state") }

func (b *bench) fixtureDir(name string) string { return filepath.Join(b.dir, "fixture-"+name) }

// dockerfile makes a context that is nothing but a Dockerfile; %BASE% and %DEBS%
// in it are images of the registry.
func (b *bench) dockerfile(name, text string) (string, error) {
	return b.fixture(name, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(b.expand(text)), 0o644)
	})
}

func (b *bench) expand(text string) string {
	return strings.NewReplacer("%BASE%", b.registry.ref("base"), "%DEBS%", b.registry.ref("debs")).Replace(text)
}

// workload measures a workload. The engines keep what they have if the one
// before was of the same group.
func (b *bench) workload(ctx context.Context, w, before *workload) (row, error) {
	r := row{w: w, seconds: map[string][]float64{}, peak: map[string]int64{}, why: map[string]string{}}
	if w.setup != nil {
		if err := w.setup(ctx, b); err != nil {
			return r, err
		}
	}
	if w.group == "" && !(w.cold && w.writes > 0) {
		if err := b.makeRoom(); err != nil {
			return r, err
		}
	}
	keep := w.group != "" && before != nil && before.group == w.group
	for _, e := range b.engines {
		if why := w.without[e.name()]; why != "" {
			r.why[e.name()] = why
		} else if err := b.startWorkload(ctx, w, e, keep); err != nil {
			r.fail(e, err)
		}
	}
	rounds := b.o.rounds + 1
	if w.once {
		rounds = 1
	}
	for n := range rounds {
		for _, e := range b.engines {
			if r.why[e.name()] != "" || !b.takesPart(e, n) {
				continue
			}
			s, err := b.round(ctx, w, e, n, &r)
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			if err != nil {
				r.fail(e, fmt.Errorf("round %d: %w", n, err))
				continue
			}
			if b.o.verbose {
				fmt.Fprintf(os.Stderr, "%s round %d %s %.3f\n", w.name, n, e.name(), s)
			}
			if n > 0 || w.once {
				r.seconds[e.name()] = append(r.seconds[e.name()], s)
			}
		}
	}
	if w.floor != "" {
		r.floor = b.floor(ctx, w)
	}
	return r, nil
}

// takesPart tells whether an engine is in round n.
func (b *bench) takesPart(e engine, n int) bool {
	return e.name() != "buildah" || b.o.buildah == 0 || n > 0 && n <= b.o.buildah
}

// setAside gives a path another name, free for what begins anew. It stays until
// makeRoom: ext4 does not use an inode again for minutes after its file was
// removed, but looks at each of them for every new file, so that after a state
// directory of many files was removed nothing else would be measured.
func setAside(path string) error {
	for n := 0; ; n++ {
		to := fmt.Sprintf("%s.%d", path, n)
		switch err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err {
		case nil:
			return forget(to)
		case unix.EEXIST:
		case unix.ENOENT:
			return nil
		default:
			return err
		}
	}
}

// makeRoom removes what was set aside: before workloads that make few files or
// whose rounds begin with many seconds of other work.
func (b *bench) makeRoom() error {
	for _, pattern := range []string{"*/state.*", "floor.*"} {
		old, err := filepath.Glob(filepath.Join(b.dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range old {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("make room: %w", err)
			}
		}
	}
	return nil
}

// forget lets the kernel drop what it holds of the files below a directory, as
// if they had been removed: memory that a virtual machine has not used yet is
// slow at first, and every round would use more of it.
func forget(dir string) error {
	unix.Sync() // what is not on the disk stays
	return eachFile(dir, func(f *os.File) error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) })
}

// useMemory makes the kernel have so many bytes of free memory that were used a
// moment ago: a virtual machine gives free memory back to its host, and
// the first write to what comes from there takes longer than anything else.
func useMemory(bytes int64) error {
	if bytes == 0 {
		return nil
	}
	m, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("use %d bytes of memory: %w", bytes, err)
	}
	return unix.Munmap(m)
}

// readAll reads every file below a directory: what is given to a build has
// mostly just been written, so it is not the disk that is measured.
func readAll(dir string) error {
	return eachFile(dir, func(f *os.File) error {
		_, err := io.Copy(io.Discard, f)
		return err
	})
}

// eachFile calls fn for every regular file below dir.
func eachFile(dir string, fn func(f *os.File) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return fn(f)
	})
}

func (b *bench) startWorkload(ctx context.Context, w *workload, e engine, keep bool) error {
	if !keep {
		if err := e.fresh(ctx, w.network()); err != nil {
			return err
		}
	}
	if w.start == nil {
		return nil
	}
	return w.start(ctx, b, e)
}

func (w *workload) network() string {
	if w.net == "" {
		return "host"
	}
	return w.net
}

// round runs a workload once and returns what it is measured by. What memory
// was used goes to r.
func (b *bench) round(ctx context.Context, w *workload, e engine, n int, r *row) (float64, error) {
	if w.cold && n > 0 {
		if err := e.fresh(ctx, w.network()); err != nil {
			return 0, err
		}
	}
	if w.before != nil {
		if err := w.before(ctx, b, e, n); err != nil {
			return 0, fmt.Errorf("prepare: %w", err)
		}
	}
	unix.Sync() // what others have written is not for this one to wait for
	if w.read != nil {
		if err := w.read(ctx, b, e); err != nil {
			return 0, fmt.Errorf("prepare: %w", err)
		}
	}
	if err := useMemory(w.writes); err != nil {
		return 0, fmt.Errorf("prepare: %w", err)
	}
	timed, cancel := context.WithTimeout(ctx, b.o.limit)
	defer cancel()
	profiled := b.profile(timed, w, e, n)
	start := time.Now()
	o, err := w.run(timed, b, e, n)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	b.took[e.name()] = took
	if err := <-profiled; err != nil {
		return 0, err
	}
	m, err := e.memory()
	if err != nil {
		return 0, err
	}
	r.peak[e.name()] = max(r.peak[e.name()], m.peak)
	if w.after != nil {
		if err := w.after(ctx, b, e, n, o); err != nil {
			return 0, fmt.Errorf("check: %w", err)
		}
	}
	if w.value != nil {
		return w.value(e)
	}
	return took.Seconds(), nil
}

// floor measures what the machine allows.
func (b *bench) floor(ctx context.Context, w *workload) []float64 {
	var out []float64
	for range b.o.rounds {
		dir := filepath.Join(b.dir, "floor")
		if err := setAside(dir); err != nil || os.Mkdir(dir, 0o755) != nil {
			return nil
		}
		unix.Sync()
		if w.read != nil && w.read(ctx, b, nil) != nil || useMemory(w.writes) != nil {
			return nil
		}
		cmd := exec.CommandContext(ctx, filepath.Join(programs(), "floor"), w.floor, dir, b.dir)
		cmd.Env = append(os.Environ(), fmt.Sprint("RUN_SECONDS=", b.runSeconds))
		cmd.Stderr = os.Stderr
		text, err := cmd.Output()
		if err != nil {
			fmt.Fprintf(os.Stderr, "floor of %s: %v\n", w.name, err)
			return nil
		}
		s, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		if err != nil {
			fmt.Fprintf(os.Stderr, "floor of %s: %v\n", w.name, err)
			return nil
		}
		out = append(out, s)
	}
	return out
}

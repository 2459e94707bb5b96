package op

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/mount"
	"github.com/buildd/buildd/worker/session"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sandboxRequest is what a container is made of before anything runs in it.
type sandboxRequest struct {
	name       string
	mounts     []*pb.Mount
	inputs     []cache.Tree
	client     session.Client
	network    pb.NetMode
	hostname   string
	extraHosts []*pb.HostIP
	cwd        string // relative targets begin here
}

// sandbox holds all mounts of one container.
type sandbox struct {
	w      *Worker
	id     string
	dir    string // of files and mount points of this sandbox
	req    sandboxRequest
	lease  *tree.Lease
	layout layout
	trees  []*treeMount // the root first
	mounts []plannedMount
	memory *mount.Memory
	// owner gets what the container's processes make, where they cannot be his.
	owner execUser
	// closers undo what was done, last first.
	closers []func() error
}

// plannedMount is a mount of the spec; its source is known when what it mounts
// is.
type plannedMount struct {
	specs.Mount
	m     *pb.Mount  // nil for those that every container has
	tree  *treeMount // nil for others
	isDir bool
}

// newSandbox plans and mounts. The caller closes the sandbox.
func (w *Worker) newSandbox(ctx context.Context, r sandboxRequest) (_ *sandbox, err error) {
	id := newID()
	s := &sandbox{w: w, id: id, dir: filepath.Join(w.Dir, id), req: r, lease: w.Trees.Lease("exec-" + id)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := os.Mkdir(s.dir, 0o711); err != nil {
		return nil, fmt.Errorf("make sandbox: %w", err)
	}
	s.onClose(func() error { return os.NewSyscallError("rmdir", unix.Rmdir(s.dir)) })
	s.onClose(func() error { s.lease.Release(); return nil })
	if err := s.addFiles(); err != nil {
		return nil, err
	}
	if err := s.addMounts(ctx); err != nil {
		return nil, err
	}
	return s, s.plan()
}

func (s *sandbox) onClose(f func() error) { s.closers = append(s.closers, f) }

// close removes everything. It may be called again.
func (s *sandbox) close() error {
	var errs []error
	for len(s.closers) > 0 {
		f := s.closers[len(s.closers)-1]
		s.closers = s.closers[:len(s.closers)-1]
		if err := f(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("remove sandbox: %w", errors.Join(errs...))
	}
	return nil
}

// addFiles plans the files that every container gets.
func (s *sandbox) addFiles() error {
	resolv, err := s.w.resolvConf(s.req.network)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		dest string
		data []byte
	}{
		{"/etc/resolv.conf", resolv},
		{"/etc/hosts", hostsFile(s.req.hostname, s.req.extraHosts)},
	} {
		src := filepath.Join(s.dir, filepath.Base(f.dest))
		if err := os.WriteFile(src, f.data, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", f.dest, err)
		}
		s.onClose(func() error { return os.Remove(src) })
		s.mounts = append(s.mounts, plannedMount{Mount: specs.Mount{
			Destination: f.dest, Type: "bind", Source: src,
			Options: []string{"bind", "ro", "nosuid", "noexec", "nodev", "rprivate"},
		}})
	}
	return nil
}

// addMounts plans what the op mounts.
func (s *sandbox) addMounts(ctx context.Context) error {
	for _, m := range s.req.mounts {
		var t cache.Tree
		if m.Input != none {
			t = s.req.inputs[m.Input]
		}
		p := plannedMount{m: m, isDir: true, Mount: specs.Mount{Destination: mountDest(m.Dest, s.req.cwd)}}
		var err error
		switch m.MountType {
		case pb.MountType_BIND:
			p.tree, err = s.w.newTreeMount(ctx, m, t)
		case pb.MountType_TMPFS:
			p.Mount = tmpfs(p.Destination, m)
		case pb.MountType_SECRET:
			p.isDir = false
			p.Mount, err = s.secret(ctx, p.Destination, m)
		case pb.MountType_SSH:
			p.isDir = false
			p.Mount, err = s.ssh(ctx, p.Destination, m)
		case pb.MountType_CACHE: // acquired together, below
		default:
			err = fmt.Errorf("type %s is unknown", m.MountType)
		}
		switch {
		case errors.Is(err, errAbsent):
			continue
		case err != nil:
			return fmt.Errorf("mount %s: %w", m.Dest, err)
		case p.tree != nil && m.Dest == pb.RootMount:
			s.layout.root = p.tree
			s.trees = slices.Insert(s.trees, 0, p.tree)
			continue
		case p.tree != nil:
			p.isDir = p.tree.isDir
			s.trees = append(s.trees, p.tree)
		}
		s.mounts = append(s.mounts, p)
	}
	return s.acquireCaches(ctx)
}

func tmpfs(dest string, m *pb.Mount) specs.Mount {
	o := []string{"nosuid"}
	if m.Readonly {
		o = append(o, "ro")
	}
	if size := m.TmpfsOpt.GetSize(); size > 0 {
		o = append(o, "size="+strconv.FormatInt(size, 10))
	}
	return specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: o}
}

// plan finds the mount points, with parents first. Mounts of the op come after
// those that every container has.
func (s *sandbox) plan() error {
	slices.SortStableFunc(s.mounts, func(a, b plannedMount) int {
		if (a.m == nil) != (b.m == nil) {
			if a.m == nil {
				return -1
			}
			return 1
		}
		if a.m == nil {
			return 0
		}
		return cmp.Compare(a.Destination, b.Destination)
	})
	for _, dest := range s.w.defaults {
		if err := s.layout.mountOn(dest, true, nil, ""); err != nil {
			return err
		}
	}
	for i := range s.mounts {
		p := &s.mounts[i]
		sel := ""
		if p.tree != nil {
			sel = p.tree.sel
		}
		if err := s.layout.mountOn(p.Destination, p.isDir, p.tree, sel); err != nil {
			return err
		}
		// So the runtime has no links to follow and ends up at the prepared place.
		p.Destination = s.layout.places[len(s.layout.places)-1].path
	}
	return nil
}

// mountTrees mounts all trees once; after it the spec's mounts are complete.
func (s *sandbox) mountTrees(ctx context.Context) error {
	if s.root().dir != "" {
		return nil
	}
	for _, t := range slices.Backward(s.trees) { // the root last: it tells that all are mounted
		done, err := t.mount(ctx, s.w, s.lease)
		if err != nil {
			return err
		}
		s.onClose(done)
	}
	for i := range s.mounts {
		p := &s.mounts[i]
		if p.tree == nil {
			continue
		}
		p.Mount = bindMount(p.Destination, p.tree.source(), p.m.Readonly)
	}
	return nil
}

func bindMount(dest, source string, readonly bool) specs.Mount {
	access := "rw"
	if readonly {
		access = "ro"
	}
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", access}}
}

// specMounts are the mounts of the runtime-spec beside its own.
func (s *sandbox) specMounts() []specs.Mount {
	out := make([]specs.Mount, len(s.mounts))
	for i, p := range s.mounts {
		out[i] = p.Mount
	}
	return out
}

// root is the root file system.
func (s *sandbox) root() *treeMount { return s.layout.root }

// outputs commits what the step wrote, in the order of the op's outputs.
func (s *sandbox) outputs(ctx context.Context) ([]cache.Tree, error) {
	out := map[int64]cache.Tree{}
	for _, t := range s.trees {
		if t.output == none {
			continue
		}
		tr, err := t.commit(ctx, s)
		if err != nil {
			return nil, err
		}
		out[t.output] = tr
	}
	for _, p := range s.mounts { // a cache mount's output is what it was made of
		if p.m != nil && p.tree == nil && outputOf(p.m) != none {
			out[p.m.Output] = s.req.inputs[p.m.Input]
		}
	}
	trees := make([]cache.Tree, len(out))
	for i, t := range out {
		trees[i] = t
	}
	return trees, nil
}

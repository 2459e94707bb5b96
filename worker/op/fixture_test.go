package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/mount"
	"github.com/buildd/buildd/worker/network"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var epoch = time.Unix(1700000000, 0)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for mounts, owners and devices")
	}
}

// newWorker returns a worker over stores of its own, and checks at the end of
// the test that nothing is left of what it did but trees.
func newWorker(t testing.TB) *Worker {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	trees, err := tree.Open(tree.Config{Dir: filepath.Join(dir, "trees"), Blobs: blobs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trees.Close(); err != nil {
			t.Error(err)
		}
	})
	caches, err := mount.OpenCaches(filepath.Join(dir, "caches"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(Config{
		Dir: filepath.Join(dir, "run"), Trees: trees, Runtime: testRuntime(t, filepath.Join(dir, "runtime")), Caches: caches,
		CgroupParent: cgroupParent,
		Networks:     map[pb.NetMode]network.Provider{pb.NetMode_UNSET: loopback{}, pb.NetMode_NONE: loopback{}, pb.NetMode_HOST: host{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if entries, err := os.ReadDir(w.Dir); err != nil || len(entries) > 0 {
			t.Errorf("left behind in the worker's directory: %v %v", entries, err)
		}
		left, err := mountinfo.GetMounts(func(i *mountinfo.Info) (bool, bool) {
			return !strings.HasPrefix(i.Mountpoint, w.Dir+"/") && !strings.HasPrefix(i.Mountpoint, dir+"/trees/mounts/"), false
		})
		for _, m := range left {
			t.Errorf("mount left behind: %+v", *m)
		}
		if err != nil {
			t.Error(err)
		}
		for _, dir := range cgroups(t, "/*") {
			t.Errorf("control group left behind: %v", dir)
		}
		if entries, err := os.ReadDir(filepath.Join(dir, "trees", "drafts")); err == nil && len(entries) > 0 {
			t.Errorf("unfinished layers left behind: %v", entries)
		}
	})
	return w
}

// cgroups lists the control groups of these tests that match, whichever version
// the machine has.
func cgroups(t testing.TB, below string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup" + cgroupParent + below, "/sys/fs/cgroup/*" + cgroupParent + below} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if fi, err := os.Stat(p); err == nil && fi.IsDir() {
				out = append(out, p)
			}
		}
	}
	return out
}

// loopback is a network with nothing but a loopback device.
type loopback struct{}

func (loopback) New(context.Context, string) (network.Namespace, error) { return loopback{}, nil }
func (loopback) Configure(*specs.Spec) error                            { return nil }
func (loopback) Close() error                                           { return nil }

// host is the daemon's own network.
type host struct{ loopback }

func (host) New(context.Context, string) (network.Namespace, error) { return host{}, nil }
func (host) Configure(s *specs.Spec) error {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	return nil
}

// grow makes a tree over parent. Each line is "type[:mode[:uid:gid]] path [rest]" with the
// types d, f (content), l (target), h (other path), p (fifo), w (whiteout).
func grow(t testing.TB, w *Worker, parent cache.Tree, lines ...string) cache.Tree {
	t.Helper()
	d, err := w.Trees.NewDraft(t.Context(), parent)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if err := growOne(d.Dir, line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	err = filepath.WalkDir(d.Dir, func(p string, _ os.DirEntry, err error) error {
		ts := unix.NsecToTimespec(epoch.UnixNano())
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := d.Commit(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func growOne(dir, line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	name, arg, _ := strings.Cut(rest, " ")
	opts := strings.Split(kind, ":")
	p := filepath.Join(dir, name)
	err := os.MkdirAll(filepath.Dir(p), 0o755)
	switch opts[0] {
	case "d":
		err = errors.Join(err, os.MkdirAll(p, 0o755))
	case "f":
		err = errors.Join(err, os.WriteFile(p, []byte(strings.ReplaceAll(arg, `\n`, "\n")), 0o644))
	case "l":
		err = errors.Join(err, os.Symlink(arg, p))
	case "h":
		err = errors.Join(err, os.Link(filepath.Join(dir, arg), p))
	case "p":
		err = errors.Join(err, unix.Mkfifo(p, 0o644))
	case "w":
		err = errors.Join(err, unix.Mknod(p, unix.S_IFCHR, 0))
	default:
		err = fmt.Errorf("unknown type %q", kind)
	}
	if err == nil && len(opts) > 2 {
		var uid, gid int
		fmt.Sscan(opts[2], &uid)
		fmt.Sscan(opts[3], &gid)
		err = os.Lchown(p, uid, gid)
	}
	if err == nil && len(opts) > 1 {
		var m uint32
		fmt.Sscanf(opts[1], "%o", &m)
		err = unix.Chmod(p, m)
	}
	return err
}

// files describes what a tree holds, one line per path but the root:
// "type:mode[:uid:gid] path [content|target]".
func files(t testing.TB, w *Worker, tr cache.Tree) []string {
	t.Helper()
	v, err := w.Trees.Files(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	err = v.Walk("/", func(p string, e digest.Entry) error {
		if p != "/" {
			out = append(out, describe(t, v, p, e))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func describe(t testing.TB, v *digest.View, p string, e digest.Entry) string {
	t.Helper()
	mode := fmt.Sprintf(":%o", e.Mode&0o7777)
	if e.UID != 0 || e.GID != 0 {
		mode += fmt.Sprintf(":%d:%d", e.UID, e.GID)
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "d" + mode + " " + p
	case unix.S_IFREG:
		f, err := v.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 40)
		n, _ := f.Read(b)
		return strings.TrimSuffix("f"+mode+" "+p+" "+strings.ReplaceAll(string(b[:n]), "\n", `\n`), " ")
	case unix.S_IFLNK:
		return "l " + p + " " + e.Link
	case unix.S_IFIFO:
		return "p" + mode + " " + p
	default:
		return fmt.Sprintf("%o %s", e.Mode, p)
	}
}

// expect compares what a tree holds with lines, whose order does not matter.
func expect(t testing.TB, w *Worker, tr cache.Tree, lines ...string) {
	t.Helper()
	got, want := files(t, w, tr), slices.Clone(lines)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("tree holds\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// top lists the topmost layer alone, whiteouts and all.
func top(t testing.TB, w *Worker, tr cache.Tree) []string {
	t.Helper()
	v, err := w.Trees.Files(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	layers := v.Layers()
	var out []string
	for _, e := range layers[len(layers)-1].Index.Entries() {
		switch {
		case e.Path == "":
		case e.Whiteout:
			out = append(out, "w /"+e.Path)
		case e.Opaque:
			out = append(out, "o /"+e.Path)
		default:
			out = append(out, "/"+e.Path)
		}
	}
	return out
}

// record is a Progress that keeps what it hears.
type record struct {
	mu  sync.Mutex
	out [3]strings.Builder
}

func (r *record) Log(stream int, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out[stream].Write(p)
}
func (r *record) Status(solver.Status) {}

func (r *record) stdout() string { return r.text(1) }
func (r *record) stderr() string { return r.text(2) }

func (r *record) text(stream int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out[stream].String()
}

package digest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// viewOf makes a view of layers that have no files, bottom first.
func viewOf(t testing.TB, layers ...[]Entry) *View {
	t.Helper()
	var ls []Layer
	for _, es := range layers {
		ls = append(ls, Layer{Dir: "/nonexistent", Index: index(t, es...)})
	}
	return NewView(ls)
}

// walkAll lists a view, one line per path.
func walkAll(t testing.TB, v *View, root string) []string {
	t.Helper()
	var out []string
	must(t, v.Walk(root, func(path string, e Entry) error {
		if path != "/"+e.Path {
			t.Errorf("walk gives %q with the entry %q", path, e.Path)
		}
		if e.Whiteout || e.Opaque {
			t.Errorf("a view shows %+v", e)
		}
		out = append(out, path)
		return nil
	}))
	return out
}

func TestViewMerges(t *testing.T) {
	v := viewOf(t,
		[]Entry{dir("etc"), file("etc/a", "1"), file("etc/b", "1"), dir("usr"), dir("usr/x"), file("usr/x/1", ""), file("top", "1"), dir("d"), file("d/f", ""), dir("w"), dir("w/x"), file("w/x/y", "")},
		[]Entry{dir("etc"), whiteout("etc/a"), file("etc/c", "2"), dir("usr"), opaque("usr/x"), file("usr/x/2", ""), whiteout("top"), file("d", "now a file"), whiteout("w")},
		[]Entry{dir("etc"), file("etc/a", "3"), dir("usr"), dir("usr/x"), file("usr/x/3", ""), dir("d"), file("d/g", ""), whiteout("nothing"), dir("w"), file("w/z", "")},
	)
	want := []string{"/", "/d", "/d/g", "/etc", "/etc/a", "/etc/b", "/etc/c", "/usr", "/usr/x", "/usr/x/2", "/usr/x/3", "/w", "/w/z"}
	if got := walkAll(t, v, "/"); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	es, err := v.ReadDir("etc/")
	if err != nil || len(es) != 3 || es[0].Hash != file("", "3").Hash || es[2].Path != "etc/c" {
		t.Errorf("ReadDir: %v, %v", es, err)
	}
	for _, p := range []string{"/top", "/usr/x/1", "/d/f", "/nothing", "/etc/b/x", "/w/x"} {
		if e, err := v.Lstat(p); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), p) {
			t.Errorf("Lstat(%s) = %v, %v", p, e, err)
		}
	}
	if p, err := v.HostPath("/etc/b"); err != nil || p != "/nonexistent/etc/b" {
		t.Error(p, err)
	}
	if _, err := v.ReadDir("/etc/a"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("ReadDir of a file: %v", err)
	}
}

func TestViewOfNothing(t *testing.T) {
	v := NewView(nil)
	if e, err := v.Stat("/"); err != nil || !e.IsDir() {
		t.Error(e, err)
	}
	if es, err := v.ReadDir("/"); err != nil || len(es) > 0 {
		t.Error(es, err)
	}
	if _, err := v.HostPath("/"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := v.Content(t.Context(), Selection{Paths: []Select{{Path: "/"}}}); err != nil {
		t.Error(err)
	}
}

func TestViewOpaqueRoot(t *testing.T) {
	v := viewOf(t, []Entry{file("a", "")}, []Entry{opaque(""), file("b", "")}, []Entry{file("c", "")})
	if got := walkAll(t, v, "/"); !slices.Equal(got, []string{"/", "/b", "/c"}) {
		t.Errorf("%q", got)
	}
}

func TestViewWalkSkips(t *testing.T) {
	v := viewOf(t, []Entry{dir("a"), file("a/1", ""), file("a/2", ""), dir("b"), file("b/1", ""), link("c", "b")})
	for name, c := range map[string]struct {
		root, at string
		err      error
		want     []string
	}{
		"all":              {"/", "", nil, []string{"/", "/a", "/a/1", "/a/2", "/b", "/b/1", "/c"}},
		"below":            {"a/../b/", "", nil, []string{"/b", "/b/1"}},
		"a link":           {"/c", "", nil, []string{"/c"}},
		"skip a directory": {"/", "/a", fs.SkipDir, []string{"/", "/a", "/b", "/b/1", "/c"}},
		"skip at a file":   {"/", "/a/1", fs.SkipDir, []string{"/", "/a", "/a/1", "/b", "/b/1", "/c"}},
		"skip the rest":    {"/", "/a/1", fs.SkipAll, []string{"/", "/a", "/a/1"}},
		"skip the root":    {"/", "/", fs.SkipDir, []string{"/"}},
		"skip root file":   {"/c", "/c", fs.SkipDir, []string{"/c"}},
	} {
		var got []string
		err := v.Walk(c.root, func(path string, _ Entry) error {
			got = append(got, path)
			if path == c.at {
				return c.err
			}
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
	if err := v.Walk("/", func(string, Entry) error { return io.ErrClosedPipe }); err != io.ErrClosedPipe {
		t.Error(err)
	}
	if err := v.Walk("/nosuch", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestViewResolve(t *testing.T) {
	v := viewOf(t,
		[]Entry{dir("usr"), dir("usr/lib"), file("usr/lib/so", ""), link("lib", "usr/lib"), dir("a"), dir("a/b")},
		[]Entry{link("abs", "/usr/lib"), link("up", "../../../usr"), link("loop", "loop2"), link("loop2", "loop"), dir("a"),
			link("a/rel", "../lib/so"), link("a/dot", "."), link("dangling", "no/such/../file"), link("self", "self/x"), link("to-root", "/")},
	)
	for _, c := range []struct {
		path         string
		link, follow string
	}{
		{"", "/", "/"}, {"/", "/", "/"}, {".", "/", "/"}, {"..", "/", "/"}, {"/../../usr", "/usr", "/usr"},
		{"lib", "/lib", "/usr/lib"}, {"/lib/", "/lib", "/usr/lib"}, {"/lib/.", "/usr/lib", "/usr/lib"}, {"lib/so", "/usr/lib/so", "/usr/lib/so"}, {"lib/../x", "/usr/x", "/usr/x"},
		{"abs/so", "/usr/lib/so", "/usr/lib/so"}, {"up/lib/so", "/usr/lib/so", "/usr/lib/so"}, {"a/rel", "/a/rel", "/usr/lib/so"},
		{"a/dot/dot/dot/rel", "/a/rel", "/usr/lib/so"}, {"dangling", "/dangling", "/no/file"}, {"dangling/x", "/no/file/x", "/no/file/x"},
		{"no/such", "/no/such", "/no/such"}, {"no/../usr", "/usr", "/usr"}, {"no/../lib/so", "/usr/lib/so", "/usr/lib/so"}, {"usr/lib/so/below", "/usr/lib/so/below", "/usr/lib/so/below"},
		{"to-root/a/b", "/a/b", "/a/b"}, {"a//b///", "/a/b", "/a/b"},
	} {
		if got, err := v.Resolve(c.path, false); err != nil || got != c.link {
			t.Errorf("Resolve(%q, false) = %q, %v; want %q", c.path, got, err, c.link)
		}
		if got, err := v.Resolve(c.path, true); err != nil || got != c.follow {
			t.Errorf("Resolve(%q, true) = %q, %v; want %q", c.path, got, err, c.follow)
		}
	}
	for _, p := range []string{"loop/x", "self/y"} {
		if got, err := v.Resolve(p, false); !errors.Is(err, unix.ELOOP) {
			t.Errorf("Resolve(%q) = %q, %v", p, got, err)
		}
	}
	if _, err := v.Stat("loop"); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if e, err := v.Lstat("loop"); err != nil || !e.IsSymlink() {
		t.Error(e, err)
	}
	if e, err := v.Stat("a/rel"); err != nil || e.Path != "usr/lib/so" {
		t.Error(e, err)
	}
	if _, err := v.Stat("dangling"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestViewOpen(t *testing.T) {
	needRoot(t)
	lower, upper, outside := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, lower, map[string]string{"etc/passwd": "lower", "etc/hosts": "lower", "link": "-> /etc/passwd", "dir/f": "x", "evil/f": "x"})
	write(t, upper, map[string]string{"etc/passwd": "upper"})
	write(t, outside, map[string]string{"f": "secret"})
	must(t, unix.Mkfifo(filepath.Join(lower, "fifo"), 0o600))
	v := NewView([]Layer{{lower, scan(t, lower)}, {upper, scan(t, upper)}})
	for path, want := range map[string]string{"/etc/passwd": "upper", "etc/hosts": "lower", "/link": "upper", "dir/../link": "upper"} {
		f, err := v.Open(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		b, err := io.ReadAll(f)
		if string(b) != want || err != nil {
			t.Errorf("%s: %q, %v", path, b, err)
		}
		must(t, f.Close())
	}
	for _, path := range []string{"/etc", "/fifo", "/nosuch"} {
		if _, err := v.Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s): %v", path, err)
		}
	}
	// What was a directory or a file when it was indexed may be a link by now.
	must(t, os.RemoveAll(filepath.Join(lower, "evil")))
	must(t, os.Symlink(outside, filepath.Join(lower, "evil")))
	must(t, os.Remove(filepath.Join(lower, "dir/f")))
	must(t, os.Symlink(filepath.Join(outside, "f"), filepath.Join(lower, "dir/f")))
	must(t, os.Remove(filepath.Join(lower, "etc/hosts")))
	must(t, unix.Mkfifo(filepath.Join(lower, "etc/hosts"), 0o600))
	for _, path := range []string{"/evil/f", "/dir/f", "/etc/hosts"} {
		if _, err := v.Open(path); err == nil {
			t.Errorf("Open(%s): no error", path)
		}
	}
}

// mountOverlay mounts layers read-only, bottom first, until the test ends.
func mountOverlay(t *testing.T, dirs []string) string {
	t.Helper()
	at := t.TempDir()
	empty := t.TempDir() // overlay wants two layers
	var lower strings.Builder
	for i := len(dirs) - 1; i >= 0; i-- {
		lower.WriteString(dirs[i] + ":")
	}
	opts := "redirect_dir=off,metacopy=off,index=off,lowerdir=" + lower.String() + empty
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, opts); err != nil {
		t.Skipf("SKIPPED: cannot mount overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return at
}

// randomLayers makes layers that replace, hide and merge what those below have,
// from few names so that they meet.
func randomLayers(t *testing.T, r *rand.Rand, n int) []string {
	t.Helper()
	names := []string{"a", "b", "a-b", "c.d"}
	var dirs []string
	var layers []Layer
	for i := range n {
		dir := t.TempDir()
		made := []string{""}
		opaque := map[string]bool{}
		below := NewView(layers)
		for range 25 {
			rel := join(made[r.IntN(len(made))], names[r.IntN(len(names))])
			p := filepath.Join(dir, rel)
			switch r.IntN(8) {
			case 0, 1, 2, 3:
				if os.Mkdir(p, os.FileMode(0o700+r.IntN(0o100))) == nil {
					made = append(made, rel)
					opaque[rel] = opaque[filepath.Dir(rel)]
					if r.IntN(4) == 0 {
						must(t, unix.Setxattr(p, OpaqueXattr(false), []byte("y"), 0))
						opaque[rel] = true
					}
				}
			case 4, 5:
				if _, err := os.Lstat(p); err != nil {
					must(t, os.WriteFile(p, []byte(fmt.Sprint(i, rel)), 0o644))
				}
			case 6:
				// Where a whiteout hides nothing, its directory may not be merged, and
				// of a directory that is not overlay lists whiteouts.
				if e, err := below.Lstat(rel); err == nil && e.Path == rel && !opaque[filepath.Dir(rel)] {
					_ = unix.Mknod(p, unix.S_IFCHR, 0)
				}
			case 7:
				_ = os.Symlink([]string{"a", "../b", "/a/b", "."}[r.IntN(4)], p)
			}
		}
		dirs = append(dirs, dir)
		layers = append(layers, Layer{dir, scan(t, dir)})
	}
	return dirs
}

// TestViewIsWhatOverlayMounts compares views with mounts of the same layers.
func TestViewIsWhatOverlayMounts(t *testing.T) {
	needRoot(t)
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		dirs := randomLayers(t, r, 1+r.IntN(5))
		var layers []Layer
		for _, dir := range dirs {
			layers = append(layers, Layer{dir, scan(t, dir)})
		}
		v := NewView(layers)
		at := mountOverlay(t, dirs)
		mounted := scan(t, at)
		var want []string
		for e := range mounted.All() {
			want = append(want, "/"+e.Path)
			got, err := v.Lstat("/" + e.Path)
			// The mount's root has its top layer's time, too, but a directory's
			// own is not compared: what was created in it changed it.
			if err != nil || got.Mode != e.Mode || got.Hash != e.Hash || got.Link != e.Link || got.Path != e.Path || !got.ModTime.Equal(e.ModTime) {
				t.Errorf("seed %d: %q is %+v, %v; mounted %+v", seed, e.Path, got, err, e)
			}
		}
		got := walkAll(t, v, "/")
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: got\n%q\nwant\n%q", seed, got, want)
		}
		for range 40 {
			p := randomPath(r)
			host, herr := openIn(at, p)
			got, err := v.Stat(p)
			// The kernel goes nowhere from what is no directory, not even by "..".
			lenient := err == nil && herr != nil && strings.Contains(p, "/.")
			if (herr == nil) != (err == nil) && !lenient || herr == nil && host != "/"+got.Path {
				t.Errorf("seed %d: Stat(%s) = %q, %v; mounted %q, %v", seed, p, got.Path, err, host, herr)
			}
		}
		if t.Failed() {
			return
		}
	}
}

func randomPath(r *rand.Rand) string {
	els := []string{"a", "b", "a-b", "c.d", "..", "."}
	var p []string
	for range 1 + r.IntN(6) {
		p = append(p, els[r.IntN(len(els))])
	}
	return "/" + strings.Join(p, "/")
}

// openIn resolves a path with at as root by the kernel, and returns where that
// is below at.
func openIn(at, path string) (string, error) {
	root, err := unix.Open(at, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	p, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if p == at {
		return "/", err
	}
	return strings.TrimPrefix(p, at), err
}

// TestViewOfALongChain would take minutes if a lookup went through all layers.
func TestViewOfALongChain(t *testing.T) {
	const n = 1000
	base := []Entry{dir("usr"), dir("usr/share")}
	for i := range 5000 {
		base = append(base, file(fmt.Sprintf("usr/share/f%05d", i), ""))
	}
	layers := []Layer{{Index: index(t, base...)}}
	for i := range n {
		layers = append(layers, Layer{Index: index(t, dir("usr"), dir("usr/share"), file(fmt.Sprintf("usr/share/f%05d", i), "new"), dir("etc"), file("etc/conf", fmt.Sprint(i)))})
	}
	start := time.Now()
	v := NewView(layers)
	for range 20 {
		for i := range 5000 {
			e, err := v.Lstat(fmt.Sprintf("/usr/share/f%05d", i))
			if err != nil || (e.Size > 0) != (i < n) {
				t.Fatal(e, err)
			}
		}
	}
	if _, err := v.Content(t.Context(), Selection{Paths: []Select{{Path: "/"}}}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

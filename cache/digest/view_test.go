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

	"github.com/buildd/buildd/cache"
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

func TestContentOfAView(t *testing.T) {
	layers := [][]Entry{
		{dir("src"), file("src/a.go", "1"), file("src/b.go", "2"), file("src/c.txt", "3"), dir("src/sub"), file("src/sub/d.go", "4"), link("link", "src"), link("file", "src/a.go"), dir("empty"), link("dangling", "nosuch")},
	}
	key := func(s Select, top ...Entry) string {
		t.Helper()
		v := viewOf(t, append(slices.Clone(layers), top)...)
		k, err := v.Content(t.Context(), Selection{Paths: []Select{s}})
		if err != nil {
			t.Fatal(err)
		}
		return k.String()
	}
	newTime := file("src/a.go", "1")
	newTime.ModTime = time.Unix(1, 1)
	mode := file("src/a.go", "1")
	mode.Mode ^= 0o100
	dirMode := dir("src")
	dirMode.Mode ^= 0o100
	subMode := dir("src/sub")
	subMode.UID = 5
	change := map[string][]Entry{
		"nothing":     {dir("src"), newTime},
		"a.go":        {dir("src"), file("src/a.go", "changed")},
		"a.go mode":   {dir("src"), mode},
		"d.go":        {dir("src"), dir("src/sub"), file("src/sub/d.go", "changed")},
		"sub owner":   {dir("src"), subMode},
		"src mode":    {dirMode},
		"c.txt gone":  {dir("src"), whiteout("src/c.txt")},
		"new e.go":    {dir("src"), file("src/e.go", "")},
		"new sub2":    {dir("src"), dir("src/sub2"), file("src/sub2/x.go", "")},
		"elsewhere":   {file("other", "")},
		"file target": {link("file", "src/b.go")},
	}
	for name, c := range map[string]struct {
		s    Select
		want []string // the changes that count
	}{
		"root":               {Select{Path: "/"}, []string{"a.go", "a.go mode", "d.go", "sub owner", "src mode", "c.txt gone", "new e.go", "new sub2", "elsewhere", "file target"}},
		"directory":          {Select{Path: "/src"}, []string{"a.go", "a.go mode", "d.go", "sub owner", "src mode", "c.txt gone", "new e.go", "new sub2"}},
		"contents":           {Select{Path: "/src", Contents: true}, []string{"a.go", "a.go mode", "d.go", "sub owner", "c.txt gone", "new e.go", "new sub2"}},
		"a file":             {Select{Path: "src/./a.go"}, []string{"a.go", "a.go mode"}},
		"through link":       {Select{Path: "/link/a.go"}, []string{"a.go", "a.go mode"}},
		"link":               {Select{Path: "/file"}, []string{"file target"}},
		"followed":           {Select{Path: "/file", FollowLinks: true}, []string{"a.go", "a.go mode", "file target"}},
		"followed dir":       {Select{Path: "/link", FollowLinks: true, Contents: true}, []string{"a.go", "a.go mode", "d.go", "sub owner", "c.txt gone", "new e.go", "new sub2"}},
		"wildcard":           {Select{Path: "/src/*.go", Wildcard: true}, []string{"a.go", "a.go mode", "new e.go"}},
		"no match":           {Select{Path: "/src/*.py", Wildcard: true}, nil},
		"no prefix":          {Select{Path: "/nosuch/*.py", Wildcard: true}, nil},
		"two levels":         {Select{Path: "/*/*.go", Wildcard: true}, []string{"a.go", "a.go mode", "new e.go"}},
		"include":            {Select{Path: "/src", Contents: true, Include: []string{"sub"}}, []string{"d.go", "sub owner"}},
		"include deep":       {Select{Path: "/src", Contents: true, Include: []string{"**/d.go"}}, []string{"d.go", "sub owner"}},
		"include none":       {Select{Path: "/src", Include: []string{"nosuch"}}, []string{"src mode"}},
		"exclude":            {Select{Path: "/src", Contents: true, Exclude: []string{"sub", "*.txt", "e.go"}}, []string{"a.go", "a.go mode", "new sub2"}},
		"exclude but":        {Select{Path: "/src", Contents: true, Exclude: []string{"*", "!sub/d.go"}}, []string{"d.go", "sub owner"}},
		"both":               {Select{Path: "/src", Contents: true, Include: []string{"**/*.go"}, Exclude: []string{"sub*"}}, []string{"a.go", "a.go mode", "new e.go"}},
		"empty":              {Select{Path: "/empty", Contents: true}, nil},
		"patterns of a file": {Select{Path: "/src/a.go", Exclude: []string{"**"}}, []string{"a.go", "a.go mode"}},
	} {
		base := key(c.s)
		var got []string
		for what, es := range change {
			if key(c.s, es...) != base {
				got = append(got, what)
			}
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q count, want %q", name, got, c.want)
		}
	}
}

func TestContentIsOfItsOwn(t *testing.T) {
	v := viewOf(t, []Entry{file("a", "x"), file("b", "x"), dir("d"), file("d/a", "x"), dir("e"), dir("l"), link("l/k", "../a"), dir("deep"), dir("deep/d"), file("deep/d/a", "x")})
	seen := map[string]string{}
	for name, s := range map[string]Selection{
		"nothing":          {},
		"no match":         {Paths: []Select{{Path: "/*.x", Wildcard: true}}},
		"no match twice":   {Paths: []Select{{Path: "/*.x", Wildcard: true}, {Path: "/*.x", Wildcard: true}}},
		"empty directory":  {Paths: []Select{{Path: "/e"}}},
		"nothing of it":    {Paths: []Select{{Path: "/e", Contents: true}}},
		"a":                {Paths: []Select{{Path: "/a"}}},
		"b":                {Paths: []Select{{Path: "/b"}}},
		"a and b":          {Paths: []Select{{Path: "/a"}, {Path: "/b"}}},
		"b and a":          {Paths: []Select{{Path: "/b"}, {Path: "/a"}}},
		"both by wildcard": {Paths: []Select{{Path: "/[ab]", Wildcard: true}}},
		"d":                {Paths: []Select{{Path: "/d"}}},
		"d's contents":     {Paths: []Select{{Path: "/d", Contents: true}}},
		"by wildcard deep": {Paths: []Select{{Path: "/?/a", Wildcard: true}}},
		"link":             {Paths: []Select{{Path: "/l/k"}}},
		"linked":           {Paths: []Select{{Path: "/l/k", FollowLinks: true}}},
	} {
		k, err := v.Content(t.Context(), s)
		must(t, err)
		if other, ok := seen[k.String()]; ok {
			t.Errorf("%s has the content of %s", name, other)
		}
		seen[k.String()] = name
	}
	// Where something lies does not count beyond what a copy sees of it.
	for _, pair := range [][2]Select{
		{{Path: "/d"}, {Path: "/deep/d"}}, {{Path: "/d/a"}, {Path: "/a"}}, {{Path: "/d/*", Wildcard: true}, {Path: "/deep/d/*", Wildcard: true}},
		{{Path: "/d/a", Contents: true}, {Path: "/d/a"}}, {{Path: "d/"}, {Path: "/d"}},
	} {
		a, err := v.Content(t.Context(), Selection{Paths: pair[:1]})
		must(t, err)
		b, err := v.Content(t.Context(), Selection{Paths: pair[1:]})
		must(t, err)
		if a != b {
			t.Errorf("%+v and %+v differ", pair[0], pair[1])
		}
	}
}

func TestContentErrors(t *testing.T) {
	v := viewOf(t, []Entry{link("dangling", "nosuch"), link("loop", "loop"), file("f", "")})
	for _, c := range []struct {
		s    Select
		is   error
		want string
	}{
		{Select{Path: "no/./such"}, fs.ErrNotExist, "no/./such"},
		{Select{Path: "/f/x"}, fs.ErrNotExist, "/f/x"},
		{Select{Path: "/dangling", FollowLinks: true}, fs.ErrNotExist, `"/dangling" is a link to "nosuch"`},
		{Select{Path: "/d*", Wildcard: true, FollowLinks: true}, fs.ErrNotExist, `"/dangling" is a link to "nosuch"`},
		{Select{Path: "/loop", FollowLinks: true}, unix.ELOOP, "/loop"},
		{Select{Path: "/a[", Wildcard: true}, nil, `"/a[": syntax error in pattern`},
		{Select{Path: "/f", Include: []string{"a["}}, nil, "include patterns"},
		{Select{Path: "/f", Exclude: []string{"a["}}, nil, "exclude patterns"},
	} {
		_, err := v.Content(t.Context(), Selection{Paths: []Select{c.s}})
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
	if _, err := v.Content(t.Context(), Selection{Paths: []Select{{Path: "/dangling"}}}); err != nil {
		t.Error(err)
	}
}

func TestMatch(t *testing.T) {
	v := viewOf(t, []Entry{
		dir("src"), file("src/a.go", ""), file("src/b.go", ""), dir("src/x"), file("src/x/c.go", ""), link("s", "src"), link("src/y", "x"),
		dir("we*rd"), file("we*rd/f", ""), file("back\\slash", ""),
	})
	for _, c := range []struct {
		s    Select
		want []string
	}{
		{Select{Path: "src/a.go"}, []string{"/src/a.go"}},
		{Select{Path: "/s/a.go"}, []string{"/src/a.go"}},
		{Select{Path: "/s"}, []string{"/s"}},
		{Select{Path: "/s", FollowLinks: true}, []string{"/s"}},
		{Select{Path: "/s/*.go", Wildcard: true}, []string{"/src/a.go", "/src/b.go"}},
		{Select{Path: "/*/*.go", Wildcard: true}, []string{"/src/a.go", "/src/b.go"}},
		{Select{Path: "/src/*/c.go", Wildcard: true}, []string{"/src/x/c.go"}},
		{Select{Path: "/s*", Wildcard: true}, []string{"/s", "/src"}},
		{Select{Path: "/src", Wildcard: true}, []string{"/src"}},
		{Select{Path: "/we*rd/f"}, []string{"/we*rd/f"}},
		{Select{Path: "/we[*]rd/?", Wildcard: true}, []string{"/we*rd/f"}},
		{Select{Path: "/we\\*r[d]/f", Wildcard: true}, []string{"/we*rd/f"}},
		{Select{Path: "/back\\slash", Wildcard: true}, []string{"/back\\slash"}},
		{Select{Path: "/nosuch/*", Wildcard: true}, []string{}},
		{Select{Path: "/"}, []string{"/"}},
		{Select{Path: "/*", Wildcard: true}, []string{"/back\\slash", "/s", "/src", "/we*rd"}},
	} {
		if got, err := v.Match(c.s); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("Match(%+v) = %q, %v; want %q", c.s, got, err, c.want)
		}
	}
	if _, err := v.Match(Select{Path: "s/nosuch", Wildcard: true}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "s/nosuch") {
		t.Error(err)
	}
}

func TestSelector(t *testing.T) {
	s := Selection{Paths: []Select{
		{Path: "a//b/", FollowLinks: true, Wildcard: true, Include: []string{"*.go", "!x"}, Exclude: []string{"<&>"}, Contents: true},
		{Path: "/ü"},
	}}
	sel := s.Selector()
	got, err := ParseSelector(sel)
	must(t, err)
	if got.Paths[0].Path != "/a/b" || got.Selector() != sel || len(got.Paths) != 2 || !got.Paths[0].Contents || got.Paths[0].Exclude[0] != "<&>" {
		t.Errorf("%+v", got)
	}
	if s.Paths[0].Path != "a//b/" {
		t.Error("Selector changed the selection")
	}
	for _, bad := range []string{"", "/", "{}", `{"paths":null}`, string(sel) + " ", string(sel) + "}", `{"paths":[{"path":"a"}]}`, `{"paths":[{"path":"/a","x":1}]}`,
		`{"paths":[{"path":"/a["` + `,"wildcard":true}]}`, `{"paths":[{"path":"/a","include":["["]}]}`, "{\"paths\":[{\"path\":\"/\xff\"}]}"} {
		if got, err := ParseSelector(cache.Selector(bad)); err == nil {
			t.Errorf("ParseSelector(%q) = %+v", bad, got)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []Selection{
		{}, {Paths: []Select{{Path: "/"}}}, {Paths: []Select{{Path: "/a*", Wildcard: true, Contents: true}, {Path: "/b", Include: []string{"**/x"}, Exclude: []string{"!y"}}}},
	} {
		f.Add(string(s.Selector()))
	}
	f.Add(`{"paths":[{"path":"/a/../b"}]}`)
	v := viewOf(f, []Entry{dir("a"), file("a/b", ""), link("c", "a"), link("d", "d")})
	f.Fuzz(func(t *testing.T, b string) {
		s, err := ParseSelector(cache.Selector(b))
		if err != nil {
			return
		}
		if string(s.Selector()) != b {
			t.Errorf("%q became %q", b, s.Selector())
		}
		// Whatever it selects, it is an error or a digest.
		_, _ = v.Content(t.Context(), s)
	})
}

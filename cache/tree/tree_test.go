package tree

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
)

// config returns a store's configuration in a new directory.
func config(t *testing.T) Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounts need root")
	}
	dir := t.TempDir()
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: filepath.Join(dir, "trees"), Blobs: blobs, Log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t *testing.T) *Store { return open(t, config(t)) }

// step runs fn in a fork over parent and commits it.
func step(t *testing.T, s *Store, parent cache.Tree, fn func(dir string)) cache.Tree {
	t.Helper()
	f, err := s.Fork(t.Context(), parent)
	if err != nil {
		t.Fatal(err)
	}
	fn(f.Dir)
	tree, err := f.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listing returns what a directory holds, as "path" of directories and
// "path=content" or "path->target" of files, sorted.
func listing(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel := strings.TrimPrefix(p, dir+"/")
		switch {
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel += "=" + string(b)
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			rel += "->" + to
		case d.Type()&fs.ModeCharDevice != 0:
			rel += "!char"
		}
		out = append(out, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// mounted lists a tree as a mount shows it, and checks that its view agrees.
func mounted(t *testing.T, s *Store, tree cache.Tree) []string {
	t.Helper()
	v, err := s.View(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { must(t, v.Close()) }()
	out := listing(t, v.Dir)
	if got := viewed(t, s, tree); !slices.Equal(got, out) {
		t.Errorf("the view of %s is\n%q, its mount\n%q", tree, got, out)
	}
	return out
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("files are\n%q, want\n%q", got, want)
	}
}

func layers(t *testing.T, s *Store, tree cache.Tree) []LayerInfo {
	t.Helper()
	ls, err := s.Layers(tree)
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

func top(t *testing.T, s *Store, tree cache.Tree) LayerInfo {
	t.Helper()
	ls := layers(t, s, tree)
	return ls[len(ls)-1]
}

// empty fails the test if the store still has something in the making.
func empty(t *testing.T, s *Store, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		names, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			t.Errorf("left behind: %s/%s", dir, n.Name())
		}
	}
}

func TestForkCommitView(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) {
		write(t, dir+"/etc/passwd", "root")
		write(t, dir+"/etc/gone", "x")
		write(t, dir+"/old/deep/file", "x")
		must(t, os.Symlink("passwd", dir+"/etc/link"))
	})
	expect(t, mounted(t, s, a), "etc", "etc/gone=x", "etc/link->passwd", "etc/passwd=root", "old", "old/deep", "old/deep/file=x")
	b := step(t, s, a, func(dir string) {
		expect(t, listing(t, dir), "etc", "etc/gone=x", "etc/link->passwd", "etc/passwd=root", "old", "old/deep", "old/deep/file=x")
		must(t, os.Remove(dir+"/etc/gone"))
		must(t, os.RemoveAll(dir+"/old"))
		write(t, dir+"/old/new", "y")
		write(t, dir+"/etc/passwd", "root+user")
	})
	expect(t, mounted(t, s, b), "etc", "etc/link->passwd", "etc/passwd=root+user", "old", "old/new=y")
	expect(t, mounted(t, s, a), "etc", "etc/gone=x", "etc/link->passwd", "etc/passwd=root", "old", "old/deep", "old/deep/file=x")
	if n := len(layers(t, s, b)); n != 2 {
		t.Errorf("%d layers", n)
	}
	if _, err := os.Stat(filepath.Join(s.path(layersDir), string(top(t, s, b).ID), workName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("work directory: %v", err)
	}
	empty(t, s, draftsDir, mountsDir, trashDir)
}

// An equal step over an equal tree gives equal content, and a step that writes
// nothing still gives a layer.
func TestContent(t *testing.T) {
	s := newStore(t)
	content := func(tree cache.Tree) cache.Key {
		k, err := s.Content(t.Context(), tree, cache.Root)
		must(t, err)
		return k
	}
	mk := func(text string) func(string) {
		return func(dir string) { write(t, dir+"/a/f", text) }
	}
	a1, a2, b := step(t, s, "", mk("1")), step(t, s, "", mk("1")), step(t, s, "", mk("2"))
	if a1 == a2 {
		t.Error("two commits share a name")
	}
	if content(a1) != content(a2) || content(a1) == content(b) {
		t.Error("content does not follow the files")
	}
	e1, e2 := step(t, s, a1, func(string) {}), step(t, s, a2, func(string) {})
	if content(e1) != content(e2) || content(e1) == content(a1) {
		t.Error("content of an empty layer")
	}
	if n := len(layers(t, s, e1)); n != 2 {
		t.Errorf("%d layers", n)
	}
	if content("") == content(a1) || content("").IsZero() {
		t.Error("content of the empty tree")
	}
	if _, err := s.Content(t.Context(), a1, ""); err == nil {
		t.Error("the empty selector has content")
	}
	if _, err := s.Content(t.Context(), "nope", cache.Root); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("content of an unknown tree: %v", err)
	}
}

// The root directory of a tree keeps its mode and owner through layers that do
// not change it, and takes what a step gives it.
func TestRootMetadata(t *testing.T) {
	s := newStore(t)
	root := func(tree cache.Tree) (st unix.Stat_t) {
		v, err := s.View(t.Context(), tree)
		must(t, err)
		defer v.Close()
		must(t, unix.Stat(v.Dir, &st))
		return st
	}
	a := step(t, s, "", func(dir string) { write(t, dir+"/f", "1") })
	if st := root(a); st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("mode %o", st.Mode)
	}
	b := step(t, s, a, func(dir string) {
		must(t, os.Chown(dir, 7, 8))
		must(t, os.Chmod(dir, 0o700|fs.ModeSticky))
		must(t, unix.Setxattr(dir, "user.mark", []byte("m"), 0))
	})
	check := func(tree cache.Tree) {
		t.Helper()
		if st := root(tree); st.Mode != unix.S_IFDIR|0o1700 || st.Uid != 7 || st.Gid != 8 {
			t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
		}
		v, err := s.Files(t.Context(), tree)
		must(t, err)
		if e, err := v.Lstat("/"); err != nil || e.Mode != unix.S_IFDIR|0o1700 || e.UID != 7 || e.Xattrs["user.mark"] != "m" {
			t.Errorf("index: %+v, %v", e, err)
		}
	}
	check(b)
	check(step(t, s, b, func(dir string) { write(t, dir+"/g", "1") }))
	d, err := s.NewDraft(t.Context(), b)
	must(t, err)
	write(t, d.Dir+"/h", "1")
	c, err := d.Commit(t.Context(), nil)
	must(t, err)
	check(c)
}

func TestDraft(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) { write(t, dir+"/etc/passwd", "root") })
	src, err := s.Files(t.Context(), a)
	must(t, err)
	host, err := src.HostPath("/etc/passwd")
	must(t, err)
	d, err := s.NewDraft(t.Context(), a)
	must(t, err)
	expect(t, listing(t, d.Dir))
	must(t, os.Mkdir(d.Dir+"/copy", 0o755))
	must(t, os.Link(host, d.Dir+"/copy/passwd")) // the same file system
	b, err := d.Commit(t.Context(), nil)
	must(t, err)
	expect(t, mounted(t, s, b), "copy", "copy/passwd=root", "etc", "etc/passwd=root")
	if _, err := d.Commit(t.Context(), nil); err == nil {
		t.Error("a draft can be committed twice")
	}
	must(t, d.Discard())
	expect(t, mounted(t, s, b), "copy", "copy/passwd=root", "etc", "etc/passwd=root")

	d, err = s.NewDraft(t.Context(), a)
	must(t, err)
	write(t, d.Dir+"/x", "1")
	must(t, d.Discard())
	must(t, d.Discard())
	empty(t, s, draftsDir, mountsDir, trashDir)
	if _, err := s.NewDraft(t.Context(), "../../etc"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("draft over an unknown tree: %v", err)
	}
}

func TestForkDiscard(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) { write(t, dir+"/f", "1") })
	f, err := s.Fork(t.Context(), a)
	must(t, err)
	write(t, f.Dir+"/g", "1")
	open, err := os.Open(f.Dir + "/g") // does not keep the fork
	must(t, err)
	defer open.Close()
	must(t, f.Discard())
	must(t, f.Discard())
	if _, err := f.Commit(t.Context()); err == nil {
		t.Error("a discarded fork can be committed")
	}
	empty(t, s, draftsDir, mountsDir, trashDir)
	if n := len(layers(t, s, a)); n != 1 {
		t.Errorf("%d layers", n)
	}
}

// A file that is still open might be written to after the layer was indexed.
func TestCommitBusy(t *testing.T) {
	s := newStore(t)
	f, err := s.Fork(t.Context(), "")
	must(t, err)
	file, err := os.Create(f.Dir + "/f")
	must(t, err)
	defer file.Close()
	if _, err := f.Commit(t.Context()); !errors.Is(err, unix.EBUSY) {
		t.Errorf("commit of a fork in use: %v", err)
	}
	empty(t, s, draftsDir, mountsDir, trashDir)
}

func TestViewIsReadOnly(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) { write(t, dir+"/f", "1") })
	for _, tree := range []cache.Tree{"", a, step(t, s, a, func(dir string) {})} {
		v, err := s.View(t.Context(), tree)
		must(t, err)
		if err := os.WriteFile(v.Dir+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to a view: %v", err)
		}
		must(t, v.Close())
		must(t, v.Close())
	}
	empty(t, s, mountsDir)
}

func viewed(t *testing.T, s *Store, tree cache.Tree) (out []string) {
	t.Helper()
	v, err := s.Files(t.Context(), tree)
	must(t, err)
	var walk func(dir string)
	walk = func(dir string) {
		es, err := v.ReadDir("/" + dir)
		must(t, err)
		for _, e := range es {
			rel := e.Path
			switch {
			case e.IsDir():
				walk(e.Path)
			case e.IsRegular():
				f, err := v.Open("/" + e.Path)
				must(t, err)
				b, err := os.ReadFile(f.Name())
				must(t, err)
				f.Close()
				rel += "=" + string(b)
			case e.IsSymlink():
				rel += "->" + e.Link
			}
			out = append(out, rel)
		}
	}
	walk("")
	slices.Sort(out)
	return out
}

package tree

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

func TestMerge(t *testing.T) {
	s := newStore(t)
	merge := func(trees ...cache.Tree) cache.Tree {
		t.Helper()
		m, err := s.Merge(t.Context(), trees...)
		must(t, err)
		return m
	}
	base := step(t, s, "", func(dir string) { write(t, dir+"/base", "1"); write(t, dir+"/x", "base") })
	over := step(t, s, base, func(dir string) { write(t, dir+"/x", "over"); write(t, dir+"/dir/a", "1") })
	side := step(t, s, "", func(dir string) { write(t, dir+"/dir/b", "2"); write(t, dir+"/x", "side") })
	expect(t, mounted(t, s, merge(over, side)), "base=1", "dir", "dir/a=1", "dir/b=2", "x=side")
	expect(t, mounted(t, s, merge(side, over)), "base=1", "dir", "dir/a=1", "dir/b=2", "x=over")
	if merge() != "" || merge("", "") != "" || merge(over) != over || merge("", over, "") != over || merge(base, over) != over {
		t.Error("a merge with nothing new is not what it was")
	}
	// What comes later wins, also where it is what lies at the bottom already.
	expect(t, mounted(t, s, merge(over, base)), "base=1", "dir", "dir/a=1", "x=base")
	if _, err := s.Merge(t.Context(), over, "nope"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("merge of an unknown tree: %v", err)
	}
}

func TestAppend(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	b := step(t, s, "", func(dir string) { write(t, dir+"/b", "1") })
	ab, err := s.Append(a, top(t, s, b).ID)
	must(t, err)
	expect(t, mounted(t, s, ab), "a=1", "b=1")
	if same, _ := s.Append("", top(t, s, a).ID, top(t, s, b).ID); same != ab {
		t.Error("a tree is its layers, but has two names")
	}
	for _, id := range []cache.LayerID{"", "nope", "../../etc", "sha256:../x"} {
		if _, err := s.Append(a, id); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("append layer %q: %v", id, err)
		}
	}
}

func TestDiffOfPrefix(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	c := step(t, s, b, func(dir string) { write(t, dir+"/c", "1") })
	d, err := s.Diff(t.Context(), a, c)
	must(t, err)
	expect(t, mounted(t, s, d), "b=1", "c=1")
	if same, err := s.Diff(t.Context(), a, a); err != nil || same != "" {
		t.Errorf("diff of equal trees: %q, %v", same, err)
	}
	if all, err := s.Diff(t.Context(), "", c); err != nil || all != c {
		t.Errorf("diff of nothing: %q, %v", all, err)
	}
	if n := len(layers(t, s, d)); n != 2 {
		t.Errorf("%d layers", n)
	}
}

func TestDiffCompared(t *testing.T) {
	s := newStore(t)
	lower := step(t, s, "", func(dir string) {
		write(t, dir+"/same/f", "1")
		write(t, dir+"/changed/f", "1")
		write(t, dir+"/changed/g", "1")
		write(t, dir+"/gone/deep/f", "1")
		write(t, dir+"/file-to-dir", "1")
		write(t, dir+"/dir-to-file/f", "1")
		write(t, dir+"/mode", "1")
		must(t, os.Symlink("a", dir+"/link"))
	})
	upper := step(t, s, "", func(dir string) {
		write(t, dir+"/same/f", "1")
		write(t, dir+"/changed/f", "2")
		write(t, dir+"/changed/new", "n")
		write(t, dir+"/file-to-dir/f", "1")
		write(t, dir+"/dir-to-file", "1")
		write(t, dir+"/mode", "1")
		must(t, os.Chmod(dir+"/mode", 0o600))
		must(t, os.Symlink("b", dir+"/link"))
		write(t, dir+"/hard/a", "h")
		must(t, os.Link(dir+"/hard/a", dir+"/hard/b"))
		must(t, os.Chown(dir+"/hard", 3, 4))
	})
	// Equal but for its time, which counts for files.
	v, err := s.Files(t.Context(), lower)
	must(t, err)
	e, err := v.Lstat("/same/f")
	must(t, err)
	upper = step(t, s, upper, func(dir string) { must(t, setTime(dir+"/same/f", e.ModTime)) })

	diff, err := s.Diff(t.Context(), lower, upper)
	must(t, err)
	if n := len(layers(t, s, diff)); n != 1 {
		t.Fatalf("%d layers", n)
	}
	both, err := s.Merge(t.Context(), lower, diff)
	must(t, err)
	if got, want := mounted(t, s, both), mounted(t, s, upper); !slices.Equal(got, want) {
		t.Errorf("lower and diff are\n%q, upper is\n%q", got, want)
	}
	alone := mounted(t, s, diff)
	for _, path := range alone {
		if strings.HasPrefix(path, "same") || strings.HasPrefix(path, "gone") || path == "changed/g=1" {
			t.Errorf("diff shows %s", path)
		}
	}
	// The index that was made on the way is what is on disk.
	x := s.indexes.get(string(top(t, s, diff).ID))
	if got := rescan(t, s, diff); got != x.Content() {
		t.Error("the index of the diff is not what a scan gives")
	}
	fv, err := s.Files(t.Context(), both)
	must(t, err)
	if e, err := fv.Lstat("/hard/b"); err != nil || e.Hardlink != "hard/a" {
		t.Errorf("hard link: %+v, %v", e, err)
	}
	if e, err := fv.Lstat("/hard"); err != nil || e.UID != 3 || e.GID != 4 {
		t.Errorf("owner: %+v, %v", e, err)
	}
	empty(t, s, draftsDir, mountsDir, trashDir)
}

// A directory that only one layer has must not list the whiteouts in it.
func TestWhiteoutsAreNotListed(t *testing.T) {
	s := newStore(t)
	lower := step(t, s, "", func(dir string) { write(t, dir+"/d/a", "1"); write(t, dir+"/d/b", "1"); write(t, dir+"/top", "1") })
	upper := step(t, s, "", func(dir string) { write(t, dir+"/d/a", "2") })
	diff, err := s.Diff(t.Context(), lower, upper)
	must(t, err)
	expect(t, mounted(t, s, diff), "d", "d/a=2")
	over := step(t, s, diff, func(dir string) {
		expect(t, listing(t, dir), "d", "d/a=2")
		must(t, os.Remove(dir+"/d/a"))
	})
	expect(t, mounted(t, s, over), "d")
}

// More layers than one overlay takes, and more than stacked ones do.
func TestLongChain(t *testing.T) {
	for _, c := range []struct {
		layers int
		legacy bool
	}{{510, false}, {1505, false}, {190, true}, {545, true}} {
		t.Run(fmt.Sprintf("%d legacy=%v", c.layers, c.legacy), func(t *testing.T) { testLongChain(t, c.layers, c.legacy) })
	}
}

func testLongChain(t *testing.T, n int, legacy bool) {
	c := config(t)
	c.Spare = time.Nanosecond
	must(t, os.Mkdir(c.Dir, 0o755))
	mountTmpfs(t, c.Dir, "size=64m,nr_inodes=100k") // a thousand directories are a while in the making elsewhere
	s := open(t, c)
	t.Cleanup(func() { s.Close() })
	s.legacy = legacy
	tree := step(t, s, "", func(dir string) {
		for i := range 10 {
			write(t, fmt.Sprintf("%s/base/f%d", dir, i), "0")
		}
		must(t, os.Chmod(dir, 0o700))
	})
	lease := s.Lease("build")
	defer lease.Release()
	for i := range n {
		d, err := s.NewDraft(t.Context(), tree)
		must(t, err)
		must(t, os.Mkdir(d.Dir+"/l", 0o755))
		must(t, os.WriteFile(fmt.Sprintf("%s/l/%d", d.Dir, i), nil, 0o644))
		if i == n-3 || i == n-20 { // a whiteout from the upper part into the lower
			must(t, os.Mkdir(d.Dir+"/base", 0o755))
			must(t, unix.Mknod(fmt.Sprintf("%s/base/f%d", d.Dir, (n-i)%10), unix.S_IFCHR, 0))
			must(t, unix.Mknod(fmt.Sprintf("%s/l/%d", d.Dir, n-i), unix.S_IFCHR, 0))
		}
		tree, err = d.Commit(t.Context(), nil)
		must(t, err)
		must(t, lease.Add(tree))
	}
	got := mounted(t, s, tree)
	if want := 1 + 8 + 1 + n - 2; len(got) != want || slices.Contains(got, "base/f3=0") || slices.Contains(got, "l/20=") {
		t.Errorf("%d files, want %d", len(got), want)
	}
	over := step(t, s, tree, func(dir string) {
		must(t, os.RemoveAll(dir+"/l"))
		write(t, dir+"/base/f4", "new")
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("root: %v, %v", fi.Mode(), err)
		}
	})
	if got := mounted(t, s, over); len(got) != 9 || !slices.Contains(got, "base/f4=new") {
		t.Errorf("files: %q", got)
	}
	empty(t, s, mountsDir, draftsDir)
	lease.Release()
	if gone := sweep(t, s); len(gone) != n+2 {
		t.Errorf("swept %d layers", len(gone))
	}
	empty(t, s, layersDir, flatsDir, trashDir)
}

// Before Linux 6.7.
func TestLegacyMount(t *testing.T) {
	if needsLegacy() {
		t.Log("this kernel mounts so always")
	}
	c := config(t)
	c.Dir += "/a,colon: and=more\\"
	s := open(t, c)
	s.legacy = true
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1"); write(t, dir+"/x", "1") })
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1"); must(t, os.Remove(dir+"/x")) })
	expect(t, mounted(t, s, b), "a=1", "b=1")
	expect(t, mounted(t, s, ""))
	v, err := s.View(t.Context(), a)
	must(t, err)
	defer v.Close()
	if err := os.WriteFile(v.Dir+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a view: %v", err)
	}
}

// Longer than what one option of a mount can be.
func TestLongPath(t *testing.T) {
	c := config(t)
	c.Dir += strings.Repeat("/"+strings.Repeat("d", 100), 3)
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	expect(t, mounted(t, s, step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })), "a=1", "b=1")
}

func rescan(t *testing.T, s *Store, tree cache.Tree) cache.Key {
	t.Helper()
	x, err := digest.Scan(t.Context(), s.path(layersDir, top(t, s, tree).dirIn(s), fsName), s.scanOptions())
	must(t, err)
	return x.Content()
}

func TestPathNeedsNoEscaping(t *testing.T) {
	c := config(t)
	c.Dir += "/a,colon: and=more\\ %s\n"
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	expect(t, mounted(t, s, b), "a=1", "b=1")
}

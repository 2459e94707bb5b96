package draft

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fscopy "github.com/tonistiigi/fsutil/copy"
)

// copyCase is one copy, as both implementations take it.
type copyCase struct {
	from, to string
	o        CopyOptions
	mode     *int // fixed mode
}

func (c copyCase) String() string {
	s := fmt.Sprintf("copy %q to %q contents=%v follow=%v replace=%v include=%q exclude=%q owner=%v time=%v",
		c.from, c.to, c.o.Contents, c.o.FollowLinks, c.o.Replace, c.o.Include, c.o.Exclude, c.o.Owner, c.o.Time)
	if c.mode != nil {
		s += fmt.Sprintf(" mode=%o", *c.mode)
	}
	return s
}

// reference copies with fsutil, which is what BuildKit copies with, on a mount.
func (c copyCase) reference(src, dest string) error {
	return fscopy.Copy(context.Background(), src, c.from, dest, c.to, func(ci *fscopy.CopyInfo) {
		ci.CopyDirContents, ci.FollowLinks, ci.AlwaysReplaceExistingDestPaths = c.o.Contents, c.o.FollowLinks, c.o.Replace
		ci.IncludePatterns, ci.ExcludePatterns, ci.Utime, ci.Mode = c.o.Include, c.o.Exclude, c.o.Time, c.mode
		if c.o.Owner != nil {
			fscopy.WithChown(int(c.o.Owner.UID), int(c.o.Owner.GID))(ci)
		}
	})
}

// check runs the case both ways over the same layers and compares what comes
// out. It returns whether the copy worked.
func (c copyCase) check(t *testing.T, src string, base ...string) bool {
	t.Helper()
	if c.mode != nil {
		m := uint32(*c.mode)
		c.o.Mode = func(uint32) uint32 { return m }
		c.o.ParentMode = m & 0o777
	}
	c.o.Now = epoch
	tmp := t.TempDir()
	upper, work, mine := filepath.Join(tmp, "upper"), filepath.Join(tmp, "work"), filepath.Join(tmp, "mine")
	for _, d := range []string{upper, work, mine} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	theirs := overlay(t, base, upper, work)
	want := c.reference(src, theirs)

	d, err := New(mine, view(t, base...), Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := d.Copy(t.Context(), view(t, src), c.from, c.to, c.o)
	if (want == nil) != (got == nil) {
		t.Fatalf("%s: error %v, reference %v", c, got, want)
	}
	if got != nil {
		if strings.Contains(got.Error(), tmp) {
			t.Fatalf("%s: error names a path of the host: %v", c, got)
		}
		return false
	}
	before := list(t, src)
	finish(t, d)
	ours := overlay(t, append(append([]string{}, base...), mine), "", "")
	if delta := diff(list(t, theirs), list(t, ours)); delta != "" {
		t.Fatalf("%s: reference (-) and draft (+) differ:\n%s\nsource:\n%s", c, delta, strings.Join(before, "\n"))
	}
	return true
}

func TestCopyAgainstReference(t *testing.T) {
	needRoot(t)
	src, base := t.TempDir(), t.TempDir()
	grow(t, src, "d:0700 dir", "f dir/a one", "f:0600 dir/sub/b two", "l dir/link a", "h dir/hard dir/a", "p dir/fifo", "s dir/sock", "c dir/null",
		"f top three", "l lnk dir/sub", "l abs /dir", "l dangling nowhere", "f:4755 suid x")
	if err := os.Chown(filepath.Join(src, "dir/a"), 7, 8); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(src, "dir/sub/b"), "user.note", []byte("hello"), 0); err != nil {
		t.Fatal(err)
	}
	grow(t, base, "d etc", "f etc/a old", "d:0711 dir/sub", "f dir/sub/old old", "f top old", "l ln dir", "l lnfile top", "l up ../../../etc", "d empty",
		"f dir/link old", "d x/top", "f x/dir old")
	mode, when := 0o640, time.Unix(1600000000, 5)
	for _, c := range []copyCase{
		{from: "/top", to: "/new"},
		{from: "/top", to: "/newdir/"},
		{from: "/top", to: "/deep/er/new"},
		{from: "/top", to: "/top"},
		{from: "/top", to: "/etc"},
		{from: "/top", to: "/ln/"},
		{from: "/top", to: "/lnfile"},
		{from: "/top", to: "/up/x"},
		{from: "/top", to: "/x"}, // a directory is in the way
		{from: "/dir", to: "/x"}, // a file is in the way
		{from: "/dir", to: "/x", o: CopyOptions{Replace: true}},
		{from: "/top", to: "/x", o: CopyOptions{Replace: true}},
		{from: "/dir", to: "/"},
		{from: "/dir", to: "/new"},
		{from: "/dir", to: "/dir"},
		{from: "/dir", to: "/dir", o: CopyOptions{Contents: true}},
		{from: "/dir", to: "/new", o: CopyOptions{Contents: true}},
		{from: "/dir/", to: "/new/sub/", o: CopyOptions{Contents: true, Owner: &Owner{3, 4}, Time: &when}, mode: &mode},
		{from: "/", to: "/"},
		{from: "/", to: "/all/", o: CopyOptions{Contents: true}},
		{from: "/lnk", to: "/got"},
		{from: "/lnk", to: "/got", o: CopyOptions{FollowLinks: true}},
		{from: "/abs/sub", to: "/got", o: CopyOptions{FollowLinks: true}},
		{from: "/dangling", to: "/got", o: CopyOptions{FollowLinks: true}},
		{from: "/dangling", to: "/got"},
		{from: "/missing", to: "/got"},
		{from: "/suid", to: "/got", o: CopyOptions{Owner: &Owner{1, 1}}},
		{from: "/", to: "/out/", o: CopyOptions{Contents: true, Include: []string{"**/b"}}},
		{from: "/", to: "/", o: CopyOptions{Contents: true, Include: []string{"dir/sub"}}},
		{from: "/", to: "/out/", o: CopyOptions{Contents: true, Exclude: []string{"dir", "!dir/sub"}}},
		{from: "/", to: "/out/", o: CopyOptions{Contents: true, Exclude: []string{"**/a", "lnk"}}},
		{from: "/dir/../top", to: "/a/../b"},
		{from: "/dir", to: "/etc/a/b"}, // below a file
	} {
		t.Run(c.String(), func(t *testing.T) { c.check(t, src, base) })
	}
}

// TestCopyRandom compares random copies over random layers.
func TestCopyRandom(t *testing.T) {
	needRoot(t)
	n, worked := 40, 0
	if testing.Short() {
		n = 15
	}
	for i := range n {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			src, one, two := t.TempDir(), t.TempDir(), t.TempDir()
			randomTree(t, r, src, "")
			randomTree(t, r, one, "")
			randomTree(t, r, two, one)
			c := copyCase{from: randomPath(r), to: randomPath(r)}
			c.o.Contents, c.o.FollowLinks, c.o.Replace = r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0
			if r.IntN(4) == 0 {
				c.o.Include = []string{randomPath(r)[1:], "**/" + randomName(r)}
			}
			if r.IntN(4) == 0 {
				c.o.Exclude = []string{"**/" + randomName(r), "!" + randomPath(r)[1:]}
			}
			if r.IntN(3) == 0 {
				c.o.Owner = &Owner{5, 6}
			}
			if r.IntN(3) == 0 {
				c.o.Time = &epoch
			}
			if c.check(t, src, one, two) {
				worked++
			}
		})
	}
	if worked < n/4 {
		t.Errorf("only %d of %d copies worked: the cases say little", worked, n)
	}
}

func randomName(r *rand.Rand) string { return string("abc"[r.IntN(3)]) }

func randomPath(r *rand.Rand) string {
	p := ""
	for range 1 + r.IntN(3) {
		p += "/" + randomName(r)
	}
	if r.IntN(4) == 0 {
		p += "/"
	}
	return p
}

// randomTree makes a few files; with whiteouts of what lower has, if it is to lie
// over that.
func randomTree(t *testing.T, r *rand.Rand, dir, lower string) {
	t.Helper()
	for range 4 + r.IntN(20) {
		p := strings.TrimSuffix(randomPath(r), "/")
		if _, err := os.Lstat(filepath.Join(dir, p)); err == nil {
			continue
		}
		if fi, err := os.Lstat(filepath.Join(dir, filepath.Dir(p))); err == nil && !fi.IsDir() {
			continue
		}
		if fi, err := os.Lstat(filepath.Join(dir, filepath.Dir(filepath.Dir(p)))); err == nil && !fi.IsDir() {
			continue
		}
		line := []string{
			"f " + p + " " + fmt.Sprint(r.IntN(100)), "f:0600 " + p + " x", "d " + p, "d:0700 " + p, "l " + p + " " + randomPath(r),
			"l " + p + " ../" + randomName(r), "l " + p + " " + randomName(r), "p " + p,
		}[r.IntN(8)]
		if lower != "" && r.IntN(3) == 0 {
			// Overlay expects whiteouts only in directories that it merges.
			at := filepath.Join(lower, p)
			_, err := os.Lstat(at)
			if real, _ := filepath.EvalSymlinks(filepath.Dir(at)); err == nil && real == filepath.Dir(at) {
				line = "w " + p
			}
		}
		grow(t, dir, line)
	}
}

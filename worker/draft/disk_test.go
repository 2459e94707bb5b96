package draft

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// epoch is the time of all that tests make.
var epoch = time.Unix(1700000000, 123456789)

// needRoot skips a test that makes devices, owners and mounts.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for owners, devices and overlay mounts")
	}
}

// grow makes files below dir. Each line is "type path [rest]": d, f (content),
// l (target), h (other path), p, s, c, b, with a mode in front of the path where
// it is not the default ("d:0700 a").
func grow(t testing.TB, dir string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		name, arg, _ := strings.Cut(rest, " ")
		kind, mode, hasMode := strings.Cut(kind, ":")
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind {
		case "d":
			err = os.MkdirAll(p, 0o755)
		case "f":
			err = os.WriteFile(p, []byte(arg), 0o644)
		case "l":
			err = os.Symlink(arg, p)
		case "h":
			err = os.Link(filepath.Join(dir, arg), p)
		case "p":
			err = unix.Mkfifo(p, 0o644)
		case "s":
			err = unix.Mknod(p, unix.S_IFSOCK|0o644, 0)
		case "c":
			err = unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3)))
		case "w":
			err = unix.Mknod(p, unix.S_IFCHR, 0)
		default:
			t.Fatalf("unknown line %q", line)
		}
		if err != nil {
			t.Fatal(err)
		}
		if hasMode {
			var m uint32
			if _, err := fmt.Sscanf(mode, "%o", &m); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chmod(p, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts, _ := unix.TimeToTimespec(epoch)
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// view indexes layer directories, bottom first.
func view(t testing.TB, dirs ...string) *digest.View {
	t.Helper()
	var layers []digest.Layer
	for _, d := range dirs {
		x, err := digest.Scan(t.Context(), d, digest.ScanOptions{})
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, digest.Layer{Dir: d, Index: x})
	}
	return digest.NewView(layers)
}

// overlay mounts layers, bottom first; with upper and work writable.
func overlay(t testing.TB, layers []string, upper, work string) string {
	t.Helper()
	at := t.TempDir()
	var down []string
	for i := len(layers) - 1; i >= 0; i-- {
		down = append(down, layers[i])
	}
	opts := "lowerdir=" + strings.Join(down, ":")
	if upper != "" {
		opts += ",upperdir=" + upper + ",workdir=" + work
	}
	if err := unix.Mount("overlay", at, "overlay", 0, opts); err != nil {
		t.Fatalf("mount overlay %s: %v", opts, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at
}

// list describes all files below dir, one line each. Times of directories are
// left out: a real file system changes them with what is in them.
func list(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	names := map[uint64][]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, dir)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		if !d.IsDir() {
			line += fmt.Sprintf(" t=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
			if st.Nlink > 1 {
				names[st.Ino] = append(names[st.Ino], rel)
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(b))
		case unix.S_IFLNK:
			l, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + l
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev=%d", st.Rdev)
		}
		attrs, err := sysx.LListxattr(p)
		if err != nil {
			return err
		}
		sort.Strings(attrs)
		for _, a := range attrs {
			if strings.HasPrefix(a, "trusted.overlay.") {
				continue
			}
			v, err := sysx.LGetxattr(p, a)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%q", a, v)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

// diff returns the lines in which a and b differ.
func diff(a, b []string) string {
	in := map[string]int{}
	for _, l := range a {
		in[l]++
	}
	for _, l := range b {
		in[l]--
	}
	var out []string
	for l, n := range in {
		switch {
		case n > 0:
			out = append(out, "- "+l)
		case n < 0:
			out = append(out, "+ "+l)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i][2:] < out[j][2:] })
	return strings.Join(out, "\n")
}

// finish ends d and checks that its entries are what a scan of its directory
// gives.
func finish(t testing.TB, d *Draft) {
	t.Helper()
	entries, err := d.Finish()
	if err != nil {
		t.Fatal(err)
	}
	var b digest.Builder
	for _, e := range entries {
		b.Add(e)
	}
	got, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	want, err := digest.Scan(t.Context(), d.dir, digest.ScanOptions{UserXattr: d.o.UserXattr, KeptOwner: d.o.IgnoreOwner})
	if err != nil {
		t.Fatal(err)
	}
	if w, g := entryLines(want), entryLines(got); diff(w, g) != "" {
		t.Fatalf("entries differ from what is on disk:\n%s", diff(w, g))
	}
}

func entryLines(x *digest.Index) []string {
	var out []string
	for _, e := range x.Entries() {
		// A file that was linked into the layer more than once on its own is one
		// inode on disk, but no hard link of the layer.
		e.Hardlink = ""
		out = append(out, fmt.Sprintf("%+v", e))
	}
	return out
}

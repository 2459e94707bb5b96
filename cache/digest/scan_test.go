package digest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root: owners, devices and trusted.* attributes are set")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes files of a map from path to contents; a path that ends in a slash
// is a directory, contents "-> x" make a link, "whiteout" and "opaque" what they
// say.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for path, data := range files {
		p := filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		target, isLink := strings.CutPrefix(data, "-> ")
		switch {
		case strings.HasSuffix(path, "/"):
			must(t, os.MkdirAll(p, 0o755))
			if data == "opaque" {
				must(t, unix.Setxattr(p, OpaqueXattr(false), []byte("y"), 0))
			}
		case isLink:
			must(t, os.Symlink(target, p))
		case data == "whiteout":
			must(t, unix.Mknod(p, unix.S_IFCHR, 0))
		default:
			must(t, os.WriteFile(p, []byte(data), 0o644))
		}
	}
}

func scan(t testing.TB, dir string) *Index {
	t.Helper()
	x, err := Scan(t.Context(), dir, ScanOptions{})
	must(t, err)
	return x
}

func TestScan(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 100000)
	write(t, dir, map[string]string{
		"a/file": "data", "a/link": "-> /etc/passwd", "a/gone": "whiteout", "opaque/": "opaque", "empty": "", "big": big,
		"\xff\n": "odd name", "long": "-> " + strings.Repeat("t", 3000),
	})
	at := func(rel string) string { return filepath.Join(dir, rel) }
	must(t, os.Link(at("a/file"), at("a/aa")))
	must(t, os.Link(at("a/file"), at("zz")))
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(300, 70000))))
	must(t, unix.Chmod(at("disk"), 0o660))
	must(t, unix.Mknod(at("sock"), unix.S_IFSOCK|0o600, 0))
	must(t, os.Lchown(at("a/link"), 7, 8))
	must(t, os.Chown(at("empty"), 5, 1<<31))
	must(t, unix.Chmod(at("empty"), 0o6711))
	for k, v := range map[string]string{
		"user.note": "n\x00te", "user.none": "", "trusted.x": "1", "trusted.overlay.origin": "x", "user.overlay.opaque": "y",
		"security.capability": string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}),
		"user.large":          strings.Repeat("v", 2000),
	} {
		must(t, unix.Setxattr(at("empty"), k, []byte(v), 0))
	}
	must(t, unix.Setxattr(at("a"), OwnerXattr, []byte("1000:1001"), 0))
	must(t, unix.Setxattr(at("big"), OwnerXattr, []byte("nobody"), 0))
	mtime := time.Unix(1234567890, 987654321).UTC()
	must(t, os.Chtimes(at("empty"), mtime, mtime))

	x := scan(t, dir)
	get := func(path string) Entry {
		e, ok := x.Lookup(path)
		if !ok {
			t.Errorf("%q is missing", path)
		}
		return e
	}
	if e := get("empty"); !reflect.DeepEqual(e, Entry{
		Path: "empty", Mode: unix.S_IFREG | 0o6711, UID: 5, GID: 1 << 31, ModTime: mtime, Hash: sha256.Sum256(nil),
		Xattrs: map[string]string{
			"user.note": "n\x00te", "user.none": "", "user.large": strings.Repeat("v", 2000),
			"security.capability": string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}),
		},
	}) {
		t.Errorf("empty: %+v", e)
	}
	if e := get("big"); e.Hash != sha256.Sum256([]byte(big)) || e.Size != int64(len(big)) || e.UID != 0 {
		t.Errorf("big: %+v", e)
	}
	if e := get("a"); e.UID != 0 || e.GID != 0 || e.Xattrs != nil {
		t.Errorf("a step made itself another owner: %+v", e)
	}
	kept, err := Scan(t.Context(), dir, ScanOptions{KeptOwner: true})
	must(t, err)
	if e, _ := kept.Lookup("a"); e.UID != 1000 || e.GID != 1001 || e.Xattrs != nil {
		t.Errorf("a: %+v", e)
	}
	if e := get("a/link"); !e.IsSymlink() || e.Link != "/etc/passwd" || e.UID != 7 || e.GID != 8 {
		t.Errorf("a/link: %+v", e)
	}
	if e := get("long"); len(e.Link) != 3000 {
		t.Errorf("long: %+v", e)
	}
	for _, path := range []string{"a/file", "zz"} {
		if e := get(path); e.Hardlink != "a/aa" || e.Hash != sha256.Sum256([]byte("data")) || e.Size != 4 {
			t.Errorf("%s: %+v", path, e)
		}
	}
	if e := get("a/aa"); e.Hardlink != "" {
		t.Errorf("a/aa: %+v", e)
	}
	if e := get("disk"); e.Mode != unix.S_IFBLK|0o660 || e.Major != 300 || e.Minor != 70000 {
		t.Errorf("disk: %+v", e)
	}
	if !get("a/gone").Whiteout || !get("opaque").Opaque || get("a").Opaque || get("null").Major != 1 {
		t.Error("whiteout, opaque or null")
	}
	get("\xff\n")
	get("sock")
	get("fifo")
	if want := int64(len("data") + len(big) + len("odd name")); x.Size() != want {
		t.Errorf("Size = %d, want %d", x.Size(), want)
	}
}

func TestScanUserXattr(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"trusted/": "opaque", "user/": ""})
	must(t, unix.Setxattr(filepath.Join(dir, "user"), OpaqueXattr(true), []byte("y"), 0))
	for user, want := range map[bool]string{false: "trusted", true: "user"} {
		x, err := Scan(t.Context(), dir, ScanOptions{UserXattr: user})
		must(t, err)
		for _, e := range x.Children("") {
			if e.Opaque != (e.Path == want) {
				t.Errorf("userxattr %v: %s opaque %v", user, e.Path, e.Opaque)
			}
		}
	}
}

func TestScanKnown(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "known", "b": "read", "d/c": "known"})
	must(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "e")))
	var asked atomic.Int32
	mark := [32]byte{1, 2, 3}
	x, err := Scan(t.Context(), dir, ScanOptions{Known: func(rel string, st *unix.Stat_t) ([32]byte, bool) {
		asked.Add(1)
		return mark, st.Size == 5
	}})
	must(t, err)
	for path, want := range map[string][32]byte{"a": mark, "e": mark, "d/c": mark, "b": sha256.Sum256([]byte("read"))} {
		if e, _ := x.Lookup(path); e.Hash != want {
			t.Errorf("%s: %x", path, e.Hash)
		}
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times for 3 inodes", asked.Load())
	}
}

func TestScanWideAndDeep(t *testing.T) {
	dir := t.TempDir()
	want := 1
	for i := range 40 {
		p := dir
		for j := range 12 {
			p = filepath.Join(p, fmt.Sprintf("d%d", i*j%7))
			if err := os.Mkdir(p, 0o755); err == nil {
				want++
			}
			name := filepath.Join(p, fmt.Sprintf("f%d-%d", i, j))
			must(t, os.WriteFile(name, []byte(name), 0o600))
			want++
		}
	}
	x := scan(t, dir)
	if x.Len() != want {
		t.Errorf("%d entries, want %d", x.Len(), want)
	}
	for e := range x.All() {
		if e.IsRegular() && e.Hash != sha256.Sum256([]byte(filepath.Join(dir, e.Path))) {
			t.Errorf("%s: hash of another file", e.Path)
		}
	}
	if y := scan(t, dir); y.raw != x.raw {
		t.Error("scanned again, the index differs")
	}
}

func TestScanErrors(t *testing.T) {
	if _, err := Scan(t.Context(), filepath.Join(t.TempDir(), "nosuch"), ScanOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/b/c": "x"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Scan(ctx, dir, ScanOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

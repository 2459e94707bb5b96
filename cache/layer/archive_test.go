package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// packed is a tar in each form that ADD takes.
func packed(t testing.TB, b []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"tar": b}
	with := func(name string, open func(io.Writer) (io.WriteCloser, error)) {
		var z bytes.Buffer
		w, err := open(&z)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out[name] = z.Bytes()
	}
	with("gzip", func(w io.Writer) (io.WriteCloser, error) { return NewWriter(w, Compression{Gzip, -1, false}) })
	with("zstd", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	with("xz", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	for _, tool := range []string{"bzip2", "xz"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Logf("SKIPPED for %s: %v", tool, err)
			continue
		}
		cmd := exec.Command(path, "-c")
		cmd.Stdin = bytes.NewReader(b)
		z, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		out[tool+" tool"] = z
	}
	return out
}

func TestUnpackArchiveForms(t *testing.T) {
	needRoot(t)
	for name, b := range packed(t, tarOf(t, f("a/b", "data"), f(".wh.x", "no whiteout"), f(".wh..wh..opq", ""))) {
		if ok, err := DetectArchive(bytes.NewReader(b)); !ok || err != nil {
			t.Errorf("%s: not detected: %v", name, err)
		}
		dir := t.TempDir()
		if err := UnpackArchive(t.Context(), bytes.NewReader(b), dir, ArchiveOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for path, want := range map[string]string{"a/b": "data", ".wh.x": "no whiteout", ".wh..wh..opq": ""} {
			if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(got) != want {
				t.Errorf("%s: %s is %q, %v", name, path, got, err)
			}
		}
	}
}

func TestNotAnArchive(t *testing.T) {
	for name, b := range packed(t, []byte("text, not a tar: "+strings.Repeat("x", 3000))) {
		notArchive(t, name, b)
	}
	gz := packed(t, tarOf(t, f("a", "b")))["gzip"]
	for name, b := range map[string][]byte{
		"empty": nil, "short": []byte("x"), "zeros": make([]byte, 4096), "gzip magic": {0x1f, 0x8b, 8},
		"xz magic": append(bytes.Clone(xzMagic), 1, 2, 3), "bzip2 magic": []byte("BZh9xxxxxxxxx"),
		"zstd magic": append(bytes.Clone(zstdMagic), 0xff, 0xff), "cut gzip": gz[:20],
		"script": []byte("#!/bin/sh\necho hello\n"), "zip": []byte("PK\x03\x04" + strings.Repeat("\x00", 600)),
	} {
		notArchive(t, name, b)
	}
	if _, err := DetectArchive(&failing{}); !errors.Is(err, errFailing) {
		t.Errorf("cannot read: %v", err)
	}
	if err := UnpackArchive(t.Context(), &failing{}, t.TempDir(), ArchiveOptions{}); !errors.Is(err, errFailing) || errors.Is(err, ErrNotArchive) {
		t.Errorf("cannot read: %v", err)
	}
}

func notArchive(t *testing.T, name string, b []byte) {
	t.Helper()
	if ok, err := DetectArchive(bytes.NewReader(b)); ok || err != nil {
		t.Errorf("%s: detected: %v, %v", name, ok, err)
	}
	dir := t.TempDir()
	if err := UnpackArchive(t.Context(), bytes.NewReader(b), dir, ArchiveOptions{}); !errors.Is(err, ErrNotArchive) {
		t.Errorf("%s: %v", name, err)
	}
	if names, _ := os.ReadDir(dir); len(names) > 0 {
		t.Errorf("%s: wrote %v", name, names)
	}
}

// rootFS makes a root file system with links as distributions have them, and
// one that would lead out of it.
func rootFS(t testing.TB) (root, outside string) {
	t.Helper()
	top := t.TempDir()
	root, outside = filepath.Join(top, "root"), filepath.Join(top, "outside")
	for _, p := range []string{"usr/lib", "app/data", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"lib": "usr/lib", "abs": "/usr/lib", "out": outside, "up": "../outside", "dangling": "no/where",
		"etc/passwd-link": "passwd", "app/self": "/data", "evil-file": outside + "/file",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{filepath.Join(root, "etc/passwd"), filepath.Join(outside, "file")} {
		if err := os.WriteFile(p, []byte("there before"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root, outside
}

func untouched(t testing.TB, outside string) {
	t.Helper()
	names, err := os.ReadDir(outside)
	if err != nil || len(names) != 1 {
		t.Errorf("outside: %v, %v", names, err)
	}
	st, err := os.Lstat(filepath.Join(outside, "file"))
	if err != nil || st.Mode() != 0o600 || st.Size() != int64(len("there before")) {
		t.Errorf("outside/file: %v, %v", st, err)
	}
}

func TestUnpackArchiveIntoRootFS(t *testing.T) {
	needRoot(t)
	root, outside := rootFS(t)
	at := time.Unix(1500000000, 5)
	rel := strings.TrimPrefix(outside, "/")
	b := tarOf(t,
		d(rel), d("outside"), // so that the links lead somewhere within the root
		f("lib/a.so", "1"), f("abs/b.so", "2"), f("out/c", "3"), f("up/d", "4"), f("/../../up/e", "5"),
		f("etc/passwd-link", "replaced"), f("evil-file", "replaced"),
		d("etc").with(func(h *tar.Header) { h.Mode, h.Uid, h.ModTime = 0o700, 5, at }), f("etc/new", ""),
		f("usr/new/dirs/x", "6"), d("."), d("app/data"), f("app/data/y", "7"),
		h("linked", "etc/passwd").with(func(h *tar.Header) { h.Mode = 0o640 }), h("via", "abs/a.so"), h("linked", "etc/passwd"),
		l("newlink", outside), f("newlink/z", "8"),
		f("setuid", "").with(func(h *tar.Header) {
			h.Mode = 0o4755
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.opaque": "y"}
		}),
		ent{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""},
	)
	if err := UnpackArchive(t.Context(), bytes.NewReader(b), root, ArchiveOptions{}); err != nil {
		t.Fatal(err)
	}
	untouched(t, outside)
	for path, want := range map[string]string{
		"usr/lib/a.so": "1", "usr/lib/b.so": "2", rel + "/c": "3", "outside/d": "4", "outside/e": "5", "usr/new/dirs/x": "6",
		"app/data/y": "7", "linked": "there before", "via": "1", rel + "/z": "8", "etc/passwd-link": "replaced", "evil-file": "replaced",
		"etc/passwd": "there before",
	} {
		st, err := os.Lstat(filepath.Join(root, path))
		if err != nil || !st.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", path, st, err)
			continue
		}
		if got, err := os.ReadFile(filepath.Join(root, path)); string(got) != want {
			t.Errorf("%s is %q, %v; want %q", path, got, err, want)
		}
	}
	x, err := digest.Scan(t.Context(), root, digest.ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := x.Lookup("etc"); e.Mode&0o7777 != 0o700 || e.UID != 5 || !e.ModTime.Equal(at) {
		t.Errorf("etc: %+v", e)
	}
	if e, _ := x.Lookup("setuid"); e.Mode&0o7777 != 0o4755 || e.Xattrs["user.a"] != "b" {
		t.Errorf("setuid: %+v", e)
	}
	if e, _ := x.Lookup("linked"); e.Mode&0o7777 != 0o644 || e.Hardlink != "etc/passwd" {
		t.Errorf("linked: %+v", e)
	}
	if e, _ := x.Lookup("usr/new"); e.Mode&0o7777 != 0o755 || e.UID != 0 {
		t.Errorf("usr/new: %+v", e)
	}
}

func TestUnpackArchiveReplaces(t *testing.T) {
	needRoot(t)
	root, outside := rootFS(t)
	b := tarOf(t,
		d("lib"), f("lib/x", "1"), // a link becomes a directory, as in Docker
		f("app", "a directory becomes a file"), d("evil-file"), f("evil-file/y", "2"),
		l("out", "elsewhere"), h("up", "app"), f("lib/x", "again"),
		d("gone/sub"), f("gone/sub/x", ""), f("gone", "no directory any more"),
	)
	if err := UnpackArchive(t.Context(), bytes.NewReader(b), root, ArchiveOptions{}); err != nil {
		t.Fatal(err)
	}
	untouched(t, outside)
	x, err := digest.Scan(t.Context(), root, digest.ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantList(t, x, "abs -> /usr/lib", "app", "dangling -> no/where", "etc/", "etc/passwd", "etc/passwd-link -> passwd",
		"evil-file/", "evil-file/y", "gone", "lib/", "lib/x", "out -> elsewhere", "up = app", "usr/", "usr/lib/")
}

func TestUnpackArchiveDestAndOwner(t *testing.T) {
	needRoot(t)
	root, outside := rootFS(t)
	b := tarOf(t, f("self/x", "1"), f("../../esc", "2"), f("f", "").with(func(h *tar.Header) { h.Uid, h.Gid = 3, 4 }), l("s", "x"))
	o := ArchiveOptions{Dest: "/app/../app", Owner: &Owner{UID: 70000, GID: 70001}}
	if err := UnpackArchive(t.Context(), bytes.NewReader(b), root, o); err != nil {
		t.Fatal(err)
	}
	untouched(t, outside)
	x, err := digest.Scan(t.Context(), filepath.Join(root, "app"), digest.ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Docker changes its root to the destination: /data is app/data.
	wantList(t, x, "data/", "data/x", "esc", "f", "s -> x", "self -> /data")
	for _, p := range []string{"data/x", "f", "s"} {
		if e, _ := x.Lookup(p); e.UID != 70000 || e.GID != 70001 {
			t.Errorf("%s belongs to %d:%d", p, e.UID, e.GID)
		}
	}
	o.Dest = "abs" // a link within root
	if err := UnpackArchive(t.Context(), bytes.NewReader(b), root, o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(root, "usr/lib/f")); err != nil {
		t.Error(err)
	}
	o.Dest = "nosuch"
	if err := UnpackArchive(t.Context(), bytes.NewReader(b), root, o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a destination that is not there: %v", err)
	}
}

func TestUnpackArchiveRefuses(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"below a file":      {tarOf(t, f("etc/passwd/x", "")), `entry "etc/passwd/x": open directory "etc/passwd": not a directory`},
		"below a dangling":  {tarOf(t, f("dangling/x", "")), `entry "dangling/x": open directory "dangling": file exists`},
		"hard link nowhere": {tarOf(t, h("a", "nosuch")), `entry "a": hard link to "nosuch": no such file`},
		"hard link out":     {tarOf(t, h("a", "out/file")), `entry "a": hard link to "out/file": no such file`},
		"hard link to dir":  {tarOf(t, h("a", "etc")), `entry "a": hard link to "etc": it is a directory`},
		"whiteout device":   {tarOf(t, ent{tar.Header{Typeflag: tar.TypeChar, Name: "w"}, ""}), `entry "w": a character device 0,0`},
		"no name":           {tarOf(t, f("/", "").with(func(h *tar.Header) { h.Name = ".." })), `entry "..": has no name`},
		"type":              {tarOf(t, f("ok", ""), ent{tar.Header{Typeflag: '7', Name: "odd"}, ""}), `entry "odd": unknown type '7'`},
		"cut":               {tarOf(t, f("a", strings.Repeat("x", 1000)))[:700], `entry "a": read 1000 bytes, 0 are there: unexpected EOF`},
		"loop":              {tarOf(t, l("m", "n"), l("n", "m"), f("m/x", "")), `entry "m/x": open directory "m": too many levels`},
	} {
		root, outside := rootFS(t)
		err := UnpackArchive(t.Context(), bytes.NewReader(c.b), root, ArchiveOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		untouched(t, outside)
	}
}

func TestUnpackArchiveLeavesMounts(t *testing.T) {
	needRoot(t)
	root, outside := rootFS(t)
	at := filepath.Join(root, "app/data")
	if err := unix.Mount(outside, at, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("SKIPPED: cannot mount: %v", err)
	}
	defer func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		untouched(t, outside)
	}()
	if err := UnpackArchive(t.Context(), bytes.NewReader(tarOf(t, f("app", "x"))), root, ArchiveOptions{}); err == nil {
		t.Error("a directory with a mount in it was replaced")
	}
}

func FuzzUnpackArchive(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("SKIPPED: needs root")
	}
	for _, b := range fuzzTars(f) {
		f.Add(b)
	}
	f.Add(tarOf(f, l("m", "../outside"), ent{tar.Header{Typeflag: tar.TypeReg, Name: "m/x"}, ""}, h("q", "m/file"), h("up/file", "etc/passwd")))
	f.Fuzz(func(t *testing.T, b []byte) {
		root, outside := rootFS(t)
		_ = UnpackArchive(t.Context(), bytes.NewReader(b), root, ArchiveOptions{Dest: "app"})
		_ = UnpackArchive(t.Context(), bytes.NewReader(b), root, ArchiveOptions{})
		untouched(t, outside)
	})
}

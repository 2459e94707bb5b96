package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root: owners, devices and trusted.* attributes are set")
	}
}

// ent is a tar entry; data makes it a regular file if Typeflag is not set.
type ent struct {
	tar.Header
	data string
}

func f(name, data string) ent {
	return ent{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Unix(1600000000, 0)}, data}
}

func d(name string) ent {
	return ent{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: time.Unix(1600000001, 0)}, ""}
}

func l(name, target string) ent {
	return ent{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func h(name, target string) ent {
	e := f(name, "")
	e.Typeflag, e.Linkname = tar.TypeLink, target
	return e
}

func (e ent) with(change func(*tar.Header)) ent {
	change(&e.Header)
	return e
}

func tarOf(t testing.TB, es ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range es {
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(e.data))
		}
		if e.Format == tar.FormatUnknown {
			e.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks a tar and holds the index to what lies on disk.
func unpack(t testing.TB, o UnpackOptions, b []byte) (string, *digest.Index) {
	t.Helper()
	dir := t.TempDir()
	x, err := Unpack(t.Context(), bytes.NewReader(b), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	sameAsDisk(t, dir, x, o)
	return dir, x
}

func sameAsDisk(t testing.TB, dir string, x *digest.Index, o UnpackOptions) {
	t.Helper()
	y, err := digest.Scan(t.Context(), dir, digest.ScanOptions{UserXattr: o.UserXattr})
	if err != nil {
		t.Fatal(err)
	}
	sameIndex(t, "unpacked", x, "on disk", y)
}

func sameIndex(t testing.TB, nx string, x *digest.Index, ny string, y *digest.Index) {
	t.Helper()
	for _, e := range x.Entries() {
		if other, ok := y.Lookup(e.Path); !ok || !reflect.DeepEqual(e, other) {
			t.Errorf("%s: %+v\n%s: %+v (%v)", nx, e, ny, other, ok)
		}
	}
	for _, e := range y.Entries() {
		if _, ok := x.Lookup(e.Path); !ok {
			t.Errorf("only %s: %+v", ny, e)
		}
	}
}

// list describes an index, one line per path but the root.
func list(x *digest.Index) string {
	var b strings.Builder
	for _, e := range x.Entries()[1:] {
		fmt.Fprintf(&b, "%s", e.Path)
		switch {
		case e.Whiteout:
			b.WriteString(" whiteout")
		case e.IsDir():
			b.WriteString("/")
		case e.Hardlink != "":
			fmt.Fprintf(&b, " = %s", e.Hardlink)
		case e.IsSymlink():
			fmt.Fprintf(&b, " -> %s", e.Link)
		}
		if e.Opaque {
			b.WriteString(" opaque")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func wantList(t testing.TB, x *digest.Index, want ...string) {
	t.Helper()
	if got := strings.TrimSuffix(list(x), "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestUnpackTypes(t *testing.T) {
	needRoot(t)
	ns := time.Unix(1600000000, 123456789)
	dir, x := unpack(t, UnpackOptions{}, tarOf(t,
		d("./bin/").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o2750, 5, 6 }),
		f("./bin/su", "su").with(func(h *tar.Header) {
			h.Mode, h.Uid, h.Gid, h.ModTime = 0o4755, 7, 1<<31, ns
			h.PAXRecords = map[string]string{
				"SCHILY.xattr.security.capability":    string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}),
				"SCHILY.xattr.user.note":              "n\x00te",
				"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y",
				"SCHILY.xattr.security.selinux": "x", "SCHILY.xattr." + digest.OwnerXattr: "1:1",
			}
		}),
		h("./bin/sudo", "bin/su").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid, h.ModTime = 0o4755, 7, 1<<31, ns }),
		l("sh", "/bin/su").with(func(h *tar.Header) { h.Uid = 9; h.ModTime = ns }),
		ent{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o620}, ""},
		ent{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		ent{tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Devmajor: 8, Devminor: 1, Gid: 6}, ""},
		f("empty", ""),
		f("big", strings.Repeat("0123456789abcdef", 200000)),
		f("old", "").with(func(h *tar.Header) { h.ModTime = time.Unix(-1, 0) }),
	))
	e, _ := x.Lookup("bin/su")
	want := digest.Entry{
		Path: "bin/su", Mode: unix.S_IFREG | 0o4755, UID: 7, GID: 1 << 31, Size: 2, ModTime: ns.UTC(),
		Hash: sha256.Sum256([]byte("su")),
		Xattrs: map[string]string{
			"security.capability": string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}),
			"user.note":           "n\x00te",
		},
	}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
	if e, _ := x.Lookup("bin"); e.Mode != unix.S_IFDIR|0o2750 || e.UID != 5 || e.GID != 6 || e.ModTime.Unix() != 1600000001 {
		t.Errorf("directory %+v", e)
	}
	if e, _ := x.Lookup("old"); e.ModTime.Unix() != 0 {
		t.Errorf("time before 1970: %v", e.ModTime)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "big")); err != nil || len(b) != 3200000 {
		t.Error(len(b), err)
	}
	if x.Size() != 3200002 {
		t.Errorf("size %d", x.Size())
	}
}

func TestUnpackWhiteouts(t *testing.T) {
	needRoot(t)
	for _, user := range []bool{false, true} {
		_, x := unpack(t, UnpackOptions{UserXattr: user}, tarOf(t,
			d("a/"), f("a/.wh.gone", ""), f("a/.wh..wh..opq", ""), f("a/kept", "x"), // the first says nothing then
			f("b/c/.wh.gone", ""), // parents that the tar leaves out
			// A whiteout and the same name in one layer: only what is below goes.
			f("d/new", "x"), f(".wh.d", ""), f(".wh.e", ""), f("e/new", "x"),
			f(".wh.f", ""), f("f", "x"), f("g", "x"), f(".wh.g", ""), f(".wh.h", ""), d("h"),
			f(".wh..wh.plnk/1.2", "aufs"), f(".wh..wh.aufs", ""),
		))
		wantList(t, x, "a/ opaque", "a/kept", "b/", "b/c/", "b/c/gone whiteout",
			"d/ opaque", "d/new", "e/ opaque", "e/new", "f", "g", "h/ opaque")
	}
}

func TestUnpackReplaces(t *testing.T) {
	needRoot(t)
	_, x := unpack(t, UnpackOptions{}, tarOf(t,
		f("a/b/c", "1"), f("a", "now a file"),
		f("d", "file"), d("d"), f("d/e", "2"),
		f("f", "1"), f("f", "2"),
		l("g", "d"), d("g"), f("g/own", ""),
		f("h", "1"), h("i", "h"), f("h", "2"),
		d("j").with(func(h *tar.Header) { h.Mode = 0o700 }), f("j/k", ""), d("j").with(func(h *tar.Header) { h.Mode = 0o711 }),
		h("f", "f"),
	))
	wantList(t, x, "a", "d/ opaque", "d/e", "f", "g/ opaque", "g/own", "h", "i", "j/", "j/k")
	if e, _ := x.Lookup("f"); e.Hash != sha256.Sum256([]byte("2")) {
		t.Error("the first of two files was kept")
	}
	if e, _ := x.Lookup("i"); e.Hash != sha256.Sum256([]byte("1")) {
		t.Error("replacing a file changed another name of it")
	}
	if e, _ := x.Lookup("j"); e.Mode&0o7777 != 0o711 {
		t.Errorf("directory has mode %#o", e.Mode)
	}
}

func TestUnpackNames(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	dir, x := unpack(t, UnpackOptions{}, tarOf(t,
		f("/abs/x", "1"), f("./dot/./x", "2"), f("in/../x", "3"), f("../../up", "4"), f("/../../up2", "5"),
		d("usr/lib"), l("lib", "usr/lib"), f("lib/so", "6"),
		l("etc", "/usr/etc"), f("etc/conf", "7"), // leads to where nothing is yet
		l("out", outside), f("out/x", "8"),
		l("up3", "../../../.."), f("up3/y", "9"),
		l("a", "b"), l("b", "c/d"), f("a/z", "10"),
		ent{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700, Uid: 5}, ""},
		ent{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""},
	))
	rel := strings.TrimPrefix(outside, "/")
	var want []string
	for i, p := range strings.Split(rel, "/") {
		_ = p
		want = append(want, strings.Join(strings.Split(rel, "/")[:i+1], "/")+"/")
	}
	wants := append([]string{
		"a -> b", "abs/", "abs/x", "b -> c/d", "c/", "c/d/", "c/d/z", "dot/", "dot/x", "etc -> /usr/etc",
		"lib -> usr/lib", "out -> " + outside,
	}, want...)
	wants = append(wants, rel+"/x", "up", "up2", "up3 -> ../../../..", "usr/", "usr/etc/", "usr/etc/conf", "usr/lib/", "usr/lib/so", "x", "y")
	wantList(t, x, wants...)
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("written outside: %v", names)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("an entry ./ changed the root: %v, %v", st.Mode(), err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	needRoot(t)
	long := strings.Repeat("n", 300)
	for name, c := range map[string]struct {
		tar  []byte
		want string
	}{
		"below a file":          {tarOf(t, f("a", ""), f("a/b", "")), `entry "a/b": "a" is a regular file: not a directory`},
		"below a linked file":   {tarOf(t, f("a", ""), l("b", "a"), f("b/c", "")), `entry "b/c": "a" is a regular file: not a directory`},
		"link loop":             {tarOf(t, l("a", "b"), l("b", "a"), f("a/x", "")), `entry "a/x": too many levels of symbolic links`},
		"hard link to nothing":  {tarOf(t, h("a", "nosuch")), `entry "a": hard link to "nosuch": file does not exist`},
		"hard link outside":     {tarOf(t, h("a", "../../../etc/passwd")), `entry "a": hard link to "../../../etc/passwd": file does not exist`},
		"hard link by a link":   {tarOf(t, l("e", "/etc"), h("a", "e/passwd")), `entry "a": hard link to "e/passwd": file does not exist`},
		"hard link to a dir":    {tarOf(t, d("a"), h("b", "a")), `entry "b": hard link to "a": it is a directory: operation not permitted`},
		"hard link to root":     {tarOf(t, h("b", "/")), `entry "b": hard link to "/": operation not permitted`},
		"hard link into itself": {tarOf(t, f("a/b", ""), h("a", "a/b")), `entry "a": hard link to "a/b": the link would take its directory's place`},
		"hard link to whiteout": {tarOf(t, f(".wh.a", ""), h("b", "a")), `entry "b": hard link to "a": file does not exist`},
		"name too long":         {tarOf(t, f(long, "")), `entry "nnnnn`},
		"path too long":         {tarOf(t, f(strings.Repeat("d/", 3000)+"x", "")), `file name too long`},
		"whiteout of nothing":   {tarOf(t, f(".wh.", "")), `entry ".wh.": whiteout ".wh.": want the name of a file after .wh.`},
		"whiteout of dot":       {tarOf(t, f("a/.wh..", "")), `entry "a/.wh..": whiteout ".wh..": want`},
		"whiteout of dotdot":    {tarOf(t, f("a/.wh...", "")), `entry "a/.wh...": whiteout ".wh...": want`},
		"type":                  {tarOf(t, ent{tar.Header{Typeflag: '7', Name: "a"}, ""}), `entry "a": unknown type '7'`},
		"uid":                   {tarOf(t, f("a", "").with(func(h *tar.Header) { h.Uid = 1 << 32 })), `entry "a": owner 4294967296:0: want 0 to 4294967294`},
		"device":                {tarOf(t, ent{tar.Header{Typeflag: tar.TypeBlock, Name: "a", Devmajor: 5000}, ""}), `entry "a": device 5000,0: want up to 4095,1048575`},
		"empty link":            {tarOf(t, l("a", "x"), f("b", ""), ent{tar.Header{Typeflag: tar.TypeSymlink, Name: "c"}, ""}), `entry "c": create symbolic link: no such file`},
		"garbage":               {bytes.Repeat([]byte("garbage "), 200), "read the entry after"},
	} {
		dir := t.TempDir()
		_, err := Unpack(t.Context(), bytes.NewReader(c.tar), dir, UnpackOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestUnpackNegativeSize(t *testing.T) {
	b := tarOf(t, f("a", "data"))
	copy(b[124:136], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") // base-256, -1
	fixChecksum(b)
	if _, err := Unpack(t.Context(), bytes.NewReader(b), t.TempDir(), UnpackOptions{}); !errors.Is(err, tar.ErrHeader) {
		t.Errorf("got %v", err)
	}
}

func fixChecksum(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestUnpackGiantPAX(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders", Size: 64 << 20, Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	raw[156] = 'x'
	fixChecksum(raw)
	r := io.MultiReader(bytes.NewReader(raw), io.LimitReader(zeros{}, 64<<20))
	if _, err := Unpack(t.Context(), r, t.TempDir(), UnpackOptions{}); !errors.Is(err, tar.ErrFieldTooLong) {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUnpackTruncated(t *testing.T) {
	needRoot(t)
	b := tarOf(t, d("dir"), f("dir/file", strings.Repeat("x", 2000)), f("last", "y"))
	const end = 512 + 512 + 2000 // of the file's bytes
	for n := 0; n < end; n += 31 {
		_, err := Unpack(t.Context(), bytes.NewReader(b[:n]), t.TempDir(), UnpackOptions{})
		// A tar may lack its trailer, so where an entry ends nothing is amiss.
		if err == nil && n%512 != 0 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
	_, err := Unpack(t.Context(), bytes.NewReader(b[:1500]), t.TempDir(), UnpackOptions{})
	if want := `entry "dir/file": read 2000 bytes, 0 are there: unexpected EOF`; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestUnpackReadsToTheEnd(t *testing.T) {
	needRoot(t)
	r := io.MultiReader(bytes.NewReader(tarOf(t, f("a", ""))), io.LimitReader(zeros{}, 1<<20), &failing{})
	if _, err := Unpack(t.Context(), r, t.TempDir(), UnpackOptions{}); !errors.Is(err, errFailing) {
		t.Errorf("got %v: what follows the archive was not read", err)
	}
}

var errFailing = errors.New("cannot read")

type failing struct{}

func (*failing) Read([]byte) (int, error) { return 0, errFailing }

func TestUnpackNeedsAnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(t.Context(), bytes.NewReader(tarOf(t)), dir, UnpackOptions{}); err == nil {
		t.Error("no error")
	}
}

func TestUnpackSparse(t *testing.T) {
	needRoot(t)
	// What GNU tar --sparse writes for a file of 1 MiB with 3 bytes at 512 KiB.
	b, err := os.ReadFile("testdata/sparse.tar")
	if err != nil {
		t.Fatal(err)
	}
	dir, x := unpack(t, UnpackOptions{}, b)
	want := make([]byte, 1<<20)
	copy(want[512<<10:], "abc")
	if e, _ := x.Lookup("sparse"); e.Hash != sha256.Sum256(want) || e.Size != 1<<20 {
		t.Errorf("%+v", e)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "sparse"), &st); err != nil || st.Blocks*512 > 64<<10 {
		t.Errorf("takes %d bytes on disk, %v", st.Blocks*512, err)
	}
}

// view makes a view of one layer.
func view(t testing.TB, es ...ent) *digest.View {
	t.Helper()
	dir, x := unpack(t, UnpackOptions{}, tarOf(t, es...))
	return digest.NewView([]digest.Layer{{Dir: dir, Index: x}})
}

func TestUnpackParentsOfLower(t *testing.T) {
	needRoot(t)
	lower := view(t,
		d("a").with(func(h *tar.Header) {
			h.Mode, h.Uid, h.Gid = 0o1777, 3, 4
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
		}),
		d("a/b").with(func(h *tar.Header) { h.Mode = 0o500 }), l("link", "a"), d("c"), d("c/d").with(func(h *tar.Header) { h.Mode = 0o700 }),
		ent{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711, Uid: 8, PAXRecords: map[string]string{paxRoot: "1"}}, ""},
	)
	_, x := unpack(t, UnpackOptions{Lower: lower}, tarOf(t, f("a/b/new/x", ""), f("link/b/x", ""), f(".wh.c", ""), f("c/d/x", "")))
	for path, mode := range map[string]uint32{"": 0o711, "a": 0o1777, "a/b": 0o500, "a/b/new": 0o755, "link": 0o755, "link/b": 0o755, "c": 0o755, "c/d": 0o755} {
		if e, ok := x.Lookup(path); !ok || e.Mode != unix.S_IFDIR|mode {
			t.Errorf("%q has mode %#o, want %#o", path, e.Mode, mode)
		}
	}
	if e, _ := x.Lookup("a"); e.UID != 3 || e.GID != 4 || e.Xattrs["user.a"] != "b" || e.ModTime.Unix() != 1600000001 {
		t.Errorf("%+v", e)
	}
}

func TestUnpackHardlinkIntoLower(t *testing.T) {
	needRoot(t)
	meta := func(h *tar.Header) { h.Mode, h.Uid = 0o4711, 5 }
	lower := view(t, d("a").with(func(h *tar.Header) { h.Mode = 0o711 }), f("a/tool", "bytes").with(meta), l("a/link", "tool"), d("gone"), f("gone/x", ""), f("hid", ""))
	dir, x := unpack(t, UnpackOptions{Lower: lower}, tarOf(t,
		h("new", "a/tool").with(meta), h("other", "./a/tool").with(meta), h("sym", "a/link"),
	))
	wantList(t, x, "a/", "a/link -> tool", "a/tool", "new = a/tool", "other = a/tool", "sym = a/link")
	if e, _ := x.Lookup("new"); e.Mode != unix.S_IFREG|0o4711 || e.UID != 5 || e.Hash != sha256.Sum256([]byte("bytes")) {
		t.Errorf("%+v", e)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "other")); string(b) != "bytes" {
		t.Error(string(b), err)
	}
	for _, b := range [][]byte{
		tarOf(t, f(".wh.gone", ""), h("y", "gone/x")),
		tarOf(t, f("gone/.wh..wh..opq", ""), h("y", "gone/x")),
		tarOf(t, f(".wh.hid", ""), h("y", "hid")),
		tarOf(t, f("gone", "file"), h("y", "gone/x")),
	} {
		if _, err := Unpack(t.Context(), bytes.NewReader(b), t.TempDir(), UnpackOptions{Lower: lower}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("hard link to what the layer hides: %v", err)
		}
	}
}

func TestUnpackOpaqueRoot(t *testing.T) {
	needRoot(t)
	lower := view(t, f("a/x", ""), f("b", ""), f("c/x", ""))
	_, x := unpack(t, UnpackOptions{Lower: lower}, tarOf(t, f(".wh..wh..opq", ""), f("a/y", ""), f("d", "")))
	wantList(t, x, "a/ opaque", "a/y", "b whiteout", "c whiteout", "d")
	if e, _ := x.Lookup(""); !e.Opaque {
		t.Error("the root is not marked")
	}
}

func TestUnpackDropsIdleWhiteouts(t *testing.T) {
	needRoot(t)
	lower := view(t, f("a/x", ""), f("b", ""), l("link", "a"))
	_, x := unpack(t, UnpackOptions{Lower: lower}, tarOf(t,
		f("a/.wh.x", ""), f("a/.wh.y", ""), f(".wh.b", ""), f(".wh.c", ""), f("link/.wh.x", ""), f("new/.wh.z", ""), f(".wh.link", ""),
	))
	wantList(t, x, "a/", "a/x whiteout", "b whiteout", "link/ opaque", "new/")
}

func TestUnpackWaitsForLower(t *testing.T) {
	needRoot(t)
	lower := view(t, d("a").with(func(h *tar.Header) { h.Mode = 0o711 }), f("a/x", ""))
	asked := 0
	dir := t.TempDir()
	o := UnpackOptions{WaitLower: func(context.Context) (*digest.View, error) {
		asked++
		if _, err := os.Lstat(filepath.Join(dir, "last")); err != nil {
			t.Error("asked before all files were written")
		}
		return lower, nil
	}}
	x, err := Unpack(t.Context(), bytes.NewReader(tarOf(t, f("a/y", ""), f(".wh.gone", ""), f("last", ""))), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	wantList(t, x, "a/", "a/y", "last")
	if e, _ := x.Lookup("a"); e.Mode&0o7777 != 0o711 || asked != 1 {
		t.Errorf("%+v, asked %d times", e, asked)
	}
	o.WaitLower = func(context.Context) (*digest.View, error) { return nil, errFailing }
	if _, err := Unpack(t.Context(), bytes.NewReader(tarOf(t)), t.TempDir(), o); !errors.Is(err, errFailing) {
		t.Error(err)
	}
}

func TestUnpackHardlinkHeader(t *testing.T) {
	needRoot(t)
	// As containerd does, the last header that names an inode decides.
	_, x := unpack(t, UnpackOptions{}, tarOf(t, f("a", "x").with(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})}
	}), h("b", "a").with(func(h *tar.Header) { h.Mode, h.Uid = 0o600, 9 })))
	for _, p := range []string{"a", "b"} {
		if e, _ := x.Lookup(p); e.Mode != unix.S_IFREG|0o600 || e.UID != 9 || e.Xattrs["security.capability"] == "" {
			t.Errorf("%+v", e)
		}
	}
}

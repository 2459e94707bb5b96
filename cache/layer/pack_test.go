package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

func pack(t testing.TB, l digest.Layer, o PackOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Pack(t.Context(), l, &b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// listTar describes a tar, one line per entry.
func listTar(t testing.TB, b []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %04o %d:%d %d %s", hdr.Typeflag, hdr.Mode, hdr.Uid, hdr.Gid, hdr.ModTime.Unix(), hdr.Name)
		if hdr.Linkname != "" {
			line += " " + hdr.Linkname
		}
		if hdr.Size > 0 {
			line += fmt.Sprintf(" [%d]", hdr.Size)
		}
		if hdr.Devmajor+hdr.Devminor > 0 {
			line += fmt.Sprintf(" %d,%d", hdr.Devmajor, hdr.Devminor)
		}
		for _, k := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
			line += fmt.Sprintf(" %s=%q", k, hdr.PAXRecords[k])
		}
		if hdr.Uname+hdr.Gname != "" || hdr.ModTime.Nanosecond() != 0 {
			line += " NAMES OR NANOSECONDS"
		}
		out = append(out, line)
	}
}

func TestPack(t *testing.T) {
	needRoot(t)
	ns := time.Unix(1600000000, 999999999)
	long := strings.Repeat("l", 200)
	dir, _ := unpack(t, UnpackOptions{}, tarOf(t,
		d("b"), f("b/file", "data").with(func(h *tar.Header) { h.ModTime = ns; h.Mode = 0o4755 }), h("b/again", "b/file").with(func(h *tar.Header) { h.ModTime = ns; h.Mode = 0o4755 }),
		d("a").with(func(h *tar.Header) { h.Mode = 0o1777 }), f("a/.wh..wh..opq", ""), f("b/.wh.x", ""),
		d("a-b"), l("link", "b/file").with(func(h *tar.Header) { h.ModTime = ns }),
		ent{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}, ""},
		ent{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		f(long, "").with(func(h *tar.Header) {
			h.Uid = 3000000
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.b": "2", "SCHILY.xattr.user.a": "1"}
		}),
		f("ü\xff", ""),
	))
	if err := unix.Mknod(filepath.Join(dir, "sock"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	got := listTar(t, pack(t, digest.Layer{Dir: dir}, PackOptions{}))
	want := []string{
		"5 1777 0:0 1600000001 a/",
		"0 0000 0:0 0 a/.wh..wh..opq",
		"5 0755 0:0 1600000001 a-b/",
		"5 0755 0:0 1600000001 b/",
		"0 4755 0:0 1600000000 b/again [4]",
		"1 4755 0:0 1600000000 b/file b/again",
		"0 0000 0:0 0 b/.wh.x",
		"6 0600 0:0 0 fifo",
		"2 0777 0:0 1600000000 link b/file",
		"0 0644 3000000:0 1600000000 " + long + ` SCHILY.xattr.user.a="1" SCHILY.xattr.user.b="2" path="` + long + `" uid="3000000"`,
		"3 0666 0:0 0 null 1,3",
		"0 0644 0:0 1600000000 ü\xff path=\"ü\\xff\"",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	at := time.Unix(1000, 500)
	for _, line := range listTar(t, pack(t, digest.Layer{Dir: dir}, PackOptions{Epoch: &at})) {
		if !strings.Contains(line, " 1000 ") && !strings.Contains(line, " 0:0 0 ") {
			t.Errorf("later than the epoch: %s", line)
		}
	}
}

func TestPackRoot(t *testing.T) {
	needRoot(t)
	dir, x := unpack(t, UnpackOptions{}, tarOf(t, f("a", "")))
	if got := listTar(t, pack(t, digest.Layer{Dir: dir, Index: x}, PackOptions{})); len(got) != 1 {
		t.Errorf("an ordinary root is packed: %q", got)
	}
	if err := os.Chmod(dir, 0o1777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir, digest.OpaqueXattr(false), []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	b := pack(t, digest.Layer{Dir: dir}, PackOptions{})
	want := []string{`5 1777 0:0 1600000000 ./ BUILDD.root="1"`, "0 0000 0:0 0 .wh..wh..opq", "0 0644 0:0 1600000000 a"}
	if got := listTar(t, b); !strings.HasPrefix(got[0], "5 1777 0:0 ") || !slices.Equal(got[1:], want[1:]) {
		t.Errorf("got %q, want %q", got, want)
	}
	_, y := unpack(t, UnpackOptions{}, b)
	if e, _ := y.Lookup(""); e.Mode != unix.S_IFDIR|0o1777 || !e.Opaque {
		t.Errorf("unpacked as %+v", e)
	}
}

func TestPackRefuses(t *testing.T) {
	needRoot(t)
	dir, x := unpack(t, UnpackOptions{}, tarOf(t, d("d"), f("d/a", "data")))
	path := filepath.Join(dir, "d/a")
	l := digest.Layer{Dir: dir, Index: x}
	fails := func(what, want string) {
		t.Helper()
		if err := Pack(t.Context(), l, io.Discard, PackOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(path, []byte("longer than it was"), 0o600))
	fails("a file that grew", `"d/a": is not the file that was indexed`)
	must(os.Remove(path))
	fails("a file that went", `"d/a": open: no such file`)
	must(os.Symlink("/etc/hostname", path))
	fails("a link in its place", `"d/a": open: too many levels`)
	must(os.Remove(path))
	must(unix.Mkfifo(path, 0o600))
	fails("a fifo in its place", `"d/a": is not the file that was indexed`)
	must(os.RemoveAll(filepath.Join(dir, "d")))
	must(os.Symlink("/etc", filepath.Join(dir, "d")))
	fails("a link in its directory's place", `"d/a": open directory: not a directory`)

	must(os.WriteFile(filepath.Join(dir, ".wh.x"), nil, 0o600))
	l.Index = nil
	fails("a reserved name", `".wh.x": an image layer cannot hold a file whose name begins with ".wh."`)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Pack(ctx, digest.Layer{Dir: dir, Index: x}, io.Discard, PackOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// randomLayer fills a directory with all that a layer can hold.
func randomLayer(t testing.TB, r *rand.Rand, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dirs, plain, all := []string{""}, []string{}, []string{""}
	opaque := map[string]bool{}
	name := func() string {
		parent := dirs[r.IntN(len(dirs))]
		n := []string{"a", "b-c", "ü", "x.y", "sp ace", "\xff\xfe", "-", strings.Repeat("n", 150)}[r.IntN(8)]
		return join(parent, n)
	}
	for i := range 40 {
		rel := name() + fmt.Sprint(i)
		p := filepath.Join(dir, rel)
		switch r.IntN(10) {
		case 0, 1:
			must(os.Mkdir(p, 0o755))
			dirs = append(dirs, rel)
			opaque[rel] = opaque[filepath.Dir(rel)]
			if r.IntN(3) == 0 {
				must(unix.Setxattr(p, digest.OpaqueXattr(false), []byte("y"), 0))
				opaque[rel] = true
			}
		case 2, 3, 4:
			must(os.WriteFile(p, bytes.Repeat([]byte{byte(r.Int())}, r.IntN(3000)), 0o644))
			plain = append(plain, rel)
		case 5:
			must(os.Symlink([]string{"a", "/etc", "../..", "\xff"}[r.IntN(4)], p))
		case 6:
			if !opaque[filepath.Dir(rel)] { // there it would hide nothing, and overlay makes none
				must(unix.Mknod(p, unix.S_IFCHR, 0))
			}
			continue // a whiteout has neither owner nor mode
		case 7:
			must(unix.Mknod(p, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(r.IntN(4096)), uint32(r.IntN(1<<20))))))
		case 8:
			must(unix.Mkfifo(p, 0o600))
		case 9:
			if len(plain) > 0 {
				must(os.Link(filepath.Join(dir, plain[r.IntN(len(plain))]), p))
			} else {
				must(os.WriteFile(p, nil, 0o600))
			}
		}
		all = append(all, rel)
	}
	for _, rel := range all {
		p := filepath.Join(dir, rel)
		st, err := os.Lstat(p)
		must(err)
		must(os.Lchown(p, r.IntN(3)*1500000, r.IntN(3)))
		if st.Mode()&os.ModeSymlink == 0 {
			must(unix.Chmod(p, uint32(r.IntN(0o10000))))
		}
		if st.IsDir() || st.Mode().IsRegular() {
			if r.IntN(3) == 0 {
				must(unix.Setxattr(p, "user.test", []byte{0, byte(r.Int()), '='}, 0))
			}
		}
	}
	for i := range all {
		p := filepath.Join(dir, all[len(all)-1-i])
		ts := unix.NsecToTimespec(r.Int64N(2e18))
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func TestPackUnpackKeepsContent(t *testing.T) {
	needRoot(t)
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 7))
		dir := t.TempDir()
		randomLayer(t, r, dir)
		x, err := digest.Scan(t.Context(), dir, digest.ScanOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b := pack(t, digest.Layer{Dir: dir, Index: x}, PackOptions{})
		if !bytes.Equal(b, pack(t, digest.Layer{Dir: dir}, PackOptions{})) {
			t.Fatalf("seed %d: packed twice, the bytes differ", seed)
		}
		again, y := unpack(t, UnpackOptions{}, b)
		if x.Content() != y.Content() {
			t.Errorf("seed %d: content differs:\n%s\n%s", seed, list(x), list(y))
		}
		if list(x) != list(y) {
			t.Errorf("seed %d: hard links differ:\n%s\n%s", seed, list(x), list(y))
		}
		if !bytes.Equal(b, pack(t, digest.Layer{Dir: again, Index: y}, PackOptions{})) {
			t.Errorf("seed %d: unpacked and packed, the bytes differ", seed)
		}
		if t.Failed() {
			return
		}
	}
}

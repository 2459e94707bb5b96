package layer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// oddFiles makes a directory of all that a layer can hold.
func oddFiles(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Mkdir(at("d"), 0o755),
		os.Mkdir(at("d/closed"), 0o755),
		os.WriteFile(at("d/closed/f"), []byte("inside"), 0o600),
		os.Chmod(at("d/closed"), 0),
		os.Mkdir(at("d-e"), 0o700|os.ModeSticky|os.ModeSetgid),
		os.WriteFile(at("d-e/empty"), nil, 0o644),
		os.WriteFile(at("setuid"), bytes.Repeat([]byte("x"), 3<<20), 0o755),
		os.Lchown(at("setuid"), 7, 8),
		os.Chmod(at("setuid"), 0o4755|os.ModeSetuid),
		os.Link(at("setuid"), at("d/link")),
		os.Symlink("../../../etc/passwd", at("d/out")),
		os.Link(at("d/out"), at("d/out2")),
		os.Symlink("d", at("dirlink")),
		os.WriteFile(at(".wh.not-a-whiteout"), []byte("a file of an awkward name"), 0o644),
		os.WriteFile(at("name\n\xff with all\tin it"), []byte("1"), 0o644),
		unix.Mkfifo(at("fifo"), 0o640),
		unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))),
		unix.Mknod(at("gone"), unix.S_IFCHR, 0),
		os.Mkdir(at("opaque"), 0o755),
		unix.Lsetxattr(at("opaque"), "trusted.overlay.opaque", []byte("y"), 0),
		unix.Lsetxattr(at("setuid"), "user.note", []byte("kept\x00whole"), 0),
		unix.Lsetxattr(at("setuid"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		unix.Lsetxattr(dir, "user.root", []byte("r"), 0),
		os.Truncate(at("d-e/empty"), 5<<20), // a hole
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n := int64(-5e9) // 1969, and then on
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		n += 33_333_333_123_456_789
		ts := unix.NsecToTimespec(n)
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func scanned(t testing.TB, dir string) digest.Layer {
	t.Helper()
	x, err := digest.Scan(t.Context(), dir, digest.ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return digest.Layer{Dir: dir, Index: x}
}

func sent(t testing.TB, l digest.Layer) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Send(t.Context(), l, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTransferIsExact(t *testing.T) {
	needRoot(t)
	l := scanned(t, oddFiles(t))
	b := sent(t, l)
	to := t.TempDir()
	x, err := Receive(t.Context(), bytes.NewReader(b), to, ReceiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := scanned(t, to)
	if g, w := got.Index.Entries(), l.Index.Entries(); !reflect.DeepEqual(g, w) {
		for i := range min(len(g), len(w)) {
			if !reflect.DeepEqual(g[i], w[i]) {
				t.Errorf("received\n%+v\nwant\n%+v", g[i], w[i])
			}
		}
		t.Fatalf("received %d entries, want %d", len(g), len(w))
	}
	if !reflect.DeepEqual(x.Entries(), got.Index.Entries()) {
		t.Error("the index is not one of what is there")
	}
	if !bytes.Equal(sent(t, got), b) {
		t.Error("it is not sent on as it was received")
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(to, "d-e/empty"), &st); err != nil || st.Blocks > 16 {
		t.Errorf("the hole was filled: %d blocks, %v", st.Blocks, err)
	}
}

// TestTransferWithBases leaves out what both sides have.
func TestTransferWithBases(t *testing.T) {
	needRoot(t)
	base := scanned(t, oddFiles(t))
	dir := t.TempDir()
	for _, err := range []error{
		os.Link(filepath.Join(base.Dir, "setuid"), filepath.Join(dir, "same")), // as COPY does
		os.WriteFile(filepath.Join(dir, "other"), bytes.Repeat([]byte("x"), 3<<20), 0o600),
		os.WriteFile(filepath.Join(dir, "new"), []byte("not there"), 0o644),
		os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644),
		os.Link(filepath.Join(dir, "new"), filepath.Join(dir, "newer")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l := scanned(t, dir)
	var b bytes.Buffer
	if err := Send(t.Context(), l, &b, base); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 2000 {
		t.Errorf("%d bytes for what is there already", b.Len())
	}
	to := t.TempDir()
	if _, err := Receive(t.Context(), bytes.NewReader(b.Bytes()), to, ReceiveOptions{Bases: []digest.Layer{base}}); err != nil {
		t.Fatal(err)
	}
	if g, w := scanned(t, to).Index.Entries(), l.Index.Entries(); !reflect.DeepEqual(g, w) {
		t.Errorf("received\n%+v\nwant\n%+v", g, w)
	}
	var have, got unix.Stat_t
	if err := errors.Join(unix.Stat(filepath.Join(base.Dir, "setuid"), &have), unix.Stat(filepath.Join(to, "same"), &got)); err != nil || have.Ino != got.Ino {
		t.Errorf("a file that is the same in all was copied, %v", err)
	}
	// Without the bases there is not enough.
	if _, err := Receive(t.Context(), bytes.NewReader(b.Bytes()), t.TempDir(), ReceiveOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	// A base that is not what its index says is noticed.
	if err := os.WriteFile(filepath.Join(base.Dir, "setuid"), bytes.Repeat([]byte("y"), 3<<20), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Receive(t.Context(), bytes.NewReader(b.Bytes()), t.TempDir(), ReceiveOptions{Bases: []digest.Layer{base}}); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("error %v", err)
	}
}

func TestSendChangedFile(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := scanned(t, dir)
	if err := os.WriteFile(p, []byte("three"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Send(t.Context(), l, io.Discard); !errors.Is(err, errChanged) {
		t.Errorf("error %v", err)
	}
}

// hostile makes what a sender could send that is not Send.
func hostile(t testing.TB, data string, es ...digest.Entry) []byte {
	t.Helper()
	var b digest.Builder
	for _, e := range es {
		if e.ModTime.IsZero() {
			e.ModTime = epoch
		}
		b.Add(e)
	}
	x, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := x.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	out.WriteString(data)
	return out.Bytes()
}

func TestReceiveRefuses(t *testing.T) {
	needRoot(t)
	file := func(e digest.Entry) digest.Entry {
		e.Path, e.Mode, e.Size, e.Hash = "f", unix.S_IFREG|0o644, 3, sha256.Sum256([]byte("abc"))
		return e
	}
	good := hostile(t, "abc", file(digest.Entry{}))
	if _, err := Receive(t.Context(), bytes.NewReader(good), t.TempDir(), ReceiveOptions{}); err != nil {
		t.Fatal(err)
	}
	for says, b := range map[string][]byte{
		"SHA-256":                         hostile(t, "abd", file(digest.Entry{})),
		"unexpected EOF":                  hostile(t, "ab", file(digest.Entry{})),
		"not a valid layer index":         append([]byte("x"), good...),
		`"trusted.overlay.redirect"`:      hostile(t, "abc", file(digest.Entry{Xattrs: map[string]string{"trusted.overlay.redirect": "/etc"}})),
		`"security.selinux"`:              hostile(t, "abc", file(digest.Entry{Xattrs: map[string]string{"security.selinux": "x"}})),
		"owner 4294967295":                hostile(t, "abc", file(digest.Entry{UID: 1<<32 - 1})),
		"out of range":                    hostile(t, "abc", file(digest.Entry{ModTime: time.Unix(1<<40, 0)})),
		"device 0,0":                      hostile(t, "", digest.Entry{Path: "c", Mode: unix.S_IFCHR}),
		"device 5000,0":                   hostile(t, "", digest.Entry{Path: "c", Mode: unix.S_IFCHR, Major: 5000}),
		unix.ENAMETOOLONG.Error():         hostile(t, "", digest.Entry{Path: strings.Repeat("n", 300), Mode: unix.S_IFREG, Hash: emptyHash}),
		`"user.note" cannot be kept here`: hostile(t, "", digest.Entry{Path: "l", Mode: unix.S_IFLNK, Link: "x", Xattrs: map[string]string{"user.note": "x"}}),
	} {
		dir := t.TempDir()
		_, err := Receive(t.Context(), bytes.NewReader(b), dir, ReceiveOptions{})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
}

func TestReceiveAsksFirst(t *testing.T) {
	needRoot(t)
	dir, no := t.TempDir(), errors.New("no")
	b := sent(t, scanned(t, oddFiles(t)))
	_, err := Receive(t.Context(), bytes.NewReader(b), dir, ReceiveOptions{Accept: func(*digest.Index) error { return no }})
	if left, _ := os.ReadDir(dir); !errors.Is(err, no) || len(left) > 0 {
		t.Errorf("error %v, left behind %v", err, left)
	}
}

// mend gives an index that was tampered with the checksum that lets it pass.
func mend(b []byte) []byte {
	const head, record, sum = 32, 40, 4 // as in cache/digest, encode.go
	if len(b) < head {
		return b
	}
	n, heap := uint64(binary.LittleEndian.Uint32(b[8:])), binary.LittleEndian.Uint64(b[16:])
	if n > 1<<20 || heap > 1<<20 || head+n*record+heap+sum > uint64(len(b)) {
		return b
	}
	b, end := slices.Clone(b), head+n*record+heap
	binary.LittleEndian.PutUint32(b[end:], crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// FuzzReceive looks for a stream that writes outside its directory, or makes
// files that are not as the index says.
func FuzzReceive(f *testing.F) {
	needRoot(f)
	root := digest.Entry{Mode: unix.S_IFDIR | 0o755}
	dir := digest.Entry{Path: "d", Mode: unix.S_IFDIR | 0o700, Opaque: true}
	file := digest.Entry{Path: "d/f", Mode: unix.S_IFREG | 0o644, Size: 3, Hash: sha256.Sum256([]byte("abc")), Xattrs: map[string]string{"user.a": "b"}}
	link := file
	link.Path, link.Hardlink = "d/g", "d/f"
	f.Add(hostile(f, "abc", root, dir, file, link, digest.Entry{Path: "a", Mode: unix.S_IFLNK, Link: ".."}))
	f.Add(hostile(f, "", root, digest.Entry{Path: "w", Mode: unix.S_IFCHR, Whiteout: true}, digest.Entry{Path: "p", Mode: unix.S_IFIFO}))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		x, err := Receive(t.Context(), bytes.NewReader(mend(b)), dir, ReceiveOptions{})
		if left, _ := os.ReadDir(outer); len(left) != 1 {
			t.Fatalf("written outside: %v", left)
		}
		if err != nil {
			return
		}
		if got := scanned(t, dir).Index; got.Content() != x.Content() {
			t.Errorf("files are %+v, the index says %+v", got.Entries(), x.Entries())
		}
	})
}

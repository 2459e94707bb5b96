package digest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func file(path, data string) Entry {
	return Entry{
		Path: path, Mode: unix.S_IFREG | 0o644, Size: int64(len(data)),
		Hash: sha256.Sum256([]byte(data)), ModTime: time.Unix(1700000000, 123456789),
	}
}

func dir(path string) Entry { return Entry{Path: path, Mode: unix.S_IFDIR | 0o755} }

func link(path, target string) Entry {
	return Entry{Path: path, Mode: unix.S_IFLNK | 0o777, Link: target}
}

func whiteout(path string) Entry { return Entry{Path: path, Whiteout: true} }

func opaque(path string) Entry {
	e := dir(path)
	e.Opaque = true
	return e
}

func index(t testing.TB, es ...Entry) *Index {
	t.Helper()
	var b Builder
	for _, e := range es {
		b.Add(e)
	}
	x, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// sample has one of everything.
func sample(t testing.TB) *Index {
	dev := Entry{Path: "dev/null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3}
	disk := Entry{Path: "dev/disk", Mode: unix.S_IFBLK | 0o660, UID: 0, GID: 6, Major: 8, Minor: 1}
	capable := file("bin/ping", "ping")
	capable.Mode |= unix.S_ISUID
	capable.Xattrs = map[string]string{"security.capability": "\x01\x00", "user.empty": ""}
	hard := capable
	hard.Path, hard.Hardlink = "bin/arping", "bin/ping"
	old := file("old", "before 1970")
	old.ModTime = time.Unix(-5, 999)
	return index(t,
		dir(""), dir("bin"), capable, hard, dir("dev"), dev, disk, old,
		link("sh", "bin/busybox"), opaque("var"), whiteout("var/log"), whiteout("etc"),
		Entry{Path: "fifo", Mode: unix.S_IFIFO | 0o600}, Entry{Path: "sock", Mode: unix.S_IFSOCK | 0o600},
		dir("a"), dir("a-b"), file("a-b/x", "1"), file("a/c", "2"), file("a.txt", ""), dir("a/b"), file("a/b/c", "3"), file("a/b-c", "4"),
	)
}

func TestIndexRoundTrip(t *testing.T) {
	x := sample(t)
	var b bytes.Buffer
	n, err := x.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo = %d, %v; wrote %d", n, err, b.Len())
	}
	b.WriteString("what follows stays unread")
	y, err := ReadIndex(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(x.Entries(), y.Entries()) {
		t.Errorf("read\n%v\nwant\n%v", y.Entries(), x.Entries())
	}
	if x.Content() != y.Content() || x.Size() != y.Size() || x.Len() != y.Len() {
		t.Error("content, size or length differ")
	}
	if b.String() != "what follows stays unread" {
		t.Errorf("left over %q", b.String())
	}
}

func TestIndexEntries(t *testing.T) {
	x := sample(t)
	for _, e := range x.Entries() {
		got, ok := x.Lookup(e.Path)
		if !ok || !reflect.DeepEqual(got, e) {
			t.Errorf("Lookup(%q) = %v, %v", e.Path, got, ok)
		}
	}
	for _, p := range []string{"nosuch", "a/", "/a", "a/b/d", "zzz", "bin/ping/x"} {
		if e, ok := x.Lookup(p); ok {
			t.Errorf("Lookup(%q) = %v", p, e)
		}
	}
	e, _ := x.Lookup("bin/ping")
	if e.Hardlink != "bin/arping" {
		t.Errorf("the second path of an inode names %q as its first", e.Hardlink)
	}
	if e, _ := x.Lookup("bin/arping"); e.Hardlink != "" {
		t.Errorf("the first path of an inode names %q", e.Hardlink)
	}
	if e, _ := x.Lookup("etc"); !e.Whiteout || e.UID != 0 || e.ModTime.Unix() != 0 {
		t.Errorf("whiteout %+v", e)
	}
	want := int64(len("ping") + len("before 1970") + 4)
	if x.Size() != want {
		t.Errorf("Size = %d, want %d: a hard link counts once", x.Size(), want)
	}
}

func TestIndexChildren(t *testing.T) {
	x := sample(t)
	for path, want := range map[string][]string{
		"":      {"a", "a-b", "a.txt", "bin", "dev", "etc", "fifo", "old", "sh", "sock", "var"},
		"a":     {"a/b", "a/b-c", "a/c"},
		"a/b":   {"a/b/c"},
		"a-b":   {"a-b/x"},
		"var":   {"var/log"},
		"a.txt": nil,
		"none":  nil,
	} {
		var got []string
		for _, e := range x.Children(path) {
			got = append(got, e.Path)
		}
		if !slices.Equal(got, want) {
			t.Errorf("Children(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	bad := file("x", "x")
	bad.Hardlink = "y"
	differs := file("b", "other")
	differs.Hardlink = "a"
	for name, es := range map[string][]Entry{
		"no parent":         {file("a/b", "")},
		"parent is a file":  {file("a", ""), file("a/b", "")},
		"parent whited out": {whiteout("a"), file("a/b", "")},
		"twice":             {file("a", ""), dir("a")},
		"absolute":          {file("/a", "")},
		"up":                {dir("a"), file("a/../b", "")},
		"dot":               {file("./a", "")},
		"slash at the end":  {dir("a/")},
		"NUL":               {file("a\x00b", "")},
		"no type":           {{Path: "a", Mode: 0o644}},
		"link to nothing":   {bad},
		"link to another":   {file("a", "a"), differs},
		"root is a file":    {file("", "")},
	} {
		var b Builder
		for _, e := range es {
			b.Add(e)
		}
		if x, err := b.Index(); err == nil {
			t.Errorf("%s: %v", name, x.Entries())
		}
	}
}

func TestEmptyIndexHasARoot(t *testing.T) {
	x := index(t)
	if es := x.Entries(); len(es) != 1 || !es[0].IsDir() || es[0].Mode&0o7777 != 0o755 {
		t.Errorf("entries %v", es)
	}
}

func TestReadIndexDamaged(t *testing.T) {
	var b bytes.Buffer
	if _, err := sample(t).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	good := b.Bytes()
	for n := range good {
		_, err := ReadIndex(bytes.NewReader(good[:n]))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("of %d bytes the first %d: %v", len(good), n, err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := ReadIndex(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d of %d changed: no error", i, len(good))
		}
	}
}

// seal puts a right checksum under damaged data, so that the structure is what
// has to be found wrong.
func seal(b []byte) []byte {
	if len(b) < headerSize+sumSize {
		return b
	}
	b = bytes.Clone(b)
	body := len(b) - sumSize
	sum := checksum(string(b[:body]))
	b[body], b[body+1], b[body+2], b[body+3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	return b
}

func FuzzReadIndex(f *testing.F) {
	for _, x := range []*Index{sample(f), index(f), index(f, file("a", "b"))} {
		var b bytes.Buffer
		if _, err := x.WriteTo(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		r := rand.New(rand.NewPCG(1, uint64(b.Len())))
		for range 64 {
			bad := bytes.Clone(b.Bytes())
			bad[headerSize+r.IntN(len(bad)-headerSize)] ^= byte(1 << r.IntN(8))
			f.Add(bad)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ReadIndex(bytes.NewReader(seal(b)))
		if err != nil {
			return
		}
		if _, err := NewView([]Layer{{Index: x}}).Content(t.Context(), Selection{Paths: []Select{{Path: "/"}}}); err != nil {
			t.Error(err)
		}
		var again Builder
		for _, e := range x.Entries() {
			if got, ok := x.Lookup(e.Path); !ok || got.Path != e.Path {
				t.Errorf("Lookup(%q) = %v, %v", e.Path, got, ok)
			}
			again.Add(e)
		}
		y, err := again.Index()
		if err != nil {
			t.Fatalf("an index that was read cannot be built: %v", err)
		}
		if len(y.Entries()) != x.Len() {
			t.Errorf("built %d entries of %d", y.Len(), x.Len())
		}
	})
}

func TestContentCounts(t *testing.T) {
	base := file("d/f", "data")
	base.UID, base.GID = 1, 2
	base.Xattrs = map[string]string{"user.a": "1"}
	key := func(e Entry) string { return index(t, dir("d"), e).Content().String() }
	seen := map[string]string{key(base): "base"}
	for name, change := range map[string]func(e *Entry){
		"path":        func(e *Entry) { e.Path = "d/g" },
		"mode":        func(e *Entry) { e.Mode ^= 1 },
		"setuid":      func(e *Entry) { e.Mode |= unix.S_ISUID },
		"uid":         func(e *Entry) { e.UID++ },
		"gid":         func(e *Entry) { e.GID++ },
		"bytes":       func(e *Entry) { e.Hash[0]++ },
		"xattr value": func(e *Entry) { e.Xattrs["user.a"] = "2" },
		"xattr name":  func(e *Entry) { e.Xattrs = map[string]string{"user.b": "1"} },
		"no xattr":    func(e *Entry) { e.Xattrs = nil },
		"fifo":        func(e *Entry) { e.Mode = unix.S_IFIFO | 0o644 },
		"link":        func(e *Entry) { e.Mode, e.Link = unix.S_IFLNK, "x" },
		"link target": func(e *Entry) { e.Mode, e.Link = unix.S_IFLNK, "y" },
		"device":      func(e *Entry) { e.Mode, e.Major = unix.S_IFCHR|0o644, 1 },
		"minor":       func(e *Entry) { e.Mode, e.Major, e.Minor = unix.S_IFCHR|0o644, 1, 1 },
		"block":       func(e *Entry) { e.Mode, e.Major = unix.S_IFBLK|0o644, 1 },
		"directory":   func(e *Entry) { e.Mode = unix.S_IFDIR | 0o644 },
		"opaque":      func(e *Entry) { e.Mode, e.Opaque = unix.S_IFDIR|0o644, true },
		"whiteout":    func(e *Entry) { e.Whiteout = true },
	} {
		e := base
		e.Xattrs = maps.Clone(base.Xattrs)
		change(&e)
		k := key(e)
		if other, ok := seen[k]; ok {
			t.Errorf("%s has the content of %s", name, other)
		}
		seen[k] = name
	}

	later := base
	later.ModTime = later.ModTime.Add(time.Hour)
	if key(later) != key(base) {
		t.Error("the time counts")
	}
	second := file("d/g", "data")
	second.UID, second.GID, second.Xattrs = 1, 2, base.Xattrs
	twice := index(t, dir("d"), base, second)
	second.Hardlink = "d/f"
	if linked := index(t, dir("d"), base, second); linked.Content() != twice.Content() {
		t.Error("which files are hard links counts")
	}
}

func TestKeepXattr(t *testing.T) {
	for name, want := range map[string]bool{
		"security.capability": true, "user.x": true, "system.posix_acl_access": true,
		"security.selinux": false, "security.ima": false, "trusted.overlay.opaque": false, "trusted.x": false,
		"user.overlay.opaque": false, "user.overlay.x": false, OwnerXattr: false, "user.a=b": false, "btrfs.compression": false,
	} {
		if KeepXattr(name) != want {
			t.Errorf("KeepXattr(%q) = %v", name, !want)
		}
	}
}

func TestParseOwner(t *testing.T) {
	if u, g, ok := ParseOwner(FormatOwner(7, 1<<32-2)); !ok || u != 7 || g != 1<<32-2 {
		t.Error(u, g, ok)
	}
	for _, s := range []string{"", "1", "1:", ":1", "1:2:3", "-1:2", "4294967295:0", "0:4294967296", " 1:2", "a:b"} {
		if _, _, ok := ParseOwner(s); ok {
			t.Errorf("ParseOwner(%q) is ok", s)
		}
	}
}

func TestIndexLongPathIsRefused(t *testing.T) {
	var b Builder
	b.Add(file(strings.Repeat("x", 70000), ""))
	if _, err := b.Index(); err == nil {
		t.Error("no error")
	}
}

package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// fixture is a Source and a client that gives out a directory as "context".
type fixture struct {
	src    *Source
	trees  *tree.Store
	client session.Client
	dir    string // the client's
	sent   atomic.Int64
	bytes  int64 // of content, sent for the last pin
}

// metered counts the content that a client reads to send it.
type metered struct {
	fsutil.FS
	sent *atomic.Int64
}

func (m metered) Open(name string) (io.ReadCloser, error) {
	f, err := m.FS.Open(name)
	return meteredFile{f, m.sent}, err
}

type meteredFile struct {
	io.ReadCloser
	sent *atomic.Int64
}

func (f meteredFile) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	f.sent.Add(int64(n))
	return n, err
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), trees: openTrees(t)}
	var err error
	if f.src, err = New(Config{Trees: f.trees, Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	out, err := fsutil.NewFS(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	files := filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": metered{out, &f.sent}})
	f.client = sessiontest.Client(t, files)
	if batched {
		f.client = sessiontest.Client(t, files, batches{files.(filesync.FileSyncServer)})
	}
	return f
}

// batched has all fixtures' clients offer our own protocol beside BuildKit's.
var batched = false

type batches struct{ files filesync.FileSyncServer }

func (b batches) Register(s *grpc.Server) { filesyncv1.Register(s, b.files) }

// TestBatched runs the tests of transfers with the other protocol.
func TestBatched(t *testing.T) {
	batched = true
	defer func() { batched = false }()
	for name, test := range map[string]func(*testing.T){
		"transfer": TestTransfer, "changes": TestChanges, "touch": TestTouch, "errors": TestErrors, "cancel": TestCancel,
		"patterns": TestPatterns, "metadata": TestMetadataOnly,
	} {
		t.Run(name, test)
	}
}

func (f *fixture) pin(t testing.TB, attrs ...string) source.Pin {
	t.Helper()
	p, err := f.tryPin(t, attrs...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (f *fixture) tryPin(t testing.TB, attrs ...string) (source.Pin, error) {
	t.Helper()
	r := source.Request{Identifier: "local://context", Attrs: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		r.Attrs[attrs[i]] = attrs[i+1]
	}
	before := f.sent.Load()
	p, err := f.src.Pin(t.Context(), f.client, r)
	f.bytes = f.sent.Load() - before
	return p, err
}

func (f *fixture) write(t testing.TB, name, content string) {
	t.Helper()
	path := filepath.Join(f.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// files lists a tree: path to mode and content.
func (f *fixture) files(t testing.TB, tr cache.Tree) map[string]string {
	t.Helper()
	v, err := f.trees.Files(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	err = v.Walk("/", func(p string, e digest.Entry) error {
		if p == "/" || p == "" {
			return nil
		}
		host, err := v.HostPath(p)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(host, &st); err != nil {
			return err
		}
		if st.Mode != e.Mode || st.Uid != e.UID || st.Gid != e.GID {
			return fmt.Errorf("%s: index says %o %d:%d, disk says %o %d:%d", p, e.Mode, e.UID, e.GID, st.Mode, st.Uid, st.Gid)
		}
		if !e.IsDir() && st.Mtim.Nano() != e.ModTime.UnixNano() {
			return fmt.Errorf("%s: index says %s, disk says %s", p, e.ModTime, time.Unix(0, st.Mtim.Nano()))
		}
		what := fmt.Sprintf("%o ", e.Mode)
		switch {
		case e.IsRegular():
			b, err := os.ReadFile(host)
			if err != nil {
				return err
			}
			if sha256.Sum256(b) != e.Hash || int64(len(b)) != e.Size {
				return fmt.Errorf("%s: content is not what the index says", p)
			}
			what += string(b)
		case e.IsSymlink():
			to, err := os.Readlink(host)
			if err != nil || to != e.Link {
				return fmt.Errorf("%s: %q, %v", p, to, err)
			}
			what += to
		}
		out[strings.TrimPrefix(p, "/")] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTransfer(t *testing.T) {
	f := newFixture(t)
	f.write(t, "a", "one")
	f.write(t, "dir/b", "two")
	f.write(t, "dir/empty", "")
	f.write(t, "dir-x", "sorts between")
	f.write(t, "big", strings.Repeat("0123456789abcdef", 1<<16))
	must(t, os.Symlink("../a", filepath.Join(f.dir, "dir/link")))
	must(t, os.Link(filepath.Join(f.dir, "a"), filepath.Join(f.dir, "dir/hard")))
	must(t, unix.Chmod(filepath.Join(f.dir, "a"), 0o4711))
	must(t, os.Chown(filepath.Join(f.dir, "dir/b"), 12, 34))
	must(t, unix.Mkfifo(filepath.Join(f.dir, "pipe"), 0o600))
	must(t, unix.Setxattr(filepath.Join(f.dir, "big"), "user.test", []byte("x"), 0))
	must(t, unix.Setxattr(filepath.Join(f.dir, "dir"), "trusted.overlay.opaque", []byte("y"), 0))
	must(t, unix.Chmod(filepath.Join(f.dir, "dir"), 0o1750))

	p := f.pin(t)
	want := map[string]string{
		"a": "104711 one", "dir": "41750 ", "dir/b": "100644 two", "dir/empty": "100644 ", "dir-x": "100644 sorts between",
		"big": "100644 " + strings.Repeat("0123456789abcdef", 1<<16), "dir/link": "120777 ../a", "dir/hard": "104711 one", "pipe": "10600 ",
	}
	equal(t, f.files(t, p.Tree), want)

	v, err := f.trees.Files(t.Context(), p.Tree)
	must(t, err)
	host, err := v.HostPath("/dir")
	must(t, err)
	if _, err := unix.Lgetxattr(host, "trusted.overlay.opaque", nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("an overlay attribute of the client came through: %v", err)
	}
	if e, err := v.Lstat("/big"); err != nil || e.Xattrs["user.test"] != "x" {
		t.Errorf("attribute lost: %v, %v", e.Xattrs, err)
	}
	var a, hard unix.Stat_t
	must(t, errors.Join(unix.Lstat(filepath.Join(host, "../a"), &a), unix.Lstat(filepath.Join(host, "hard"), &hard)))
	if a.Ino != hard.Ino {
		t.Error("hard link became a copy")
	}

	again := f.pin(t)
	if again.Tree != p.Tree || again.Key != p.Key {
		t.Errorf("nothing changed, but %v became %v", p, again)
	}
	if f.bytes > 4000 {
		t.Errorf("nothing changed, but %d bytes came", f.bytes)
	}
	if tr, err := f.src.Fetch(t.Context(), f.client, p, nil); err != nil || tr != p.Tree {
		t.Errorf("fetch: %v, %v", tr, err)
	}
}

func TestChanges(t *testing.T) {
	f := newFixture(t)
	f.write(t, "keep", strings.Repeat("k", 100000))
	f.write(t, "change", "old")
	f.write(t, "gone/file", "x")
	f.write(t, "swap/file", "x")
	first := f.pin(t)
	before := f.files(t, first.Tree)

	f.write(t, "change", "new content")
	must(t, os.RemoveAll(filepath.Join(f.dir, "gone")))
	must(t, os.RemoveAll(filepath.Join(f.dir, "swap")))
	must(t, os.Symlink("keep", filepath.Join(f.dir, "swap")))
	f.write(t, "add", "added")
	second := f.pin(t)
	if first.Key == second.Key || first.Tree == second.Tree {
		t.Fatal("changes did not count")
	}
	if f.bytes > 5000 {
		t.Errorf("%d bytes came although only small files changed", f.bytes)
	}
	equal(t, f.files(t, second.Tree), map[string]string{
		"keep": before["keep"], "change": "100644 new content", "add": "100644 added", "swap": "120777 keep",
	})
	equal(t, f.files(t, first.Tree), before)

	must(t, os.Chmod(filepath.Join(f.dir, "keep"), 0o600))
	third := f.pin(t)
	if third.Key == second.Key {
		t.Error("a mode did not count")
	}
	if got := f.files(t, second.Tree)["keep"]; got != before["keep"] {
		t.Error("an earlier tree changed")
	}
}

// A touched file is sent again, but is the same content, and next time the
// client's new time is known.
func TestTouch(t *testing.T) {
	f := newFixture(t)
	f.write(t, "a", strings.Repeat("a", 50000))
	f.write(t, "b", "b")
	first := f.pin(t)
	later := time.Now().Add(time.Hour)
	must(t, os.Chtimes(filepath.Join(f.dir, "a"), later, later))
	second := f.pin(t)
	if first.Key != second.Key || first.Tree != second.Tree {
		t.Error("a time counted")
	}
	if f.bytes < 50000 {
		t.Errorf("only %d bytes came, so the content was not looked at", f.bytes)
	}
	f.pin(t)
	if f.bytes > 2000 {
		t.Errorf("%d bytes came for nothing", f.bytes)
	}
	f.write(t, "b", "changed")
	third := f.pin(t)
	if f.bytes > 2000 {
		t.Errorf("%d bytes came for one small file", f.bytes)
	}
	f.files(t, third.Tree) // compares the times
}

func TestPatterns(t *testing.T) {
	f := newFixture(t)
	for _, n := range []string{"Dockerfile", "src/a.go", "src/ü.go", "node_modules/x/y"} {
		f.write(t, n, n)
	}
	all := f.pin(t, pb.AttrExcludePatterns, `["node_modules"]`)
	equal(t, f.files(t, all.Tree), map[string]string{
		"Dockerfile": "100644 Dockerfile", "src": "40755 ", "src/a.go": "100644 src/a.go", "src/ü.go": "100644 src/ü.go",
	})
	one := f.pin(t, pb.AttrIncludePatterns, `["src/ü.go"]`)
	equal(t, f.files(t, one.Tree), map[string]string{"src": "40755 ", "src/ü.go": "100644 src/ü.go"})
	if f.bytes > 400 {
		t.Errorf("%d bytes came, although another part of the directory had the file", f.bytes)
	}
	follow := f.pin(t, pb.AttrFollowPaths, `["Dockerfile"]`, pb.AttrLocalDiffer, pb.AttrLocalDifferNone)
	equal(t, f.files(t, follow.Tree), map[string]string{"Dockerfile": "100644 Dockerfile"})
}

func TestMetadataOnly(t *testing.T) {
	f := newFixture(t)
	f.write(t, "a/b/keep.txt", "keep")
	f.write(t, "a/other", "other")
	f.write(t, "z", "z")
	p := f.pin(t, pb.AttrMetadataTransfer, "true", pb.AttrMetadataTransferExclude, `["**/*.txt"]`)
	got := f.files(t, p.Tree)
	meta := got[metadataName]
	delete(got, metadataName)
	equal(t, got, map[string]string{"a": "40755 ", "a/b": "40755 ", "a/b/keep.txt": "100644 keep"})
	for _, n := range []string{"a/other", "a/b/keep.txt", "z"} {
		if !strings.Contains(meta, n) {
			t.Errorf("the list lacks %s", n)
		}
	}
}

func TestEvictedTree(t *testing.T) {
	f := newFixture(t)
	f.write(t, "a", "one")
	p := f.pin(t)
	gone := p
	gone.Tree = "no such tree"
	tr, err := f.src.Fetch(t.Context(), f.client, gone, nil)
	must(t, err)
	equal(t, f.files(t, tr), map[string]string{"a": "100644 one"})

	f.write(t, "a", "two!")
	if _, err := f.src.Fetch(t.Context(), f.client, gone, nil); err == nil || !strings.Contains(err.Error(), "changed while the build ran") {
		t.Errorf("other files went through as the same: %v", err)
	}
	kept := f.src.Usage()
	if len(kept) != 1 || kept[0].Name != "context" || kept[0].Size == 0 {
		t.Fatalf("usage: %+v", kept)
	}
	must(t, f.src.Evict(kept[0].ID))
	if u := f.src.Usage(); len(u) != 0 {
		t.Errorf("evicted: %+v", u)
	}
	f.pin(t)
}

// What is on disk survives a restart, and what is damaged does not matter.
func TestReopen(t *testing.T) {
	f := newFixture(t)
	f.write(t, "a", strings.Repeat("a", 10000))
	p := f.pin(t)
	dir := f.src.c.Dir
	var err error
	f.src, err = New(f.src.c)
	must(t, err)
	if q := f.pin(t); q.Tree != p.Tree || f.bytes > 1000 {
		t.Errorf("forgot everything: %v, %d bytes", q, f.bytes)
	}
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range files {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		b[len(b)-10] ^= 1
		must(t, os.WriteFile(filepath.Join(dir, e.Name()), b, 0o600))
	}
	f.src, err = New(f.src.c)
	must(t, err)
	if q := f.pin(t); q.Key != p.Key || f.bytes < 10000 {
		t.Errorf("believed a damaged list: %v, %d bytes", q, f.bytes)
	}
}

// BenchmarkContext is a context of 20,000 files with 234 MB: whole, unchanged,
// and with one file changed.
func BenchmarkContext(b *testing.B) {
	f := newFixture(b)
	content := strings.Repeat("0123456789abcdef", 11700/16)
	for i := range 20000 {
		f.write(b, fmt.Sprintf("d%d/e%d/f%d", i%10, i%200, i), content)
	}
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			f.pin(b, pb.AttrLocalDiffer, pb.AttrLocalDifferNone)
		}
	})
	f.pin(b)
	b.Run("same", func(b *testing.B) {
		for b.Loop() {
			f.pin(b)
		}
	})
	n := 0
	b.Run("one changed", func(b *testing.B) {
		for b.Loop() {
			n++
			f.write(b, "d0/e0/f0", fmt.Sprint("changed ", n))
			f.pin(b)
		}
	})
}

func TestErrors(t *testing.T) {
	f := newFixture(t)
	_, err := f.src.Pin(t.Context(), f.client, source.Request{Identifier: "local://other"})
	if !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), `--local other=DIR`) {
		t.Errorf("a directory that is not given out: %v", err)
	}
	_, err = f.src.Pin(t.Context(), sessiontest.Client(t), source.Request{Identifier: "local://other"})
	if !errors.Is(err, session.ErrNotFound) {
		t.Errorf("a client without directories: %v", err)
	}
	_, err = f.src.Pin(t.Context(), nil, source.Request{Identifier: "local://other"})
	if !errors.Is(err, session.ErrNoSession) {
		t.Errorf("no client: %v", err)
	}
	must(t, unix.Mknod(filepath.Join(f.dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	if _, err := f.tryPin(t); err == nil || !strings.Contains(err.Error(), `"null" is a device`) {
		t.Errorf("device: %v", err)
	}
	leftNothing(t, f)
}

func TestCancel(t *testing.T) {
	f := newFixture(t)
	for i := range 200 {
		f.write(t, fmt.Sprint("f", i), strings.Repeat("x", 100000))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, err := f.src.Pin(ctx, f.client, source.Request{Identifier: "local://context", Progress: func(s solver.Status) {
		if s.Current > 0 {
			cancel(enough)
		}
	}})
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	leftNothing(t, f)
}

// leftNothing fails if a draft is left.
func leftNothing(t *testing.T, f *fixture) {
	t.Helper()
	_ = filepath.WalkDir(treesDir(f.trees), func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(p, ".buildd-") {
			t.Errorf("left behind: %s", p)
		}
		return nil
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[V comparable](t *testing.T, got, want map[string]V) {
	t.Helper()
	for k, w := range want {
		if g, ok := got[k]; !ok || g != w {
			t.Errorf("%s: got %.100q, want %.100q", k, fmt.Sprint(g), fmt.Sprint(w))
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s: got %.100q, want nothing", k, fmt.Sprint(g))
		}
	}
}

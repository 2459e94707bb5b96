package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func describe(b []byte) ocispecs.Descriptor {
	return ocispecs.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// files lists what is in the store's directory beside empty directories.
func files(t *testing.T, s *Store) (out []string) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(p, s.dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestIngest(t *testing.T) {
	s := open(t, t.TempDir())
	for _, n := range []int{0, 1, 5 << 20} {
		b := random(n)
		d := describe(b)
		if s.Has(t.Context(), d.Digest) {
			t.Fatal("Has before Ingest")
		}
		if err := s.Ingest(t.Context(), d, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		if !s.Has(t.Context(), d.Digest) {
			t.Fatal("not there after Ingest")
		}
		got, err := content.ReadBlob(t.Context(), s, d)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("read back %d bytes, %v", len(got), err)
		}
		// A second time nothing is read.
		if err := s.Ingest(t.Context(), d, iotest.ErrReader(errors.New("read"))); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, s); len(got) != 3 {
		t.Errorf("files: %v", got)
	}
}

func TestIngestBelievesNothing(t *testing.T) {
	b := random(100000)
	good := describe(b)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		ctx  context.Context
		desc ocispecs.Descriptor
		r    io.Reader
		want error
	}{
		"digest":   {desc: ocispecs.Descriptor{Digest: digest.FromString("other"), Size: good.Size}, r: bytes.NewReader(b)},
		"no size":  {desc: ocispecs.Descriptor{Digest: digest.FromString("other"), Size: -1}, r: bytes.NewReader(b)},
		"long":     {desc: ocispecs.Descriptor{Digest: good.Digest, Size: good.Size - 1}, r: bytes.NewReader(b)},
		"short":    {desc: good, r: bytes.NewReader(b[:5000]), want: io.ErrUnexpectedEOF},
		"sizeless": {desc: ocispecs.Descriptor{Digest: good.Digest}, r: bytes.NewReader(b)},
		"reader":   {desc: good, r: io.MultiReader(bytes.NewReader(b[:5000]), iotest.ErrReader(boom)), want: boom},
		"canceled": {ctx: canceled, desc: good, r: bytes.NewReader(b), want: context.Canceled},
		"path":     {desc: ocispecs.Descriptor{Digest: "sha256:../../../x", Size: 3}, r: strings.NewReader("abc")},
		"empty":    {desc: ocispecs.Descriptor{Size: 3}, r: strings.NewReader("abc")},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			err := s.Ingest(c.ctx, c.desc, c.r)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("err = %v, want %v", err, c.want)
			}
			if got := files(t, s); len(got) != 0 {
				t.Errorf("left behind: %v", got)
			}
			if entries, _ := os.ReadDir(filepath.Join(s.dir, "ingest")); len(entries) != 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestConcurrentIngest(t *testing.T) {
	s := open(t, t.TempDir())
	b := random(3 << 20)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.Ingest(t.Context(), describe(b), bytes.NewReader(b)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := files(t, s); len(got) != 1 {
		t.Errorf("files: %v", got)
	}
}

func TestCreate(t *testing.T) {
	s := open(t, t.TempDir())
	b := random(1000)
	for range 2 { // the second time it is there
		d, err := s.Create(t.Context(), func(w io.Writer) error {
			_, err := w.Write(b)
			return err
		})
		if want := describe(b); err != nil || d.Digest != want.Digest || d.Size != want.Size {
			t.Fatalf("Create = %v, %v; want %v", d, err, want)
		}
	}
	boom := errors.New("boom")
	if _, err := s.Create(t.Context(), func(w io.Writer) error { w.Write(b[:10]); return boom }); !errors.Is(err, boom) {
		t.Errorf("err = %v", err)
	}
	if got := files(t, s); len(got) != 1 {
		t.Errorf("files: %v", got)
	}
}

func TestOpenRemovesUnfinished(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w, err := s.Writer(t.Context(), content.WithRef("crash"))
	if err != nil {
		t.Fatal(err)
	}
	w.Write(random(1000))
	w.Close()
	if len(files(t, s)) == 0 {
		t.Fatal("nothing to remove")
	}
	b := random(10)
	if err := s.Ingest(t.Context(), describe(b), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if got := files(t, s); len(got) != 1 || !s.Has(t.Context(), describe(b).Digest) {
		t.Errorf("files: %v", got)
	}
}

func TestSweep(t *testing.T) {
	s := open(t, t.TempDir())
	var ds []digest.Digest
	for i := range 6 {
		b := random(1000 + i)
		if err := s.Ingest(t.Context(), describe(b), bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		ds = append(ds, describe(b).Digest)
	}
	none := func(digest.Digest) bool { return false }
	if n, err := s.Sweep(t.Context(), time.Hour, none); err != nil || n.Blobs != 0 {
		t.Fatalf("swept %v, %v of what is fresh", n, err)
	}
	old := time.Now().Add(-2 * time.Hour)
	for _, d := range ds {
		if err := os.Chtimes(filepath.Join(s.dir, "blobs", "sha256", d.Encoded()), old, old); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, s.dir)
	release := s.Hold(ds[1], ds[4])
	s.Hold(ds[4])
	if !s.Has(t.Context(), ds[2]) {
		t.Fatal("lost")
	}
	r, err := s.ReaderAt(t.Context(), ocispecs.Descriptor{Digest: ds[3]})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	left := func() (out []int) {
		err := s.Walk(t.Context(), func(i content.Info) error {
			out = append(out, slices.Index(ds, i.Digest))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(out)
		return out
	}
	n, err := s.Sweep(t.Context(), time.Hour, func(d digest.Digest) bool { return d == ds[0] })
	if err != nil || n.Blobs != 1 || n.Bytes != 1005 {
		t.Fatalf("swept %v, %v", n, err)
	}
	if got, want := left(), []int{0, 1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Fatalf("left %v, want %v", got, want)
	}
	release()
	release()
	if _, err := s.Sweep(t.Context(), 0, none); err != nil {
		t.Fatal(err)
	}
	if got, want := left(), []int{4}; !slices.Equal(got, want) {
		t.Fatalf("left %v, want %v", got, want)
	}
	if _, err := r.ReadAt(make([]byte, 10), 0); err != nil {
		t.Errorf("read a swept blob through an open reader: %v", err)
	}
}

// Whoever asked for a blob and found it can rely on it, whenever Sweep runs.
func TestSweepRace(t *testing.T) {
	s := open(t, t.TempDir())
	b := random(100)
	d := describe(b)
	const spare = 20 * time.Millisecond
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			old := time.Now().Add(-2 * time.Hour)
			_ = os.Chtimes(filepath.Join(s.dir, "blobs", "sha256", d.Digest.Encoded()), old, old)
			if _, err := s.Sweep(context.Background(), spare, func(digest.Digest) bool { return false }); err != nil {
				t.Error(err)
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for range 300 {
		begin := time.Now()
		if err := s.Ingest(t.Context(), d, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		r, err := s.Store.ReaderAt(t.Context(), d)
		if err == nil {
			r.Close()
		} else if time.Since(begin) < spare {
			t.Fatal(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("needs root: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir)
	b := random(4 << 20)
	err := s.Ingest(t.Context(), describe(b), bytes.NewReader(b))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("err = %v", err)
	}
	if got := files(t, s); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	small := b[:1000]
	if err := s.Ingest(t.Context(), describe(small), bytes.NewReader(small)); err != nil {
		t.Errorf("after the full disk: %v", err)
	}
}

package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocidigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
)

// registry is a Provider that holds its blobs in memory.
type registry struct {
	blobs map[ocidigest.Digest][]byte
	opens atomic.Int32
	// gate, if set, is called before a blob is opened.
	gate func(ctx context.Context, desc ocispecs.Descriptor) error
}

func (r *registry) ReaderAt(ctx context.Context, desc ocispecs.Descriptor, sources []string) (content.ReaderAt, error) {
	r.opens.Add(1)
	if r.gate != nil {
		if err := r.gate(ctx, desc); err != nil {
			return nil, err
		}
	}
	b, ok := r.blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("registry has no %s (of %v)", desc.Digest, sources)
	}
	return memory{bytes.NewReader(b)}, nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// add packs a tar of the given entries, "name" for directories, "name=content"
// for files, "name->target" for hard links, and returns it as an image's layer.
func (r *registry) add(t *testing.T, typ layer.Type, entries ...string) ImageLayer {
	t.Helper()
	var tarball bytes.Buffer
	tw := tar.NewWriter(&tarball)
	for _, e := range entries {
		h := &tar.Header{Name: e, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1000, 0)}
		body := ""
		if name, to, ok := strings.Cut(e, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = name, to, tar.TypeLink
		} else if name, text, ok := strings.Cut(e, "="); ok {
			h.Name, h.Typeflag, h.Mode, h.Size, body = name, tar.TypeReg, 0o644, int64(len(text)), text
		}
		must(t, tw.WriteHeader(h))
		_, err := io.WriteString(tw, body)
		must(t, err)
	}
	must(t, tw.Close())
	var blob bytes.Buffer
	c := layer.Compression{Type: typ, Level: layer.DefaultLevel}
	zw, err := layer.NewWriter(&blob, c)
	must(t, err)
	_, err = zw.Write(tarball.Bytes())
	must(t, err)
	must(t, zw.Close())
	if r.blobs == nil {
		r.blobs = map[ocidigest.Digest][]byte{}
	}
	d := ocidigest.FromBytes(blob.Bytes())
	r.blobs[d] = blob.Bytes()
	return ImageLayer{
		DiffID: ocidigest.FromBytes(tarball.Bytes()), Source: "docker.io/library/test:latest",
		Desc: ocispecs.Descriptor{MediaType: c.MediaType(true), Digest: d, Size: int64(blob.Len())},
	}
}

func addImage(t *testing.T, s *Store, chain ...ImageLayer) cache.Tree {
	t.Helper()
	tree, err := s.AddImage(t.Context(), chain)
	must(t, err)
	return tree
}

func TestImage(t *testing.T) {
	s := newStore(t)
	r := &registry{}
	chain := []ImageLayer{
		r.add(t, layer.Gzip, "bin", "bin/sh=shell", "etc", "etc/a=1", "etc/b=2"),
		r.add(t, layer.Zstd, "etc/.wh.a=", "usr/lib/x=y", "bin/bash->bin/sh"),
		r.add(t, layer.Uncompressed, "etc/c=3"),
	}
	tree := addImage(t, s, chain...)
	if again := addImage(t, s, chain...); again != tree {
		t.Error("one image, two trees")
	}
	base := addImage(t, s, chain[:1]...)
	if layers(t, s, base)[0].ID != layers(t, s, tree)[0].ID {
		t.Error("images with equal bases do not share them")
	}
	before, err := s.Content(t.Context(), tree, cache.Root)
	must(t, err)
	for _, l := range layers(t, s, tree) {
		if l.Ready || l.Size != 0 || l.Desc == nil || l.Sources[0] != "docker.io/library/test:latest" {
			t.Errorf("layer before Ensure: %+v", l)
		}
	}
	if _, err := s.Files(t.Context(), tree); !errors.Is(err, ErrNotReady) {
		t.Errorf("Files before Ensure: %v", err)
	}
	if _, err := s.Fork(t.Context(), tree); !errors.Is(err, ErrNotReady) {
		t.Errorf("Fork before Ensure: %v", err)
	}
	var mu sync.Mutex
	unpacked := map[ocidigest.Digest]int{}
	err = s.Ensure(t.Context(), tree, r, func(d ocispecs.Descriptor, done, total int64, u bool) {
		mu.Lock()
		defer mu.Unlock()
		if done > total || total != d.Size {
			t.Errorf("progress %d of %d, size %d", done, total, d.Size)
		}
		if u {
			unpacked[d.Digest]++
		}
	})
	must(t, err)
	expect(t, mounted(t, s, tree), "bin", "bin/bash=shell", "bin/sh=shell", "etc", "etc/b=2", "etc/c=3", "usr", "usr/lib", "usr/lib/x=y")
	if len(unpacked) != 3 || r.opens.Load() != 3 {
		t.Errorf("unpacked %v, %d blobs opened", unpacked, r.opens.Load())
	}
	if after, _ := s.Content(t.Context(), tree, cache.Root); after != before {
		t.Error("content changes with the files' arrival")
	}
	for i, l := range layers(t, s, tree) {
		if !l.Ready || l.Size == 0 || l.DiffID != chain[i].DiffID {
			t.Errorf("layer after Ensure: %+v", l)
		}
	}
	must(t, s.Ensure(t.Context(), tree, nil, nil)) // nothing is missing
	// Written over like any tree.
	over := step(t, s, tree, func(dir string) { write(t, dir+"/etc/c", "4") })
	expect(t, mounted(t, s, over), "bin", "bin/bash=shell", "bin/sh=shell", "etc", "etc/b=2", "etc/c=4", "usr", "usr/lib", "usr/lib/x=y")
	empty(t, s, draftsDir, mountsDir, trashDir)
}

func TestEnsureSharesWork(t *testing.T) {
	s := newStore(t)
	r := &registry{}
	l := r.add(t, layer.Gzip, "a=1")
	tree := addImage(t, s, l)
	gate := make(chan struct{})
	r.gate = func(ctx context.Context, _ ocispecs.Descriptor) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var wg sync.WaitGroup
	var last atomic.Int32
	for range 5 {
		wg.Go(func() {
			err := s.Ensure(t.Context(), tree, r, func(_ ocispecs.Descriptor, _, _ int64, u bool) {
				if u {
					last.Add(1)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	gone, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- s.Ensure(gone, tree, r, nil) }()
	for r.opens.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(gate)
	wg.Wait()
	if r.opens.Load() != 1 || last.Load() != 5 {
		t.Errorf("opened %d times, %d were told", r.opens.Load(), last.Load())
	}
}

func TestEnsureCancelled(t *testing.T) {
	s := newStore(t)
	r := &registry{}
	tree := addImage(t, s, r.add(t, layer.Gzip, "a=1"), r.add(t, layer.Gzip, "b=1"))
	stopped := make(chan struct{}, 2)
	r.gate = func(ctx context.Context, _ ocispecs.Descriptor) error {
		<-ctx.Done()
		stopped <- struct{}{}
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Ensure(ctx, tree, r, nil) }()
	for r.opens.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Ensure: %v", err)
	}
	<-stopped
	<-stopped
	r.gate = nil
	must(t, s.Ensure(t.Context(), tree, r, nil))
	expect(t, mounted(t, s, tree), "a=1", "b=1")
}

// Another build's access is used where the first one's does not do.
func TestEnsureTriesAllProviders(t *testing.T) {
	s := newStore(t)
	good, denied := &registry{}, &registry{}
	tree := addImage(t, s, good.add(t, layer.Gzip, "a=1"))
	gate := make(chan struct{})
	denied.gate = func(context.Context, ocispecs.Descriptor) error { <-gate; return errors.New("denied") }
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Ensure(t.Context(), tree, denied, nil); err != nil {
			t.Error(err)
		}
	})
	for denied.opens.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	wg.Go(func() {
		if err := s.Ensure(t.Context(), tree, good, nil); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * time.Millisecond)
	close(gate)
	wg.Wait()
}

func TestEnsureVerifies(t *testing.T) {
	r := &registry{}
	good := r.add(t, layer.Gzip, "a=1")
	other := r.add(t, layer.Gzip, "a=2")
	bad := r.add(t, layer.Gzip, "../../../../etc/evil=1", "x->/etc/nothing")
	for name, l := range map[string]func() ImageLayer{
		"diff ID": func() ImageLayer { l := good; l.DiffID = other.DiffID; return l },
		"digest": func() ImageLayer {
			l := good
			l.Desc.Digest = ocidigest.FromString("x")
			r.blobs[l.Desc.Digest] = r.blobs[good.Desc.Digest]
			return l
		},
		"size":    func() ImageLayer { l := good; l.Desc.Size--; return l },
		"missing": func() ImageLayer { l := good; l.Desc.Digest = ocidigest.FromString("y"); return l },
		"type":    func() ImageLayer { l := good; l.Desc.MediaType = "text/plain"; return l },
		"tar":     func() ImageLayer { return bad },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			tree := addImage(t, s, l())
			err := s.Ensure(t.Context(), tree, r, nil)
			if err == nil {
				t.Fatal("no error")
			}
			if top(t, s, tree).Ready {
				t.Error("ready all the same")
			}
			empty(t, s, draftsDir, trashDir, layersDir)
			if _, err := os.Stat("/etc/evil"); err == nil {
				t.Fatal("wrote outside")
			}
		})
	}
	s := newStore(t)
	for _, l := range []ImageLayer{
		{DiffID: "sha256:../../x", Desc: good.Desc}, {DiffID: good.DiffID},
		{DiffID: ocidigest.SHA512.FromString("x"), Desc: good.Desc},
		{DiffID: good.DiffID, Desc: ocispecs.Descriptor{Digest: "sha256:/etc/passwd"}},
	} {
		if _, err := s.AddImage(t.Context(), []ImageLayer{l}); err == nil {
			t.Errorf("AddImage takes %+v", l)
		}
	}
}

// A blob that rotted on disk is fetched again.
func TestEnsureRefetchesDamaged(t *testing.T) {
	c := config(t)
	s := open(t, c)
	r := &registry{}
	l := r.add(t, layer.Gzip, "a="+strings.Repeat("text ", 1000))
	must(t, c.Blobs.Ingest(t.Context(), l.Desc, bytes.NewReader(r.blobs[l.Desc.Digest])))
	path := filepath.Join(filepath.Dir(c.Dir), "blobs", "blobs", "sha256", l.Desc.Digest.Encoded())
	b, err := os.ReadFile(path)
	must(t, err)
	b[len(b)/2] ^= 0xff
	must(t, os.Chmod(path, 0o600))
	must(t, os.WriteFile(path, b, 0o600))
	tree := addImage(t, s, l)
	must(t, s.Ensure(t.Context(), tree, r, nil))
	if r.opens.Load() != 1 {
		t.Errorf("fetched %d times", r.opens.Load())
	}
}

// The part of an image above another one still needs what it was made over.
func TestEnsureSuffix(t *testing.T) {
	s := newStore(t)
	r := &registry{}
	low := r.add(t, layer.Gzip, "bin", "bin/sh=shell")
	high := r.add(t, layer.Gzip, "bin/bash->bin/sh")
	diff, err := s.Diff(t.Context(), addImage(t, s, low), addImage(t, s, low, high))
	must(t, err)
	if n := len(layers(t, s, diff)); n != 1 {
		t.Fatalf("%d layers", n)
	}
	must(t, s.Ensure(t.Context(), diff, r, nil))
	expect(t, mounted(t, s, diff), "bin", "bin/bash=shell", "bin/sh=shell")
}

// Layers are unpacked side by side, on fewer slots than there are layers, and
// whatever order their blobs arrive in.
func TestEnsureOrder(t *testing.T) {
	c := config(t)
	c.Unpacks = 1
	s := open(t, c)
	r := &registry{}
	var chain []ImageLayer
	for i := range 6 {
		entries := []string{fmt.Sprintf("dir/f%d=%d", i, i)} // no entry for dir
		if i == 0 {
			entries = []string{"dir", "dir/f0=0", "dir/gone=1"}
		}
		if i == 3 {
			entries = append(entries, "dir/.wh.gone=", "dir/hard->dir/f1")
		}
		chain = append(chain, r.add(t, layer.Gzip, entries...))
	}
	// The upper a layer, the sooner it is here.
	var mu sync.Mutex
	here := map[ocidigest.Digest]chan struct{}{}
	for _, l := range chain {
		here[l.Desc.Digest] = make(chan struct{})
	}
	r.gate = func(_ context.Context, desc ocispecs.Descriptor) error {
		for i, l := range chain[:len(chain)-1] {
			if l.Desc.Digest == desc.Digest {
				<-here[chain[i+1].Desc.Digest]
			}
		}
		mu.Lock()
		defer mu.Unlock()
		close(here[desc.Digest])
		return nil
	}
	tree := addImage(t, s, chain...)
	must(t, s.Ensure(t.Context(), tree, r, nil))
	expect(t, mounted(t, s, tree), "dir", "dir/f0=0", "dir/f1=1", "dir/f2=2", "dir/f3=3", "dir/f4=4", "dir/f5=5", "dir/hard=1")
	if len(s.slots) != 0 {
		t.Errorf("%d slots are taken", len(s.slots))
	}
}

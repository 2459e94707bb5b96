package tree

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocidigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/layer"
)

func TestBlob(t *testing.T) {
	c := config(t)
	s := open(t, c)
	tree := step(t, s, "", func(dir string) {
		for i := range 50 {
			write(t, fmt.Sprintf("%s/d/f%d", dir, i), strings.Repeat(fmt.Sprint(i), 5000))
		}
	})
	id := top(t, s, tree).ID
	var diffID ocidigest.Digest
	sizes := map[layer.Type]int64{}
	for _, typ := range []layer.Type{layer.Gzip, layer.Zstd, layer.Uncompressed} {
		for _, oci := range []bool{true, false} {
			o := BlobOptions{Compression: layer.Compression{Type: typ, Level: layer.DefaultLevel}, OCI: oci}
			desc, diff, err := s.Blob(t.Context(), id, o, nil)
			must(t, err)
			if diffID == "" {
				diffID = diff
			}
			if diff != diffID || desc.MediaType != o.Compression.MediaType(oci) {
				t.Errorf("%s: %+v, diff ID %s", typ, desc, diff)
			}
			b, err := content.ReadBlob(t.Context(), c.Blobs, desc)
			must(t, err)
			if ocidigest.FromBytes(b) != desc.Digest || int64(len(b)) != desc.Size {
				t.Errorf("%s: the blob is not what its descriptor says", typ)
			}
			zr, err := layer.NewReader(bytes.NewReader(b), desc.MediaType)
			must(t, err)
			d, err := ocidigest.FromReader(zr)
			must(t, err)
			zr.Close()
			if d != diff {
				t.Errorf("%s: unpacks to %s, not %s", typ, d, diff)
			}
			sizes[typ] = desc.Size
		}
	}
	if sizes[layer.Gzip]*3 > sizes[layer.Uncompressed] || sizes[layer.Zstd]*3 > sizes[layer.Uncompressed] {
		t.Errorf("sizes: %v", sizes)
	}
	if info := top(t, s, tree); info.DiffID != diffID || len(info.Packed) != 3 {
		t.Errorf("remembered: %+v", info)
	}
	if n := countBlobs(t, s); n != 3 {
		t.Errorf("%d blobs", n)
	}
	// The pack of another store, unpacked here, is the same layer.
	epoch := time.Unix(5, 0)
	o := BlobOptions{Compression: layer.Compression{Type: layer.Gzip, Level: 1}, Epoch: &epoch}
	_, diff, err := s.Blob(t.Context(), id, o, nil)
	must(t, err)
	if diff == diffID || top(t, s, tree).DiffID != diffID {
		t.Error("rewritten times do not show, or show too much")
	}
	if _, _, err := s.Blob(t.Context(), "../x", o, nil); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("blob of an unknown layer: %v", err)
	}
}

// Only who makes a blob can follow it, and only until it is made.
func TestBlobIsFollowedByItsMaker(t *testing.T) {
	s := open(t, config(t))
	id := top(t, s, step(t, s, "", func(dir string) { write(t, dir+"/f", strings.Repeat("1", 1<<20)) })).ID
	var follows atomic.Int32
	var got ocispecs.Descriptor
	o := BlobOptions{Compression: layer.Compression{Type: layer.Gzip, Level: layer.DefaultLevel}}
	followed := o
	joined := make(chan struct{})
	var wg sync.WaitGroup
	followed.Follow = func(g *blob.Growing) {
		follows.Add(1)
		// Somebody who comes meanwhile does not follow, and gets the same blob.
		other := o
		other.Follow = func(*blob.Growing) { t.Error("followed by who did not make it") }
		wg.Go(func() {
			close(joined)
			if _, _, err := s.Blob(t.Context(), id, other, nil); err != nil {
				t.Error(err)
			}
		})
		<-joined
		wg.Go(func() {
			var err error
			if got, err = g.End(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for range 2 { // the second time it is there
		desc, _, err := s.Blob(t.Context(), id, followed, nil)
		must(t, err)
		wg.Wait()
		if follows.Load() != 1 || got.Digest != desc.Digest || got.Size != desc.Size {
			t.Errorf("followed %d times, to %v; the blob is %v", follows.Load(), got, desc)
		}
	}
}

func countBlobs(t *testing.T, s *Store) (n int) {
	t.Helper()
	must(t, s.cfg.Blobs.Walk(t.Context(), func(content.Info) error { n++; return nil }))
	return n
}

func TestBlobIsRemembered(t *testing.T) {
	c := config(t)
	s := open(t, c)
	tree := step(t, s, "", func(dir string) { write(t, dir+"/f", "1") })
	id := top(t, s, tree).ID
	o := BlobOptions{Compression: layer.Compression{Type: layer.Gzip, Level: layer.DefaultLevel}}
	var descs sync.Map
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			d, _, err := s.Blob(t.Context(), id, o, nil)
			if err != nil {
				t.Error(err)
			}
			descs.Store(i, d.Digest)
		})
	}
	wg.Wait()
	first, _ := descs.Load(0)
	must(t, s.Close())
	s = open(t, c)
	if p := top(t, s, tree).Packed; len(p) != 1 || p[0].Digest != first {
		t.Fatalf("packed after reopening: %v", p)
	}
	// It is not packed again: its files need not even be there.
	hidden := s.path(layersDir, top(t, s, tree).dirIn(s))
	must(t, os.Rename(hidden, hidden+"x"))
	d, _, err := s.Blob(t.Context(), id, o, nil)
	if err != nil || d.Digest != first {
		t.Errorf("%v, %v", d, err)
	}
	must(t, os.Rename(hidden+"x", hidden))
	// But it is made again when it was removed.
	must(t, c.Blobs.Delete(t.Context(), d.Digest))
	d, _, err = s.Blob(t.Context(), id, o, nil)
	if err != nil || d.Digest != first || !c.Blobs.Has(t.Context(), d.Digest) {
		t.Errorf("%v, %v", d, err)
	}
}

func (l LayerInfo) dirIn(s *Store) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layers[l.ID].Dir
}

func TestBlobOfImage(t *testing.T) {
	s := newStore(t)
	r := &registry{}
	l := r.add(t, layer.Gzip, "a=1")
	tree := addImage(t, s, l)
	id := top(t, s, tree).ID
	get := func(c layer.Compression, lazy bool, p Provider) (ocispecs.Descriptor, error) {
		d, diff, err := s.Blob(t.Context(), id, BlobOptions{Compression: c, Lazy: lazy}, p)
		if err == nil && diff != l.DiffID {
			t.Errorf("diff ID %s, want %s", diff, l.DiffID)
		}
		return d, err
	}
	zstd := layer.Compression{Type: layer.Zstd, Level: layer.DefaultLevel}
	if _, err := get(zstd, false, nil); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("without a provider: %v", err)
	}
	d, err := get(zstd, true, nil)
	if err != nil || d.Digest != l.Desc.Digest || s.cfg.Blobs.Has(t.Context(), d.Digest) {
		t.Errorf("lazy: %v, %v", d, err)
	}
	if d.MediaType != "application/vnd.docker.image.rootfs.diff.tar.gzip" {
		t.Errorf("media type %s", d.MediaType)
	}
	d, err = get(zstd, false, r)
	if err != nil || d.Digest != l.Desc.Digest || !s.cfg.Blobs.Has(t.Context(), d.Digest) {
		t.Errorf("as it is: %v, %v", d, err)
	}
	zstd.Force = true
	d, err = get(zstd, false, nil)
	if err != nil || d.Digest == l.Desc.Digest || d.MediaType != zstd.MediaType(false) {
		t.Errorf("forced: %v, %v", d, err)
	}
	if top(t, s, tree).Ready {
		t.Error("recompressing unpacked the layer")
	}
	gz := layer.Compression{Type: layer.Gzip, Level: layer.DefaultLevel, Force: true}
	if d, err = get(gz, false, nil); err != nil || d.Digest != l.Desc.Digest {
		t.Errorf("forced to what it is: %v, %v", d, err)
	}
}

// A packed layer, pushed and pulled, is the same files.
func TestRoundTrip(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) {
		write(t, dir+"/etc/a", "1")
		write(t, dir+"/etc/gone", "1")
		must(t, os.Chmod(dir, 0o750))
	})
	b := step(t, s, a, func(dir string) {
		must(t, os.Remove(dir+"/etc/gone"))
		must(t, os.Link(dir+"/etc/a", dir+"/etc/hard"))
		must(t, os.Symlink("/etc/a", dir+"/soft"))
	})
	var chain []ImageLayer
	r := &registry{blobs: map[ocidigest.Digest][]byte{}}
	for _, l := range layers(t, s, b) {
		d, diff, err := s.Blob(t.Context(), l.ID, BlobOptions{Compression: layer.Compression{Type: layer.Zstd, Level: layer.DefaultLevel}, OCI: true}, nil)
		must(t, err)
		r.blobs[d.Digest], err = content.ReadBlob(t.Context(), s.cfg.Blobs, d)
		must(t, err)
		chain = append(chain, ImageLayer{DiffID: diff, Desc: d})
	}
	other := newStore(t)
	tree := addImage(t, other, chain...)
	must(t, other.Ensure(t.Context(), tree, r, nil))
	if got, want := mounted(t, other, tree), mounted(t, s, b); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	v, err := other.View(t.Context(), tree)
	must(t, err)
	defer v.Close()
	if fi, err := os.Stat(v.Dir); err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("root: %v, %v", fi.Mode(), err)
	}
}

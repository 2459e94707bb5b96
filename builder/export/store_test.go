package export

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/cache/tree"
	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// past is when the test's files and layers were made.
var past = time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC)

// memTrees is a tree store of directories that packs layers with nothing but
// the standard library, so that what exporters make is checked against another
// implementation than the one that they run with.
type memTrees struct {
	t     *testing.T
	blobs content.Store

	mu sync.Mutex
	// all that follows is guarded by mu.
	layers map[cache.LayerID]*memLayer
	trees  map[cache.Tree][]cache.LayerID
}

type memLayer struct {
	info  tree.LayerInfo
	layer digest.Layer
}

func newMemTrees(t *testing.T) *memTrees {
	t.Helper()
	blobs, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &memTrees{t: t, blobs: blobs, layers: map[cache.LayerID]*memLayer{}, trees: map[cache.Tree][]cache.LayerID{}}
}

// add makes a tree of parent and a layer that fill writes.
func (m *memTrees) add(parent cache.Tree, fill func(dir string)) cache.Tree {
	m.t.Helper()
	dir := m.t.TempDir()
	fill(dir)
	idx, err := digest.Scan(m.t.Context(), dir, digest.ScanOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	id := cache.LayerID(fmt.Sprintf("%032x", len(m.layers)+1))
	m.layers[id] = &memLayer{
		info:  tree.LayerInfo{ID: id, Ready: true, Created: past.Add(time.Duration(len(m.layers)) * time.Hour)},
		layer: digest.Layer{Dir: dir, Index: idx},
	}
	chain := append(append([]cache.LayerID(nil), m.trees[parent]...), id)
	t := cache.Tree(fmt.Sprintf("tree-%d", len(m.trees)+1))
	m.trees[t] = chain
	return t
}

// pulled turns the layers of a tree into those of an image that came from refs;
// the blobs go to where, from which Blob fetches them through its provider.
func (m *memTrees) pulled(t cache.Tree, where content.Store, refs ...string) {
	m.t.Helper()
	for _, id := range m.trees[t] {
		l := m.layers[id]
		data, diffID := m.pack(l, tree.BlobOptions{Compression: layer.Compression{Type: layer.Gzip}})
		desc := describe("application/vnd.docker.image.rootfs.diff.tar.gzip", data)
		if err := content.WriteBlob(m.t.Context(), where, "pulled-"+string(id), bytes.NewReader(data), desc); err != nil {
			m.t.Fatal(err)
		}
		l.info.Desc, l.info.DiffID, l.info.Sources = &desc, diffID, refs
	}
}

func (m *memTrees) Layers(t cache.Tree) ([]tree.LayerInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids, ok := m.trees[t]
	if !ok {
		return nil, fmt.Errorf("tree %s: %w", t, cache.ErrNotFound)
	}
	var out []tree.LayerInfo
	for _, id := range ids {
		out = append(out, m.layers[id].info)
	}
	return out, nil
}

func (m *memTrees) Blob(ctx context.Context, id cache.LayerID, o tree.BlobOptions, p tree.Provider) (ocispecs.Descriptor, godigest.Digest, error) {
	m.mu.Lock()
	l := m.layers[id]
	m.mu.Unlock()
	if l.info.Desc != nil && !o.Compression.Force {
		if o.Lazy {
			return *l.info.Desc, l.info.DiffID, nil
		}
		ra, err := p.ReaderAt(ctx, *l.info.Desc, l.info.Sources)
		if err != nil {
			return ocispecs.Descriptor{}, "", err
		}
		defer ra.Close()
		err = content.WriteBlob(ctx, m.blobs, "fetch-"+string(id), content.NewReader(ra), *l.info.Desc)
		return *l.info.Desc, l.info.DiffID, err
	}
	data, diffID := m.pack(l, o)
	mediaType := "application/vnd.oci.image.layer.v1.tar"
	if o.Compression.Type == layer.Gzip {
		mediaType += "+gzip"
	}
	desc := describe(mediaType, data)
	return desc, diffID, content.WriteBlob(ctx, m.blobs, "pack-"+string(id), bytes.NewReader(data), desc)
}

func (m *memTrees) pack(l *memLayer, o tree.BlobOptions) ([]byte, godigest.Digest) {
	m.t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	for e := range l.layer.Index.All() {
		if e.Path == "" {
			continue
		}
		h := &tar.Header{Name: e.Path, Mode: int64(e.Mode & 0o7777), Uid: int(e.UID), Gid: int(e.GID), ModTime: past, Format: tar.FormatPAX}
		if o.Epoch != nil && h.ModTime.After(*o.Epoch) {
			h.ModTime = *o.Epoch
		}
		var body []byte
		switch {
		case e.Whiteout:
			h.Name = filepath.Join(filepath.Dir(e.Path), ".wh."+filepath.Base(e.Path))
			h.Typeflag = tar.TypeReg
		case e.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		case e.IsSymlink():
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		case e.Hardlink != "":
			h.Typeflag, h.Linkname = tar.TypeLink, e.Hardlink
		default:
			body = m.read(filepath.Join(l.layer.Dir, e.Path))
			h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		}
		m.must(w.WriteHeader(h))
		_, err := w.Write(body)
		m.must(err)
	}
	m.must(w.Close())
	diffID := godigest.FromBytes(plain.Bytes())
	if o.Compression.Type != layer.Gzip {
		return plain.Bytes(), diffID
	}
	z := gzip.NewWriter(&packed)
	_, err := io.Copy(z, &plain)
	m.must(err)
	m.must(z.Close())
	return packed.Bytes(), diffID
}

func (m *memTrees) Ensure(context.Context, cache.Tree, tree.Provider, tree.Progress) error {
	return nil
}

func (m *memTrees) Files(_ context.Context, t cache.Tree) (*digest.View, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var layers []digest.Layer
	for _, id := range m.trees[t] {
		layers = append(layers, m.layers[id].layer)
	}
	return digest.NewView(layers), nil
}

func (m *memTrees) read(path string) []byte {
	m.t.Helper()
	data, err := os.ReadFile(path)
	m.must(err)
	return data
}

func (m *memTrees) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// write returns a fill function: "dir/" makes a directory, "-> x" a link to x,
// "= x" another name of x, "!" a whiteout, everything else a file.
func write(t *testing.T, files map[string]string) func(dir string) {
	return func(dir string) {
		t.Helper()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		var links []string
		for name, what := range files {
			path := filepath.Join(dir, name)
			must(os.MkdirAll(filepath.Dir(path), 0o755))
			switch {
			case strings.HasSuffix(name, "/"):
				must(os.MkdirAll(path, 0o755))
			case strings.HasPrefix(what, "-> "):
				must(os.Symlink(what[3:], path))
			case strings.HasPrefix(what, "= "):
				links = append(links, name)
			case what == "!":
				if os.Getuid() != 0 {
					t.Skip("SKIPPED: whiteouts need root")
				}
				must(unix.Mknod(path, unix.S_IFCHR, 0))
			default:
				must(os.WriteFile(path, []byte(what), 0o644))
			}
		}
		for _, name := range links {
			must(os.Link(filepath.Join(dir, files[name][2:]), filepath.Join(dir, name)))
		}
		must(filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
			ts := []unix.Timespec{unix.NsecToTimespec(past.UnixNano()), unix.NsecToTimespec(past.UnixNano())}
			if err == nil {
				err = unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
			}
			return err
		}))
	}
}

// storeProvider brings blobs from a store and counts them.
type storeProvider struct {
	content.Store
	mu      sync.Mutex
	fetched []godigest.Digest // guarded by mu
}

func (p *storeProvider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor, _ []string) (content.ReaderAt, error) {
	p.mu.Lock()
	p.fetched = append(p.fetched, desc.Digest)
	p.mu.Unlock()
	return p.Store.ReaderAt(ctx, desc)
}

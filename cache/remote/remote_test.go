package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/cache/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is where a cache is written to and read from.
type place struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	order []digest.Digest
}

func newPlace() *place { return &place{blobs: map[digest.Digest][]byte{}} }

func (p *place) Put(ctx context.Context, d ocispecs.Descriptor, _ []string, open Open) error {
	ra, err := open(ctx)
	if err != nil {
		return err
	}
	defer ra.Close()
	b := make([]byte, ra.Size())
	if _, err := ra.ReadAt(b, 0); err != nil && len(b) == 0 {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blobs[d.Digest] = b
	p.order = append(p.order, d.Digest)
	return nil
}

func (p *place) ReaderAt(_ context.Context, d ocispecs.Descriptor) (content.ReaderAt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("no blob %s", d.Digest)
	}
	return Bytes(b), nil
}

func (p *place) add(mediaType string, data []byte) ocispecs.Descriptor {
	d := describe(mediaType, data)
	p.blobs[d.Digest] = data
	return d
}

// provider is place as a tree store asks it.
type provider struct{ *place }

func (p provider) ReaderAt(ctx context.Context, d ocispecs.Descriptor, _ []string) (content.ReaderAt, error) {
	return p.place.ReaderAt(ctx, d)
}

type stores struct {
	trees *tree.Store
	blobs *blob.Store
}

func open(t *testing.T) stores {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: tree stores bind mounts")
	}
	blobs, err := blob.Open(filepath.Join(t.TempDir(), "blobs"))
	must(t, err)
	trees, err := tree.Open(tree.Config{Dir: filepath.Join(t.TempDir(), "trees"), Blobs: blobs})
	must(t, err)
	t.Cleanup(func() { must(t, trees.Close()) })
	return stores{trees, blobs}
}

// step makes a tree with one more file than parent.
func (s stores) step(t *testing.T, parent cache.Tree, name, text string) cache.Tree {
	t.Helper()
	d, err := s.trees.NewDraft(t.Context(), parent)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(d.Dir, name), []byte(text), 0o644))
	tr, err := d.Commit(t.Context(), nil)
	must(t, err)
	return tr
}

func key(s string) cache.Key { return cache.Hash("test", []byte(s)) }

// example is two steps over one another, one that made two trees, and one of which
// only the content is known.
func example(t *testing.T, s stores) ([]Step, cache.Tree) {
	t.Helper()
	one := s.step(t, "", "one", "1")
	two := s.step(t, one, "two", "2")
	other := s.step(t, one, "other", "o")
	see := func(s string) []SelectedContent {
		return []SelectedContent{{0, cache.Root, key(s + " root")}, {1, "a selector", key(s + " part")}}
	}
	return []Step{
		{Key: key("source"), Contents: see("source")},
		{Key: key("one"), Record: &cache.Record{Trees: []cache.Tree{one}, Name: "RUN one"}, Contents: see("one")},
		{Key: key("two"), Record: &cache.Record{Trees: []cache.Tree{two, "", other}}},
		{Key: key("nothing")},
	}, two
}

func (s stores) config() Config {
	return Config{Layers: s.trees, Store: s.blobs, Options: tree.BlobOptions{Compression: layer.Compression{Type: layer.Gzip, Level: layer.DefaultLevel}, OCI: true}}
}

func load(docs ...*Document) func(context.Context) ([]*Document, error) {
	return func(context.Context) ([]*Document, error) { return docs, nil }
}

// files lists the contents of a tree's files.
func (s stores) files(t *testing.T, tr cache.Tree, p tree.Provider) map[string]string {
	t.Helper()
	must(t, s.trees.Ensure(t.Context(), tr, p, nil))
	v, err := s.trees.Files(t.Context(), tr)
	must(t, err)
	es, err := v.ReadDir("/")
	must(t, err)
	out := map[string]string{}
	for _, e := range es {
		p, err := v.HostPath("/" + e.Path)
		must(t, err)
		b, err := os.ReadFile(p)
		must(t, err)
		out[e.Path] = string(b)
	}
	return out
}

func TestThereAndBack(t *testing.T) {
	for _, m := range []Manifest{{Image: true, OCI: true}, {OCI: true}, {}} {
		t.Run(fmt.Sprintf("%+v", m), func(t *testing.T) {
			a, b, p := open(t), open(t), newPlace()
			steps, _ := example(t, a)
			c := a.config()
			c.Options.OCI = m.OCI
			d, blobs, err := Make(t.Context(), c, steps)
			must(t, err)
			if len(blobs) != 3 || len(d.Trees) != 3 || len(d.Records) != 3 {
				t.Errorf("%d blobs, %+v", len(blobs), d)
			}
			m.Step = func(string) func(error) { return func(error) {} }
			desc, err := Write(t.Context(), p, d, blobs, m)
			must(t, err)
			if p.order[len(p.order)-1] != desc.Digest || len(p.order) != 5 {
				t.Errorf("written in the order %v", p.order)
			}
			docs, err := Read(t.Context(), p, desc)
			must(t, err)
			r := &Cache{Load: load(docs...), Trees: b.trees, Source: "there"}

			two, err := r.Result(t.Context(), key("two"))
			must(t, err)
			if len(two.Trees) != 3 || two.Trees[1] != "" {
				t.Fatalf("%+v", two)
			}
			infos, err := b.trees.Layers(two.Trees[0])
			must(t, err)
			if len(infos) != 2 || infos[0].Ready || fmt.Sprint(infos[0].Sources) != "[there]" {
				t.Errorf("%+v", infos)
			}
			if got := b.files(t, two.Trees[0], provider{p}); fmt.Sprint(got) != "map[one:1 two:2]" {
				t.Errorf("files: %v", got)
			}
			if got := b.files(t, two.Trees[2], provider{p}); fmt.Sprint(got) != "map[one:1 other:o]" {
				t.Errorf("files: %v", got)
			}
			one, err := r.Result(t.Context(), key("one"))
			if err != nil || one.Name != "RUN one" {
				t.Errorf("%+v, %v", one, err)
			}
			for _, k := range []string{"source", "nothing", "unheard of"} {
				if _, err := r.Result(t.Context(), key(k)); !errors.Is(err, cache.ErrNotFound) {
					t.Errorf("result of %s: %v", k, err)
				}
			}
			got, err := r.Content(t.Context(), key("source"), 1, "a selector")
			if err != nil || got != key("source part") {
				t.Errorf("content: %s, %v", got, err)
			}
			if _, err := r.Content(t.Context(), key("source"), 0, "a selector"); !errors.Is(err, cache.ErrNotFound) {
				t.Errorf("content of another output: %v", err)
			}
		})
	}
}

func TestLayersThatAreGoneAreLeftOut(t *testing.T) {
	s := open(t)
	steps, two := example(t, s)
	infos, err := s.trees.Layers(two)
	must(t, err)
	c := s.config()
	c.Layers = withoutLayer{s.trees, infos[1].ID}
	d, blobs, err := Make(t.Context(), c, steps)
	must(t, err)
	if len(blobs) != 1 || len(d.Layers) != 1 {
		t.Errorf("%d blobs, %+v", len(blobs), d)
	}
	for _, r := range d.Records {
		if r.Key == key("two") {
			t.Errorf("a step without its trees was kept: %+v", r)
		}
	}
	must(t, d.check())
}

// withoutLayer has lost the files of one layer, since it listed it.
type withoutLayer struct {
	*tree.Store
	id cache.LayerID
}

func (w withoutLayer) Blob(ctx context.Context, id cache.LayerID, o tree.BlobOptions, p tree.Provider) (ocispecs.Descriptor, digest.Digest, error) {
	if id == w.id {
		return ocispecs.Descriptor{}, "", cache.ErrNotFound
	}
	return w.Store.Blob(ctx, id, o, p)
}

// image puts an image with a tree's layers and an inline cache into a place.
func (s stores) image(t *testing.T, p *place, tr cache.Tree, fields map[string]any) ocispecs.Descriptor {
	t.Helper()
	c := s.config()
	d, blobs, err := Make(t.Context(), c, []Step{{Key: key("x"), Record: &cache.Record{Trees: []cache.Tree{tr}}}})
	must(t, err)
	m := ocispecs.Manifest{MediaType: ocispecs.MediaTypeImageManifest}
	var diffIDs []digest.Digest
	for i, b := range blobs {
		must(t, p.Put(t.Context(), b.Descriptor, nil, b.Open))
		m.Layers = append(m.Layers, b.Descriptor)
		diffIDs = append(diffIDs, d.Layers[i].DiffID)
	}
	fields["rootfs"] = ocispecs.RootFS{Type: "layers", DiffIDs: diffIDs}
	config, err := json.Marshal(fields)
	must(t, err)
	m.Config = p.add(ocispecs.MediaTypeImageConfig, config)
	data, err := json.Marshal(m)
	must(t, err)
	return p.add(ocispecs.MediaTypeImageManifest, data)
}

func TestInline(t *testing.T) {
	a, b, p := open(t), open(t), newPlace()
	steps, two := example(t, a)
	d, err := MakeInline(a.trees, two, steps)
	must(t, err)
	data, err := d.EncodeInline()
	must(t, err)
	img := a.image(t, p, two, map[string]any{Field: data})
	plain := a.image(t, p, two, map[string]any{"architecture": "amd64"})
	index, err := json.Marshal(ocispecs.Index{Manifests: []ocispecs.Descriptor{plain, img}})
	must(t, err)
	for _, desc := range []ocispecs.Descriptor{img, p.add(ocispecs.MediaTypeImageIndex, index)} {
		docs, err := Read(t.Context(), p, desc)
		must(t, err)
		r := &Cache{Load: load(docs...), Trees: b.trees}
		one, err := r.Result(t.Context(), key("one"))
		must(t, err)
		if got := b.files(t, one.Trees[0], provider{p}); fmt.Sprint(got) != "map[one:1]" {
			t.Errorf("files: %v", got)
		}
		// This step has a tree that is not in the image.
		if _, err := r.Result(t.Context(), key("two")); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("result of two: %v", err)
		}
		if _, err := r.Content(t.Context(), key("source"), 0, cache.Root); err != nil {
			t.Errorf("content: %v", err)
		}
	}
}

func TestOthersCaches(t *testing.T) {
	s, p := open(t), newPlace()
	_, two := example(t, s)
	layerDesc := `{"blob":"sha256:` + strings.Repeat("0", 64) + `"}`
	theirs := p.add(ConfigMediaType, []byte(`{"layers":[`+layerDesc+`],"records":[{}]}`))
	empty := p.add(ConfigMediaType, []byte(`{"layers":[],"records":[]}`))
	manifest := func(c ocispecs.Descriptor) ocispecs.Descriptor {
		b, err := json.Marshal(ocispecs.Manifest{Config: c})
		must(t, err)
		return p.add(ocispecs.MediaTypeImageManifest, b)
	}
	list, err := json.Marshal(ocispecs.Index{Manifests: []ocispecs.Descriptor{theirs}})
	must(t, err)
	for name, c := range map[string]struct {
		desc ocispecs.Descriptor
		want error
	}{
		"manifest":        {manifest(theirs), ErrForeign},
		"list":            {p.add(images.MediaTypeDockerSchema2ManifestList, list), ErrForeign},
		"inline":          {s.image(t, p, two, map[string]any{"moby.buildkit.cache.v0": "W10="}), ErrForeign},
		"empty":           {manifest(empty), ErrNone},
		"image":           {s.image(t, p, two, map[string]any{}), ErrNone},
		"empty index":     {p.add(ocispecs.MediaTypeImageIndex, []byte(`{"manifests":[]}`)), ErrNone},
		"artifact":        {p.add(ocispecs.MediaTypeImageManifest, []byte(`{"layers":[]}`)), ErrNone},
		"no JSON":         {p.add(ocispecs.MediaTypeImageManifest, []byte(`<html>`)), nil},
		"both at once":    {p.add(ocispecs.MediaTypeImageManifest, []byte(`{"layers":[],"manifests":[]}`)), nil},
		"not there":       {ocispecs.Descriptor{Digest: digest.FromString("none")}, nil},
		"no digest":       {ocispecs.Descriptor{Digest: "x"}, nil},
		"too large":       {ocispecs.Descriptor{Digest: digest.FromString("x"), Size: maxManifest + 1}, nil},
		"config too long": {manifest(ocispecs.Descriptor{MediaType: ConfigMediaType, Digest: theirs.Digest, Size: MaxDocument + 1}), nil},
	} {
		docs, err := Read(t.Context(), p, c.desc)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v", name, docs, err)
		}
	}
	forged := p.add(ocispecs.MediaTypeImageManifest, []byte(`{}`))
	p.blobs[forged.Digest] = []byte(`{"manifests":[]}`)
	if _, err := Read(t.Context(), p, forged); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("forged manifest: %v", err)
	}
}

func valid(t testing.TB) *Document {
	d := digest.FromString("blob")
	l := Layer{Blob: d, DiffID: d, MediaType: ocispecs.MediaTypeImageLayerGzip, Size: 1, Parent: -1}
	return &Document{
		Layers: []Layer{l, l}, Trees: []Tree{{-1, 0}, {0, 1}},
		Records: []Record{{Key: key("a"), Trees: []int{1, -1}, Contents: []Content{{0, key("s"), key("c")}}}},
	}
}

func TestHostileDocuments(t *testing.T) {
	for name, spoil := range map[string]func(*Document){
		"layer's parent is itself": func(d *Document) { d.Layers[1].Parent = 1 },
		"layer's parent is none":   func(d *Document) { d.Layers[0].Parent = -2 },
		"digest":                   func(d *Document) { d.Layers[0].Blob = "sha256:../../etc/passwd" },
		"no diff ID":               func(d *Document) { d.Layers[0].DiffID = "" },
		"media type":               func(d *Document) { d.Layers[0].MediaType = "text/html" },
		"size":                     func(d *Document) { d.Layers[0].Size = -1 },
		"tree over itself":         func(d *Document) { d.Trees[0].Below = 0 },
		"tree over none":           func(d *Document) { d.Trees[0].Below = -2 },
		"tree of no layer":         func(d *Document) { d.Trees[1].Layer = 2 },
		"record of no tree":        func(d *Document) { d.Records[0].Trees[0] = 2 },
		"record of tree -2":        func(d *Document) { d.Records[0].Trees[0] = -2 },
		"too many outputs":         func(d *Document) { d.Records[0].Trees = make([]int, maxOutputs+1) },
		"too deep": func(d *Document) {
			for i := range maxDepth {
				d.Trees = append(d.Trees, Tree{len(d.Trees) - 1, i % 2})
			}
		},
		"too many layers": func(d *Document) { d.Layers = slices.Repeat(d.Layers, maxLayers) },
	} {
		d := valid(t)
		spoil(d)
		b, err := d.Encode()
		must(t, err)
		if got, err := Decode(b); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestLoadFailsOnce(t *testing.T) {
	n := 0
	c := &Cache{Load: func(context.Context) ([]*Document, error) { n++; return nil, errors.New("broken") }}
	for range 3 {
		if _, err := c.Result(t.Context(), key("a")); !errors.Is(err, cache.ErrNotFound) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("loaded %d times", n)
	}
	// That somebody was cancelled does not count.
	ctx, cancel := context.WithCancel(t.Context())
	first := true
	c = &Cache{Load: func(ctx context.Context) ([]*Document, error) {
		if first {
			first = false
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return []*Document{valid(t)}, nil
	}}
	if _, err := c.Content(ctx, key("a"), 0, "x"); err == nil || errors.Is(err, cache.ErrNotFound) {
		t.Errorf("cancelled: %v", err)
	}
	if d := must1(c.shelves(t.Context())); len(d) != 1 {
		t.Errorf("loaded %d documents", len(d))
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// refusing is a Trees that checks what it is told as the tree store does, but keeps
// nothing.
type refusing struct{}

func (refusing) AddRemote(_ context.Context, ls []tree.RemoteLayer) ([]cache.LayerID, error) {
	for i, l := range ls {
		if l.Parent < -1 || l.Parent >= i {
			panic(fmt.Sprintf("layer %d has parent %d", i, l.Parent))
		}
	}
	return make([]cache.LayerID, len(ls)), nil
}

func (refusing) Append(cache.Tree, ...cache.LayerID) (cache.Tree, error) { return "", nil }

func FuzzDecode(f *testing.F) {
	b, err := valid(f).Encode()
	must(f, err)
	f.Add(b)
	f.Add([]byte(`{"layers":[],"records":[{}]}`))
	f.Add([]byte(`{"buildd.cache.v1":{"trees":[{"below":-1,"layer":0}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Decode(data)
		if err != nil {
			return
		}
		c := &Cache{Load: load(d), Trees: refusing{}}
		for _, r := range d.Records {
			c.Result(t.Context(), r.Key)
			c.Content(t.Context(), r.Key, 0, "x")
		}
	})
}

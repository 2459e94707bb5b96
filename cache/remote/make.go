package remote

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
)

// Step is what there is to say of one step.
type Step struct {
	Key cache.Key
	// Record is of the step's trees; nil if they are not known or not to be told.
	Record   *cache.Record
	Contents []SelectedContent
}

// SelectedContent is the content digest of what a selector names in an output.
type SelectedContent struct {
	Output   int
	Selector cache.Selector
	Digest   cache.Key
}

// Layers is what Make needs of the tree store.
type Layers interface {
	Layers(t cache.Tree) ([]tree.LayerInfo, error)
	Layer(id cache.LayerID) (tree.LayerInfo, error)
	Header(id cache.LayerID) (tree.Header, error)
	Blob(ctx context.Context, id cache.LayerID, o tree.BlobOptions, p tree.Provider) (ocispecs.Descriptor, digest.Digest, error)
}

// Config says how Make goes about it.
type Config struct {
	Layers Layers
	// Store holds the blobs that Layers makes.
	Store content.Provider
	// Provider brings the blobs of layers that were never fetched.
	Provider tree.Provider
	Options  tree.BlobOptions
}

// Blob is a layer that belongs to a document.
type Blob struct {
	ocispecs.Descriptor
	// Sources are references of images that have it.
	Sources []string

	c  *Config
	id cache.LayerID
}

// Open opens the blob, which is fetched first if it is not here.
func (b Blob) Open(ctx context.Context) (content.ReaderAt, error) {
	o := b.c.Options
	o.Lazy = false
	desc, _, err := b.c.Layers.Blob(ctx, b.id, o, b.c.Provider)
	if err != nil {
		return nil, err
	}
	return b.c.Store.ReaderAt(ctx, desc)
}

// Make makes the document of steps. The layers of their trees are packed; those
// that came as blobs are named only, and fetched by who opens them. Trees that are
// not here any more are left out.
func Make(ctx context.Context, c Config, steps []Step) (*Document, []Blob, error) {
	gone := map[cache.LayerID]bool{}
	for {
		m := newMaker(c.Layers)
		m.gone = gone
		for _, s := range steps {
			m.add(s)
		}
		blobs, lost, err := m.pack(ctx, &c)
		if err != nil {
			return nil, nil, fmt.Errorf("pack layers for the cache: %w", err)
		}
		if len(lost) == 0 {
			return m.doc, distinct(blobs), nil
		}
		for _, id := range lost {
			gone[id] = true
		}
	}
}

// pack makes the blobs of all layers, and lists the layers that are gone.
func (m *maker) pack(ctx context.Context, c *Config) (blobs []Blob, lost []cache.LayerID, err error) {
	blobs = make([]Blob, len(m.infos))
	gone := make([]bool, len(m.infos))
	o := c.Options
	o.Lazy = true
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, runtime.NumCPU()))
	for i, info := range m.infos {
		g.Go(func() error {
			desc, diffID, err := c.Layers.Blob(ctx, info.ID, o, c.Provider)
			if info.Desc == nil && errors.Is(err, cache.ErrNotFound) {
				gone[i] = true
				return nil
			}
			blobs[i] = Blob{Descriptor: desc, Sources: info.Sources, c: c, id: info.ID}
			l := &m.doc.Layers[i]
			l.Blob, l.MediaType, l.Size, l.DiffID = desc.Digest, desc.MediaType, desc.Size, diffID
			return err
		})
	}
	err = g.Wait()
	for i, info := range m.infos {
		if gone[i] {
			lost = append(lost, info.ID)
		}
	}
	return blobs, lost, err
}

// MakeInline makes the document that an image of tree t carries: of trees it has
// those that consist of the image's layers. It is nil for an image whose layers
// need others to be unpacked.
func MakeInline(layers Layers, t cache.Tree, steps []Step) (*Document, error) {
	infos, err := layers.Layers(t)
	if err != nil {
		return nil, fmt.Errorf("list layers of the image: %w", err)
	}
	m := newMaker(layers)
	m.full = true
	for i, info := range infos {
		h, err := layers.Header(info.ID)
		if err != nil {
			return nil, fmt.Errorf("list layers of the image: %w", err)
		}
		parent := -1
		if h.Image != nil && h.Parent != "" {
			at, ok := m.byID[h.Parent]
			if !ok {
				return nil, nil
			}
			parent = at
		}
		if _, ok := m.byID[info.ID]; !ok {
			m.byID[info.ID] = i
		}
		m.doc.Layers = append(m.doc.Layers, Layer{Parent: parent})
	}
	for _, s := range steps {
		m.add(s)
	}
	return m.doc, nil
}

func distinct(blobs []Blob) []Blob {
	seen := map[digest.Digest]bool{}
	var out []Blob
	for _, b := range blobs {
		if !seen[b.Digest] {
			seen[b.Digest] = true
			out = append(out, b)
		}
	}
	return out
}

// maker puts a document together.
type maker struct {
	layers  Layers
	doc     *Document
	infos   []tree.LayerInfo // of doc.Layers
	byID    map[cache.LayerID]int
	byTree  map[Tree]int
	records map[cache.Key]bool
	full    bool // no layers are added any more
	gone    map[cache.LayerID]bool
}

func newMaker(l Layers) *maker {
	return &maker{
		layers: l, doc: &Document{Layers: []Layer{}, Trees: []Tree{}, Records: []Record{}},
		byID: map[cache.LayerID]int{}, byTree: map[Tree]int{}, records: map[cache.Key]bool{},
	}
}

// add adds a step, of its trees what can be added.
func (m *maker) add(s Step) {
	if m.records[s.Key] {
		return
	}
	r := Record{Key: s.Key}
	for _, c := range s.Contents {
		r.Contents = append(r.Contents, Content{c.Output, selectorKey(c.Selector), c.Digest})
	}
	if s.Record != nil {
		r.Name, r.Kind = s.Record.Name, s.Record.Kind
		if !s.Record.Created.IsZero() {
			r.Created = &s.Record.Created
		}
		for _, t := range s.Record.Trees {
			at, err := m.tree(t)
			if err != nil {
				r.Trees = nil
				break
			}
			r.Trees = append(r.Trees, at)
		}
	}
	if r.Trees == nil && len(r.Contents) == 0 {
		return
	}
	m.records[s.Key] = true
	m.doc.Records = append(m.doc.Records, r)
}

// tree returns the index of a tree.
func (m *maker) tree(t cache.Tree) (int, error) {
	at := -1
	if t == "" {
		return at, nil
	}
	infos, err := m.layers.Layers(t)
	if err != nil {
		return 0, err
	}
	chain := make([]int, len(infos))
	for i, info := range infos {
		if chain[i], err = m.layer(info); err != nil {
			return 0, err
		}
	}
	for _, l := range chain {
		n := Tree{Below: at, Layer: l}
		i, ok := m.byTree[n]
		if !ok {
			i = len(m.doc.Trees)
			m.doc.Trees = append(m.doc.Trees, n)
			m.byTree[n] = i
		}
		at = i
	}
	return at, nil
}

var errLeftOut = errors.New("the layer is not to be in the cache")

// layer returns the index of a layer, whose parents are added before it, be they
// in a tree of the document or not.
func (m *maker) layer(info tree.LayerInfo) (int, error) {
	if i, ok := m.byID[info.ID]; ok {
		return i, nil
	}
	if m.full || m.gone[info.ID] {
		return 0, errLeftOut
	}
	parent := -1
	h, err := m.layers.Header(info.ID)
	if err != nil {
		return 0, err
	}
	if h.Image != nil && h.Parent != "" {
		below, err := m.layers.Layer(h.Parent)
		if err != nil {
			return 0, err
		}
		if parent, err = m.layer(below); err != nil {
			return 0, err
		}
	}
	i := len(m.infos)
	m.byID[info.ID] = i
	m.infos = append(m.infos, info)
	m.doc.Layers = append(m.doc.Layers, Layer{Parent: parent})
	return i, nil
}

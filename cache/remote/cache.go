package remote

import (
	"context"
	"fmt"
	"slices"
	"sync"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/flight"
	"github.com/buildd/buildd/cache/tree"
)

// Trees is what a Cache needs of a tree store.
type Trees interface {
	AddRemote(ctx context.Context, layers []tree.RemoteLayer) ([]cache.LayerID, error)
	Append(t cache.Tree, ids ...cache.LayerID) (cache.Tree, error)
}

// Cache is a remote cache as one build reads it. Its documents are loaded when it
// is asked for the first time; of their layers nothing is fetched. It implements
// solver.Import.
type Cache struct {
	// Load gets the documents. What goes wrong there is for Load to report: the
	// build goes on without the cache.
	Load func(ctx context.Context) ([]*Document, error)
	// Trees makes trees of what the documents tell of.
	Trees Trees
	// Source is where the blobs of layers can be had from, as tree.Provider takes it.
	Source string

	loads flight.Group[struct{}, struct{}, []*shelf]

	mu     sync.Mutex // guards what follows
	loaded bool
	docs   []*shelf
}

// shelf is a document with what finds its records.
type shelf struct {
	doc      *Document
	records  map[cache.Key]int
	contents map[contentKey]cache.Key
}

type contentKey struct {
	step     cache.Key
	output   int
	selector cache.Key
}

// Result implements solver.Import.
func (c *Cache) Result(ctx context.Context, k cache.Key) (cache.Record, error) {
	docs, err := c.shelves(ctx)
	if err != nil {
		return cache.Record{}, err
	}
	for _, s := range docs {
		i, ok := s.records[k]
		if !ok || s.doc.Records[i].Trees == nil {
			continue
		}
		return c.record(ctx, s, s.doc.Records[i])
	}
	return cache.Record{}, fmt.Errorf("result of key %s: %w", k, cache.ErrNotFound)
}

// Content implements solver.Import.
func (c *Cache) Content(ctx context.Context, k cache.Key, output int, sel cache.Selector) (cache.Key, error) {
	docs, err := c.shelves(ctx)
	if err != nil {
		return cache.Key{}, err
	}
	at := contentKey{k, output, selectorKey(sel)}
	for _, s := range docs {
		if d, ok := s.contents[at]; ok {
			return d, nil
		}
	}
	return cache.Key{}, fmt.Errorf("content of key %s: %w", k, cache.ErrNotFound)
}

// shelves loads the documents once for all who ask. Those whom the build cancels
// leave it to the others; that loading failed is remembered.
func (c *Cache) shelves(ctx context.Context) ([]*shelf, error) {
	get := func() ([]*shelf, bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.docs, c.loaded
	}
	if docs, ok := get(); ok {
		return docs, nil
	}
	return c.loads.Do(ctx, struct{}{}, struct{}{}, func(ctx context.Context, _ *flight.Call[struct{}, []*shelf]) ([]*shelf, error) {
		if docs, ok := get(); ok {
			return docs, nil
		}
		loaded, err := c.Load(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var docs []*shelf
		if err == nil {
			for _, d := range loaded {
				docs = append(docs, newShelf(d))
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.docs, c.loaded = docs, true
		return docs, nil
	})
}

func newShelf(d *Document) *shelf {
	s := &shelf{doc: d, records: make(map[cache.Key]int, len(d.Records)), contents: map[contentKey]cache.Key{}}
	for i, r := range d.Records {
		if _, ok := s.records[r.Key]; ok {
			continue
		}
		s.records[r.Key] = i
		for _, c := range r.Contents {
			s.contents[contentKey{r.Key, c.Output, c.Selector}] = c.Digest
		}
	}
	return s
}

func (c *Cache) record(ctx context.Context, s *shelf, r Record) (cache.Record, error) {
	out := cache.Record{Name: r.Name, Kind: r.Kind, Trees: make([]cache.Tree, len(r.Trees))}
	if r.Created != nil {
		out.Created = *r.Created
	}
	for i, t := range r.Trees {
		var err error
		if out.Trees[i], err = c.tree(ctx, s, t); err != nil {
			return out, err
		}
	}
	return out, nil
}

// tree makes a tree of a document known to the tree store.
func (c *Cache) tree(ctx context.Context, s *shelf, t int) (cache.Tree, error) {
	if t < 0 {
		return "", nil
	}
	var chain []int // top first
	for at := t; at >= 0; at = s.doc.Trees[at].Below {
		chain = append(chain, s.doc.Trees[at].Layer)
	}
	layers, at := c.closure(s.doc, chain)
	ids, err := c.Trees.AddRemote(ctx, layers)
	if err != nil {
		return "", err
	}
	over := make([]cache.LayerID, len(chain))
	for i, l := range slices.Backward(chain) {
		over[len(chain)-1-i] = ids[at[l]]
	}
	return c.Trees.Append("", over...)
}

// closure returns the layers of a chain with those that unpacking them may need,
// and where in that list each is.
func (c *Cache) closure(d *Document, chain []int) ([]tree.RemoteLayer, map[int]int) {
	need := map[int]bool{}
	for _, l := range chain {
		for ; l >= 0 && !need[l]; l = d.Layers[l].Parent {
			need[l] = true
		}
	}
	at := map[int]int{-1: -1}
	var out []tree.RemoteLayer
	for i, l := range d.Layers {
		if !need[i] {
			continue
		}
		at[i] = len(out)
		out = append(out, tree.RemoteLayer{Parent: at[l.Parent], ImageLayer: tree.ImageLayer{
			DiffID: l.DiffID, Source: c.Source,
			Desc: ocispecs.Descriptor{MediaType: l.MediaType, Digest: l.Blob, Size: l.Size},
		}})
	}
	return out, at
}

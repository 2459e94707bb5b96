package tree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	cachedigest "github.com/buildd/buildd/cache/digest"
)

func newNode(parent *node, r *layerRecord) *node {
	n := &node{parent: parent, layer: r, depth: 1, content: fold(emptyContent, r.Content), name: nameOf("", r.id)}
	if parent != nil {
		n.depth = parent.depth + 1
		n.content = fold(parent.content, r.Content)
		n.name = nameOf(parent.name, r.id)
	}
	r.nodes++
	return n
}

// nodeLocked returns the node of a tree; nil is the empty tree's.
func (s *Store) nodeLocked(t cache.Tree) (*node, error) {
	if t == "" {
		return nil, nil
	}
	n, ok := s.trees[t]
	if !ok {
		return nil, fmt.Errorf("tree %.80q: %w", t, cache.ErrNotFound)
	}
	return n, nil
}

func (s *Store) node(t cache.Tree) (*node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodeLocked(t)
}

// overLocked returns the tree of a layer over another tree, new or not.
func (s *Store) overLocked(parent *node, r *layerRecord) *node {
	var name cache.Tree
	if parent != nil {
		name = parent.name
	}
	name = nameOf(name, r.id)
	n, ok := s.trees[name]
	if !ok {
		n = newNode(parent, r)
		s.trees[name] = n
		s.dirtyTrees[name] = struct{}{}
	}
	return n
}

// freshLocked keeps a tree that is about to be returned until it is leased.
func (n *node) freshLocked() cache.Tree {
	if n == nil {
		return ""
	}
	n.fresh, n.used = true, time.Now()
	return n.name
}

// Has tells whether the store knows a tree. Without a lease it may not for long.
func (s *Store) Has(t cache.Tree) bool {
	_, err := s.node(t)
	return err == nil
}

// Layers returns the layers of a tree, bottom first, or cache.ErrNotFound.
func (s *Store) Layers(t cache.Tree) ([]LayerInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.nodeLocked(t)
	if err != nil {
		return nil, err
	}
	chain := n.chain()
	out := make([]LayerInfo, len(chain))
	for i, r := range chain {
		out[i] = r.infoLocked()
	}
	return out, nil
}

// Layer returns what is known of one layer, or cache.ErrNotFound.
func (s *Store) Layer(id cache.LayerID) (LayerInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.recordLocked(id)
	if err != nil {
		return LayerInfo{}, err
	}
	return r.infoLocked(), nil
}

func (s *Store) recordLocked(id cache.LayerID) (*layerRecord, error) {
	r, ok := s.layers[id]
	if !ok {
		return nil, fmt.Errorf("layer %.80q: %w", id, cache.ErrNotFound)
	}
	return r, nil
}

// Append returns the tree of the given layers over t.
func (s *Store) Append(t cache.Tree, ids ...cache.LayerID) (cache.Tree, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.nodeLocked(t)
	if err != nil {
		return "", err
	}
	records := make([]*layerRecord, len(ids))
	for i, id := range ids {
		if records[i], err = s.recordLocked(id); err != nil {
			return "", err
		}
	}
	for _, r := range records {
		n = s.overLocked(n, r)
	}
	return n.freshLocked(), nil
}

// Merge returns the tree of the files of all trees, those of later trees over
// those of earlier ones: the concatenation of their chains. A tree that begins
// with all that was merged before it is taken as it is, which gives the same
// files with fewer layers.
func (s *Store) Merge(ctx context.Context, trees ...cache.Tree) (cache.Tree, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var merged *node
	for _, t := range trees {
		n, err := s.nodeLocked(t)
		if err != nil {
			return "", fmt.Errorf("merge: %w", err)
		}
		if n.hasPrefix(merged) {
			merged = n
			continue
		}
		for _, r := range n.chain() {
			merged = s.overLocked(merged, r)
		}
	}
	return merged.freshLocked(), nil
}

// hasPrefix tells whether the lowest layers of n are p.
func (n *node) hasPrefix(p *node) bool {
	if p == nil {
		return true
	}
	for n != nil && n.depth > p.depth {
		n = n.parent
	}
	return n == p
}

// ImageLayer is a layer as an image's configuration and manifest have it.
type ImageLayer struct {
	DiffID digest.Digest
	Desc   ocispecs.Descriptor
	// Source is the reference of an image that has the layer; "" if none has.
	Source string
}

// maxSources is how many references a layer remembers, the last ones.
const maxSources = 8

// AddImage returns the tree of an image's layers, bottom first. Nothing is
// fetched. Layers go by their chain IDs, so that equal images, and images with
// equal bases, share them.
func (s *Store) AddImage(ctx context.Context, chain []ImageLayer) (cache.Tree, error) {
	for i, l := range chain {
		if err := checkImageLayer(l); err != nil {
			return "", fmt.Errorf("add layer %d of image %s: %w", i, l.Source, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var n *node
	var below cache.LayerID
	made := s.madeLocked()
	for _, l := range chain {
		r := s.knownLocked(n, made[l.DiffID])
		if r == nil {
			r = s.imageLayerLocked(imageLayerID(below, l.DiffID), below, l)
		}
		n = s.overLocked(n, r)
		below = r.id
	}
	return n.freshLocked(), nil
}

// imageLayerID is the chain ID of a layer (OCI image-spec, config.md). Over a layer
// that was made here it goes on from the ID of that: what the layer is unpacked
// to depends on what lies below.
func imageLayerID(below cache.LayerID, diffID digest.Digest) cache.LayerID {
	if below == "" {
		return cache.LayerID(diffID)
	}
	return cache.LayerID(identity.ChainID([]digest.Digest{digest.Digest(below), diffID}))
}

// madeLocked returns the layers that were made here, by their diff IDs.
func (s *Store) madeLocked() map[digest.Digest][]*layerRecord {
	out := map[digest.Digest][]*layerRecord{}
	for _, r := range s.layers {
		if r.Desc == nil && r.DiffID != "" && r.Dir != "" {
			out[r.DiffID] = append(out[r.DiffID], r)
		}
	}
	return out
}

// knownLocked returns the layer that lies over n in a tree that is here: an
// image that was built here is its own layers, not unpacked once more.
func (s *Store) knownLocked(n *node, made []*layerRecord) *layerRecord {
	var name cache.Tree
	if n != nil {
		name = n.name
	}
	for _, r := range made {
		if _, ok := s.trees[nameOf(name, r.id)]; ok {
			return r
		}
	}
	return nil
}

func checkImageLayer(l ImageLayer) error {
	if err := l.DiffID.Validate(); err != nil {
		return fmt.Errorf("diff ID %q: %w", l.DiffID, err)
	}
	if l.DiffID.Algorithm() != digest.SHA256 {
		return fmt.Errorf("diff ID %q: want a sha256 digest", l.DiffID)
	}
	if err := l.Desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", l.Desc.Digest, err)
	}
	if l.Desc.Size < 0 {
		return fmt.Errorf("blob %s: size %d", l.Desc.Digest, l.Desc.Size)
	}
	return nil
}

// imageLayerLocked returns the record of an image's layer, new or not.
func (s *Store) imageLayerLocked(id, below cache.LayerID, l ImageLayer) *layerRecord {
	desc := l.Desc
	r, ok := s.layers[id]
	if !ok {
		r = &layerRecord{
			id: id, Content: imageContent(l.DiffID), DiffID: l.DiffID, Desc: &desc,
			Parent: below, Created: time.Now().UTC(),
		}
		s.layers[id] = r
		s.dirtyLayers[id] = struct{}{}
	}
	if r.Desc.Digest != desc.Digest {
		if r.Dir != "" {
			return r
		}
		// The same files in another compression. What was named last is the most
		// likely to be had still.
		r.Desc, r.Sources = &desc, nil
		s.dirtyLayers[id] = struct{}{}
	}
	if l.Source != "" && !slices.Contains(r.Sources, l.Source) {
		r.Sources = append(r.Sources, l.Source)
		r.Sources = r.Sources[max(0, len(r.Sources)-maxSources):]
		s.dirtyLayers[id] = struct{}{}
	}
	return r
}

// Content returns the content digest of what a selector names in a tree. For
// cache.Root it needs no files, else the whole tree must be Ready.
func (s *Store) Content(ctx context.Context, t cache.Tree, sel cache.Selector) (cache.Key, error) {
	if sel == "" {
		return cache.Key{}, errors.New("content of a tree: the empty selector selects nothing")
	}
	if sel == cache.Root {
		n, err := s.node(t)
		if err != nil {
			return cache.Key{}, err
		}
		if n == nil {
			return emptyContent, nil
		}
		return n.content, nil
	}
	selection, err := cachedigest.ParseSelector(sel)
	if err != nil {
		return cache.Key{}, err
	}
	v, err := s.Files(ctx, t)
	if err != nil {
		return cache.Key{}, err
	}
	return v.Content(ctx, selection)
}

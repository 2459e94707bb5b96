package tree

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
)

// remotePrefix begins the IDs of layers that a remote cache told of.
const remotePrefix = "remote:"

// remoteID is the ID of a layer that a remote cache told of. It depends on all
// that was told, so that who tells of something else than others do gets a layer
// of its own.
func remoteID(parent cache.LayerID, l ImageLayer) cache.LayerID {
	k := cache.Hash("buildd remote layer 1", []byte(parent), []byte(l.DiffID), []byte(l.Desc.Digest))
	return cache.LayerID(remotePrefix + k.String())
}

// remoteContent is the content of a layer that a remote cache told of. Until the
// layer is unpacked nobody knows whether the blob is what the diff ID says, so
// the blob counts, too.
func remoteContent(l ImageLayer) cache.Key {
	return cache.Hash("buildd remote content 1", []byte(l.DiffID), []byte(l.Desc.Digest))
}

func isRemote(id cache.LayerID) bool { return strings.HasPrefix(string(id), remotePrefix) }

// RemoteLayer is a layer that a remote cache tells of.
type RemoteLayer struct {
	ImageLayer
	// Parent is the index of the layer below it in the image that it came with,
	// which unpacking it may need; -1 for none.
	Parent int
}

// AddRemote makes layers known that a remote cache tells of and returns their
// IDs; nothing is fetched. A layer's parent comes before it. A layer is taken for
// one that is known already if its files are here, which proves its diff ID, or,
// of an image, if it is the same blob; no layer that is known is changed.
func (s *Store) AddRemote(ctx context.Context, layers []RemoteLayer) ([]cache.LayerID, error) {
	for i, l := range layers {
		if err := checkRemoteLayer(i, l); err != nil {
			return nil, fmt.Errorf("add layer %d of a remote cache: %w", i, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]cache.LayerID, len(layers))
	chains := make([]cache.LayerID, len(layers))
	made := s.madeLocked()
	for i, l := range layers {
		var parent, chain cache.LayerID
		if l.Parent >= 0 {
			parent, chain = ids[l.Parent], chains[l.Parent]
		}
		chains[i] = imageLayerID(chain, l.DiffID)
		if known := made[l.DiffID]; len(known) > 0 {
			ids[i] = known[0].id
			continue
		}
		ids[i] = s.remoteLayerLocked(parent, chains[i], l.ImageLayer)
	}
	return ids, nil
}

// remoteLayerLocked returns the ID of a layer's record, new or not.
func (s *Store) remoteLayerLocked(parent, chain cache.LayerID, l ImageLayer) cache.LayerID {
	if r, ok := s.layers[chain]; ok && r.Desc != nil && (r.Dir != "" || r.Desc.Digest == l.Desc.Digest) {
		if r.Dir == "" {
			s.addSourceLocked(r, l.Source)
		}
		return chain
	}
	r := s.remoteRecordLocked(remoteID(parent, l), parent, l)
	s.addSourceLocked(r, l.Source)
	return r.id
}

func (s *Store) remoteRecordLocked(id, parent cache.LayerID, l ImageLayer) *layerRecord {
	r, ok := s.layers[id]
	if !ok {
		desc := l.Desc
		r = &layerRecord{id: id, Content: remoteContent(l), DiffID: l.DiffID, Desc: &desc, Parent: parent, Created: time.Now().UTC()}
		s.layers[id] = r
		s.dirtyLayers[id] = struct{}{}
	}
	return r
}

func (s *Store) addSourceLocked(r *layerRecord, source string) {
	if source == "" || slices.Contains(r.Sources, source) {
		return
	}
	r.Sources = append(r.Sources, source)
	r.Sources = r.Sources[max(0, len(r.Sources)-maxSources):]
	s.dirtyLayers[r.id] = struct{}{}
}

func checkRemoteLayer(i int, l RemoteLayer) error {
	if err := checkImageLayer(l.ImageLayer); err != nil {
		return err
	}
	if _, err := layer.TypeOf(l.Desc.MediaType); err != nil {
		return err
	}
	if l.Parent < -1 || l.Parent >= i {
		return fmt.Errorf("its parent is layer %d, which does not come before it", l.Parent)
	}
	return nil
}

// lostFor is how long a layer that could not be had counts as lost. Builds look
// for other ways meanwhile; later ones may have more luck.
const lostFor = time.Minute

// lost notes that a layer of a remote cache could not be had.
func (s *Store) lost(ctx context.Context, r *layerRecord, err error) error {
	if !isRemote(r.id) || ctx.Err() != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lostAt[r.id] = time.Now()
	return fmt.Errorf("%w: %w", cache.ErrLost, err)
}

// isLostLocked tells whether a layer of n was lost a moment ago.
func (s *Store) isLostLocked(n *node, now time.Time) bool {
	if len(s.lostAt) == 0 {
		return false
	}
	for id, at := range s.lostAt {
		if r, ok := s.layers[id]; !ok || r.Dir != "" || now.Sub(at) > lostFor {
			delete(s.lostAt, id)
		}
	}
	for ; n != nil && len(s.lostAt) > 0; n = n.parent {
		if _, ok := s.lostAt[n.layer.id]; ok {
			return true
		}
	}
	return false
}

// Obtainable tells whether the layers of a tree that remote caches told of are
// here or can be had: reaches tells which of a layer's sources can be asked.
func (s *Store) Obtainable(ctx context.Context, t cache.Tree, reaches func(source string) bool) bool {
	missing, ok := s.unreachable(t, reaches)
	if !ok {
		return false
	}
	for _, blob := range missing {
		if !s.cfg.Blobs.Has(ctx, blob) {
			return false
		}
	}
	return true
}

// unreachable returns the blobs of those layers of a tree that have no files and
// no source that can be asked; false if the tree is gone, or lost.
func (s *Store) unreachable(t cache.Tree, reaches func(string) bool) (out []digest.Digest, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.nodeLocked(t)
	if err != nil || s.isLostLocked(n, time.Now()) {
		return nil, false
	}
	for ; n != nil; n = n.parent {
		r := n.layer
		if r.Dir == "" && r.Desc != nil && isRemote(r.id) && !slices.ContainsFunc(r.Sources, reaches) {
			out = append(out, r.Desc.Digest)
		}
	}
	return out, true
}

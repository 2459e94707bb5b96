package tree

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
)

var (
	layersBucket = []byte("layers")
	treesBucket  = []byte("trees")
)

// LayerInfo is what the store knows of a layer.
type LayerInfo struct {
	ID cache.LayerID
	// Content is that of the layer's index, or of a layer that came with an image
	// a hash of its DiffID, which is known before the files are here.
	Content cache.Key
	// DiffID is "" until the layer was packed for the first time.
	DiffID digest.Digest
	// Desc is the blob that an image's layer came as; nil for layers made here.
	Desc *ocispecs.Descriptor
	// Ready says that the files are here.
	Ready bool
	// Size is the bytes that the files take on disk, 0 unless Ready. Files that
	// are hard links of another layer's count for both.
	Size    int64
	Created time.Time
	// Sources are image references that the blob can be had from.
	Sources []string
	// Packed are the blobs that were made of the layer here.
	Packed []ocispecs.Descriptor
}

// layerRecord is a layer in memory and, but for what is not exported, in the
// database. Its fields are guarded by the store's mutex, but for id, Dir and
// Content, which do not change while it is Ready.
type layerRecord struct {
	id    cache.LayerID
	nodes int // trees whose topmost layer it is
	holds int // users of the layer that are no tree

	Content cache.Key            `json:"content"`
	DiffID  digest.Digest        `json:"diffID,omitempty"`
	Desc    *ocispecs.Descriptor `json:"desc,omitempty"`
	// Parent is the layer below in the image that the layer came with.
	Parent  cache.LayerID `json:"parent,omitempty"`
	Sources []string      `json:"sources,omitempty"`
	// Dir is the name of the directory below layers/ that holds the files; "" if
	// they are not here. It is random, so that a layer that is removed and had
	// again never meets its old self.
	Dir     string    `json:"dir,omitempty"`
	Size    int64     `json:"size,omitempty"`
	Created time.Time `json:"created"`
	Packed  []packed  `json:"packed,omitempty"`
}

// packed is a blob that was made of a layer.
type packed struct {
	packOptions
	DiffID digest.Digest `json:"diffID"`
	Digest digest.Digest `json:"digest"`
	Bytes  int64         `json:"size"`
}

// packOptions are what a packed blob's bytes depend on beside the layer.
type packOptions struct {
	Type  layer.Type `json:"type"`
	Level int        `json:"level"`
	// Epoch is in nanoseconds; without HasEpoch no time was rewritten.
	Epoch    int64 `json:"epoch,omitempty"`
	HasEpoch bool  `json:"hasEpoch,omitempty"`
}

func (r *layerRecord) infoLocked() LayerInfo {
	info := LayerInfo{
		ID: r.id, Content: r.Content, DiffID: r.DiffID, Ready: r.Dir != "",
		Size: r.Size, Created: r.Created, Sources: append([]string(nil), r.Sources...),
	}
	if r.Desc != nil {
		d := *r.Desc
		info.Desc = &d
	}
	for _, p := range r.Packed {
		info.Packed = append(info.Packed, ocispecs.Descriptor{
			MediaType: layer.Compression{Type: p.Type}.MediaType(true), Digest: p.Digest, Size: p.Bytes,
		})
	}
	return info
}

// node is a tree in memory: its parent and the layer on top.
type node struct {
	name   cache.Tree
	parent *node // nil: the empty tree
	layer  *layerRecord
	depth  int
	// content is the content digest of the whole root file system.
	content cache.Key

	// The store's mutex guards these.
	holds int // leases, mounts and other users
	// fresh says that the tree was made and no lease has taken it yet.
	fresh bool
	// flat is the name of the directory below flats/ that has the files of the
	// whole tree; "" if there is none.
	flat string
	// used is when the tree was last returned by a method that makes trees, or let
	// go of.
	used time.Time
}

// chain returns the layers of n, bottom first.
func (n *node) chain() []*layerRecord {
	if n == nil {
		return nil
	}
	out := make([]*layerRecord, n.depth)
	for ; n != nil; n = n.parent {
		out[n.depth-1] = n.layer
	}
	return out
}

// nameOf is the name of the tree that a layer makes over another.
func nameOf(parent cache.Tree, id cache.LayerID) cache.Tree {
	return cache.Tree(cache.Hash("buildd tree 1", []byte(parent), []byte(id)).String())
}

// emptyContent is the content digest of the empty tree.
var emptyContent = cache.Hash("buildd tree content 1")

func fold(below, layer cache.Key) cache.Key {
	return cache.Hash("buildd tree content 1", below[:], layer[:])
}

// imageContent is the content of an image's layer.
func imageContent(diffID digest.Digest) cache.Key {
	return cache.Hash("buildd diff id 1", []byte(diffID))
}

func putLayer(tx *bbolt.Tx, id cache.LayerID, value []byte) error {
	b := tx.Bucket(layersBucket)
	if value == nil {
		return b.Delete([]byte(id))
	}
	return b.Put([]byte(id), value)
}

func putTree(tx *bbolt.Tx, t cache.Tree, value []byte) error {
	b := tx.Bucket(treesBucket)
	if value == nil {
		return b.Delete([]byte(t))
	}
	return b.Put([]byte(t), value)
}

func decodeLayer(id, value []byte) (*layerRecord, error) {
	r := &layerRecord{id: cache.LayerID(id)}
	if err := json.Unmarshal(value, r); err != nil {
		return nil, fmt.Errorf("read record of layer %q: %w", id, err)
	}
	if r.Dir != "" && !validDir(r.Dir) {
		return nil, fmt.Errorf("read record of layer %q: directory %q", id, r.Dir)
	}
	return r, nil
}

// A tree's value is its parent, a space, and its layer.
func encodeTree(n *node) []byte {
	var parent cache.Tree
	if n.parent != nil {
		parent = n.parent.name
	}
	return []byte(string(parent) + " " + string(n.layer.id))
}

func decodeTree(value []byte) (cache.Tree, cache.LayerID) {
	parent, id, _ := strings.Cut(string(value), " ")
	return cache.Tree(parent), cache.LayerID(id)
}

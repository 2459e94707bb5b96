package remote

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
)

// Field is what a document goes by in the JSON object that holds it.
const Field = "buildd.cache.v1"

// ErrForeign is returned for a cache in BuildKit's form.
var ErrForeign = errors.New("this is a cache of BuildKit, whose keys are not buildd's: it cannot be used")

// ErrNone is returned for what holds no cache.
var ErrNone = errors.New("there is no cache in it")

// Bounds of what is read.
const (
	// MaxDocument bounds a document in bytes.
	MaxDocument = 64 << 20
	maxLayers   = 1 << 16
	maxTrees    = 1 << 20
	maxDepth    = 1 << 14 // of layers in a tree
	maxOutputs  = 1 << 14
)

// Document is a cache. Indexes that stand for none are -1.
type Document struct {
	Layers []Layer `json:"layers"`
	// Trees share what lies below: each is one layer over another tree.
	Trees   []Tree   `json:"trees"`
	Records []Record `json:"records"`
}

// Layer is one layer of trees. Inline, an image has what is left out here.
type Layer struct {
	Blob      digest.Digest `json:"blob,omitempty"`
	MediaType string        `json:"mediaType,omitempty"`
	Size      int64         `json:"size,omitempty"`
	DiffID    digest.Digest `json:"diffID,omitempty"`
	// Parent is the index of the layer below in the image that the layer came with,
	// which unpacking it may need. A layer that buildd made needs none.
	Parent int `json:"parent"`
}

// Tree is Layer over the tree Below, which comes before it.
type Tree struct {
	Below int `json:"below"`
	Layer int `json:"layer"`
}

// Record is what is known of one step.
type Record struct {
	Key cache.Key `json:"key"`
	// Trees are the step's outputs, -1 for an empty one; nil if they are not in the
	// cache.
	Trees    []int     `json:"trees,omitempty"`
	Contents []Content `json:"contents,omitempty"`

	Name    string     `json:"name,omitempty"`
	Kind    string     `json:"kind,omitempty"`
	Created *time.Time `json:"created,omitempty"`
}

// Content is the digest of a part of a step's output.
type Content struct {
	Output int `json:"output"`
	// Selector is the digest of the selector, which may be long.
	Selector cache.Key `json:"selector"`
	Digest   cache.Key `json:"digest"`
}

func selectorKey(s cache.Selector) cache.Key { return sha256.Sum256([]byte(s)) }

// envelope has the fields by which BuildKit's cache config is known, too.
type envelope struct {
	Layers   []json.RawMessage `json:"layers"`
	Records  []json.RawMessage `json:"records"`
	Document *Document         `json:"buildd.cache.v1"`
}

// Encode returns the object that holds d.
func (d *Document) Encode() ([]byte, error) {
	e := envelope{Layers: []json.RawMessage{}, Records: []json.RawMessage{}, Document: d}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode cache: %w", err)
	}
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("encode cache: it takes %d bytes, at most %d are read again", len(b), MaxDocument)
	}
	return b, nil
}

// Decode reads what Encode returned. It returns ErrForeign or ErrNone, wrapped,
// for what was made by others.
func Decode(data []byte) (*Document, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("read cache: its %d bytes are more than the limit of %d", len(data), MaxDocument)
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	switch {
	case e.Document != nil:
	case len(e.Records) > 0 || len(e.Layers) > 0:
		return nil, fmt.Errorf("read cache: %w", ErrForeign)
	default:
		return nil, fmt.Errorf("read cache: %w", ErrNone)
	}
	if err := e.Document.check(); err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	return e.Document, nil
}

// decodeInline reads the document of an image with these layers.
func decodeInline(data []byte, layers []Layer) (*Document, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("read inline cache: its %d bytes are more than the limit of %d", len(data), MaxDocument)
	}
	d := &Document{}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(d); err != nil {
		return nil, fmt.Errorf("read inline cache: %w", err)
	}
	if len(d.Layers) != len(layers) {
		return nil, fmt.Errorf("read inline cache: it has %d layers, the image %d", len(d.Layers), len(layers))
	}
	for i := range layers {
		layers[i].Parent = d.Layers[i].Parent
	}
	d.Layers = layers
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("read inline cache: %w", err)
	}
	return d, nil
}

func (d *Document) check() error {
	if len(d.Layers) > maxLayers || len(d.Trees) > maxTrees {
		return fmt.Errorf("%d layers and %d trees: at most %d and %d are read", len(d.Layers), len(d.Trees), maxLayers, maxTrees)
	}
	for i, l := range d.Layers {
		if err := l.check(i); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	depth := make([]int, len(d.Trees))
	for i, t := range d.Trees {
		if t.Below < -1 || t.Below >= i || t.Layer < 0 || t.Layer >= len(d.Layers) {
			return fmt.Errorf("tree %d is layer %d over tree %d: there is no such layer or tree", i, t.Layer, t.Below)
		}
		if depth[i] = 1; t.Below >= 0 {
			depth[i] += depth[t.Below]
		}
		if depth[i] > maxDepth {
			return fmt.Errorf("tree %d has more than %d layers", i, maxDepth)
		}
	}
	for i, r := range d.Records {
		if err := r.check(len(d.Trees)); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
	}
	return nil
}

func (l Layer) check(i int) error {
	for _, d := range []digest.Digest{l.Blob, l.DiffID} {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("digest %.100q: %w", d, err)
		}
	}
	if _, err := layer.TypeOf(l.MediaType); err != nil {
		return err
	}
	if l.Size < 0 {
		return fmt.Errorf("size %d", l.Size)
	}
	if l.Parent < -1 || l.Parent >= i {
		return fmt.Errorf("parent %d does not come before it", l.Parent)
	}
	return nil
}

func (r Record) check(trees int) error {
	if len(r.Trees) > maxOutputs || len(r.Contents) > maxTrees {
		return fmt.Errorf("%d outputs, %d contents", len(r.Trees), len(r.Contents))
	}
	for _, t := range r.Trees {
		if t < -1 || t >= trees {
			return fmt.Errorf("there is no tree %d", t)
		}
	}
	return nil
}

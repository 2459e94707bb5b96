package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxManifest = 16 << 20
	// maxConfig bounds an image's config, which may carry a cache.
	maxConfig = MaxDocument * 2
	// maxImages bounds the images of an index that are looked at.
	maxImages = 256
)

// Read returns the documents that a manifest leads to: the one that it is the
// manifest of, or those that the images carry which it names. It returns
// ErrForeign or ErrNone, wrapped, if there is none.
func Read(ctx context.Context, from content.Provider, desc ocispecs.Descriptor) ([]*Document, error) {
	m, err := readManifest(ctx, from, desc)
	if err != nil {
		return nil, err
	}
	if c := m.cacheConfig(); c != nil {
		data, err := readBlob(ctx, from, *c, MaxDocument)
		if err != nil {
			return nil, err
		}
		d, err := Decode(data)
		if err != nil {
			return nil, err
		}
		return []*Document{d}, nil
	}
	return readInline(ctx, from, m)
}

// manifest has the fields of manifests and of indexes.
type manifest struct {
	Config    ocispecs.Descriptor   `json:"config"`
	Layers    []ocispecs.Descriptor `json:"layers"`
	Manifests []ocispecs.Descriptor `json:"manifests"`
}

func readManifest(ctx context.Context, from content.Provider, desc ocispecs.Descriptor) (manifest, error) {
	data, err := readBlob(ctx, from, desc, maxManifest)
	if err != nil {
		return manifest{}, err
	}
	return parseManifest(desc.Digest, data)
}

func parseManifest(dgst digest.Digest, data []byte) (m manifest, err error) {
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read manifest %s: %w", dgst, err)
	}
	if m.Manifests != nil && (m.Layers != nil || m.Config.Digest != "") {
		return m, fmt.Errorf("read manifest %s: it is a manifest and an index at once", dgst)
	}
	return m, nil
}

// cacheConfig returns the descriptor of the document; nil without one.
func (m manifest) cacheConfig() *ocispecs.Descriptor {
	if m.Config.MediaType == ConfigMediaType {
		return &m.Config
	}
	for _, d := range m.Manifests {
		if d.MediaType == ConfigMediaType {
			return &d
		}
	}
	return nil
}

// readInline reads the documents of one image or of all images of an index. An
// image without one does not keep the others' from being used.
func readInline(ctx context.Context, from content.Provider, m manifest) ([]*Document, error) {
	if m.Manifests == nil {
		d, err := readImage(ctx, from, m)
		if err != nil {
			return nil, err
		}
		return []*Document{d}, nil
	}
	if len(m.Manifests) > maxImages {
		return nil, fmt.Errorf("read index: its %d manifests are more than the limit of %d", len(m.Manifests), maxImages)
	}
	var docs []*Document
	worst := fmt.Errorf("read index: %w", ErrNone)
	for _, desc := range m.Manifests {
		m, err := readManifest(ctx, from, desc)
		if err != nil {
			return nil, err
		}
		d, err := readImage(ctx, from, m)
		switch {
		case err == nil:
			docs = append(docs, d)
		case errors.Is(err, ErrForeign):
			worst = err
		case !errors.Is(err, ErrNone):
			return nil, err
		}
	}
	if len(docs) == 0 {
		return nil, worst
	}
	return docs, nil
}

// readImage reads the document in an image's config.
func readImage(ctx context.Context, from content.Provider, m manifest) (*Document, error) {
	if m.Config.Digest == "" || len(m.Layers) == 0 {
		return nil, fmt.Errorf("read image: %w", ErrNone)
	}
	data, err := readBlob(ctx, from, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	var config struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
		Cache   []byte          `json:"buildd.cache.v1"`
		Foreign json.RawMessage `json:"moby.buildkit.cache.v0"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("read image config %s: %w", m.Config.Digest, err)
	}
	switch {
	case len(config.Cache) > 0:
	case len(config.Foreign) > 0:
		return nil, fmt.Errorf("read image config %s: %w", m.Config.Digest, ErrForeign)
	default:
		return nil, fmt.Errorf("read image config %s: %w", m.Config.Digest, ErrNone)
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("read image config %s: it lists %d diff IDs, the manifest %d layers", m.Config.Digest, len(config.RootFS.DiffIDs), len(m.Layers))
	}
	layers := make([]Layer, len(m.Layers))
	for i, l := range m.Layers {
		layers[i] = Layer{Blob: l.Digest, MediaType: l.MediaType, Size: l.Size, DiffID: config.RootFS.DiffIDs[i], Parent: -1}
	}
	return decodeInline(config.Cache, layers)
}

// EncodeInline returns what the config of an image carries under Field.
func (d *Document) EncodeInline() ([]byte, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode inline cache: %w", err)
	}
	return b, nil
}

// readBlob reads a small blob and verifies it.
func readBlob(ctx context.Context, from content.Provider, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %.100q: %w", desc.Digest, err)
	}
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("blob %s: its %d bytes are more than the limit of %d", desc.Digest, desc.Size, limit)
	}
	ra, err := from.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, fmt.Errorf("blob %s: its %d bytes are more than the limit of %d", desc.Digest, ra.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(content.NewReader(ra), limit+1))
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	if have := desc.Digest.Algorithm().FromBytes(data); have != desc.Digest {
		return nil, fmt.Errorf("blob %s: its content has the digest %s", desc.Digest, have)
	}
	return data, nil
}

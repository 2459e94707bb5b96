package imageapi

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDocument bounds manifests, indexes and configurations, which are read into
// memory: as registries do.
const maxDocument = 4 << 20

// imageTree is what an image's name leads to.
type imageTree struct {
	index     []byte // nil if there is one manifest only
	manifests []manifest
	size      int64 // of layers and configurations, each once
}

type manifest struct {
	desc     ocispecs.Descriptor
	platform string
	bytes    []byte
	config   []byte
}

// readTree reads an image's documents. Manifests of an index that are not in the
// store, as of platforms that nobody fetched, are left out.
func readTree(ctx context.Context, blobs content.Provider, target ocispecs.Descriptor) (imageTree, error) {
	var t imageTree
	seen := map[digest.Digest]bool{}
	if images.IsManifestType(target.MediaType) {
		return t, t.add(ctx, blobs, target, seen)
	}
	if !images.IsIndexType(target.MediaType) {
		return t, fmt.Errorf("%s is of type %q: want an image manifest or an index", target.Digest, target.MediaType)
	}
	b, err := document(ctx, blobs, target)
	if err != nil {
		return t, err
	}
	t.index = b
	var index ocispecs.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return t, fmt.Errorf("read index %s: %w", target.Digest, err)
	}
	for _, d := range index.Manifests {
		if !images.IsManifestType(d.MediaType) {
			continue
		}
		if r, err := blobs.ReaderAt(ctx, d); err != nil {
			continue
		} else if err := r.Close(); err != nil {
			return t, err
		}
		if err := t.add(ctx, blobs, d, seen); err != nil {
			return t, err
		}
	}
	return t, nil
}

// add reads a manifest and its configuration.
func (t *imageTree) add(ctx context.Context, blobs content.Provider, desc ocispecs.Descriptor, seen map[digest.Digest]bool) error {
	b, err := document(ctx, blobs, desc)
	if err != nil {
		return err
	}
	var m ocispecs.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	out := manifest{desc: desc, bytes: b}
	for _, d := range append([]ocispecs.Descriptor{m.Config}, m.Layers...) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			t.size += d.Size
		}
	}
	if out.config, err = document(ctx, blobs, m.Config); err != nil {
		out.config = nil // as of an artifact, or a platform that nobody fetched
	}
	out.platform = platformOf(desc, out.config)
	t.manifests = append(t.manifests, out)
	return nil
}

// platformOf returns what an image runs on, by its index or else by its
// configuration; "" for what is no image.
func platformOf(desc ocispecs.Descriptor, config []byte) string {
	p := desc.Platform
	if p == nil {
		p = &ocispecs.Platform{}
		if json.Unmarshal(config, p) != nil {
			return ""
		}
	}
	if p.OS == "" || p.OS == "unknown" || p.Architecture == "" {
		return ""
	}
	return platforms.Format(platforms.Normalize(*p))
}

func document(ctx context.Context, blobs content.Provider, desc ocispecs.Descriptor) ([]byte, error) {
	if desc.Size > maxDocument {
		return nil, fmt.Errorf("%s has %d bytes: a manifest or configuration may have %d", desc.Digest, desc.Size, maxDocument)
	}
	return content.ReadBlob(ctx, blobs, desc)
}

package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// ConfigMediaType is that of BuildKit's cache config, see the package's
// documentation.
const ConfigMediaType = "application/vnd.buildkit.cacheconfig.v0"

// parallelBlobs is how many blobs are written at once.
const parallelBlobs = 4

// Target is where a cache is written to.
type Target interface {
	// Put writes a blob unless it is there; a manifest comes after all that it
	// names. open may be called more than once, or not at all.
	Put(ctx context.Context, b ocispecs.Descriptor, sources []string, open Open) error
}

// Open opens a blob.
type Open func(ctx context.Context) (content.ReaderAt, error)

// Manifest says how a cache is wrapped up.
type Manifest struct {
	// Image makes it an image manifest, else it is an index whose entries are the
	// blobs, which not all registries take.
	Image bool
	// OCI is for OCI's media types; without them it must be an index.
	OCI bool
	// Step reports that a part of the work begins; done says that it ended.
	Step func(id string) (done func(error))
}

// Write writes a document and its blobs, and returns what it is found by.
func Write(ctx context.Context, to Target, d *Document, blobs []Blob, m Manifest) (ocispecs.Descriptor, error) {
	data, err := d.Encode()
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	if err := WriteBlobs(ctx, to, blobs, parallelBlobs, m.Step); err != nil {
		return ocispecs.Descriptor{}, err
	}
	config := describe(ConfigMediaType, data)
	if err := m.put(ctx, to, "writing config "+config.Digest.String(), config, data); err != nil {
		return ocispecs.Descriptor{}, err
	}
	desc, data, err := m.encode(config, blobs)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	return desc, m.put(ctx, to, "writing cache manifest "+desc.Digest.String(), desc, data)
}

// WriteBlobs writes blobs, so many at once.
func WriteBlobs(ctx context.Context, to Target, blobs []Blob, parallel int, step func(string) func(error)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, b := range blobs {
		g.Go(func() error {
			done := step("writing layer " + b.Digest.String())
			err := to.Put(ctx, b.Descriptor, b.Sources, b.Open)
			done(err)
			if err != nil {
				return fmt.Errorf("write layer %s to the cache: %w", b.Digest, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (m Manifest) put(ctx context.Context, to Target, id string, desc ocispecs.Descriptor, data []byte) error {
	done := m.Step(id)
	err := to.Put(ctx, desc, nil, func(context.Context) (content.ReaderAt, error) { return Bytes(data), nil })
	done(err)
	if err != nil {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	return nil
}

func (m Manifest) encode(config ocispecs.Descriptor, blobs []Blob) (ocispecs.Descriptor, []byte, error) {
	layers := make([]ocispecs.Descriptor, len(blobs), len(blobs)+1)
	for i, b := range blobs {
		layers[i] = ocispecs.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size}
	}
	var mediaType string
	var v any
	versioned := specs.Versioned{SchemaVersion: 2}
	switch {
	case m.Image && !m.OCI:
		return ocispecs.Descriptor{}, nil, errors.New(`"image-manifest=true" needs "oci-mediatypes=true"`)
	case m.Image:
		mediaType = ocispecs.MediaTypeImageManifest
		v = ocispecs.Manifest{Versioned: versioned, MediaType: mediaType, Config: config, Layers: layers}
	default:
		mediaType = ocispecs.MediaTypeImageIndex
		if !m.OCI {
			mediaType = images.MediaTypeDockerSchema2ManifestList
		}
		v = ocispecs.Index{Versioned: versioned, MediaType: mediaType, Manifests: append(layers, config)}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return ocispecs.Descriptor{}, nil, fmt.Errorf("encode cache manifest: %w", err)
	}
	return describe(mediaType, data), data, nil
}

func describe(mediaType string, data []byte) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// Bytes is a content.ReaderAt over bytes in memory.
type Bytes []byte

// ReadAt implements content.ReaderAt.
func (b Bytes) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(b).ReadAt(p, off) }

// Size implements content.ReaderAt.
func (b Bytes) Size() int64 { return int64(len(b)) }

// Close implements content.ReaderAt.
func (Bytes) Close() error { return nil }

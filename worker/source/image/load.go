package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache/tree"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxManifest and maxConfig bound what is read into memory; registries refuse
	// manifests above 4 MiB (OCI distribution-spec, "Pushing Manifests").
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	// maxIndexDepth bounds indexes within indexes.
	maxIndexDepth = 4
	maxLayers     = 1000

	// Annotations of attestation manifests within an index (BuildKit's
	// docs/attestations/attestation-storage.md).
	annotationRefType   = "vnd.docker.reference.type"
	annotationRefDigest = "vnd.docker.reference.digest"
	typeAttestation     = "attestation-manifest"
)

// Getter returns the bytes of a manifest or config, at most limit, verified
// against desc.Digest.
type Getter func(ctx context.Context, desc ocispecs.Descriptor, limit int64) ([]byte, error)

// Image is one platform's image.
type Image struct {
	// Root is what the reference names: an index or a manifest.
	Root ocispecs.Descriptor
	// Manifest is the platform's manifest; Root itself if that is no index.
	Manifest ocispecs.Descriptor
	// Attestation is the manifest of Manifest's attestations; nil without any.
	Attestation *ocispecs.Descriptor
	// ConfigDesc and Config are the image configuration.
	ConfigDesc ocispecs.Descriptor
	Config     []byte
	// Layers are bottom first, without Source.
	Layers []tree.ImageLayer
}

// Load reads the image for platform p that root leads to. name is what errors
// call it.
func Load(ctx context.Context, get Getter, name string, root ocispecs.Descriptor, p ocispecs.Platform) (*Image, error) {
	img := &Image{Root: root, Manifest: root}
	for depth := 0; ; depth++ {
		data, err := get(ctx, img.Manifest, maxManifest)
		if err != nil {
			return nil, err
		}
		if img.Manifest.MediaType, err = manifestType(data, img.Manifest.MediaType); err != nil {
			return nil, fmt.Errorf("image %s: manifest %s: %w", name, img.Manifest.Digest, err)
		}
		img.Manifest.Size = int64(len(data))
		if depth == 0 {
			img.Root = img.Manifest
		}
		if images.IsManifestType(img.Manifest.MediaType) {
			err := img.readManifest(ctx, get, data)
			if err != nil {
				return nil, fmt.Errorf("image %s: manifest %s: %w", name, img.Manifest.Digest, err)
			}
			return img, nil
		}
		if depth == maxIndexDepth {
			return nil, fmt.Errorf("image %s: more than %d indexes within one another", name, maxIndexDepth)
		}
		if err := img.choose(data, p); err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
	}
}

// manifestType returns the media type that data really has. A document that is
// manifest and index at once, or other than its own mediaType says, is refused
// (CVE-2021-41190).
func manifestType(data []byte, said string) (string, error) {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("parse: %w", err)
	}
	isManifest, isIndex := m.Config != nil || m.Layers != nil, m.Manifests != nil
	switch {
	case m.SchemaVersion == 1 || m.FSLayers != nil:
		return "", errors.New("it has Docker's schema version 1, which is no longer supported: push the image again with a current docker")
	case isManifest && isIndex:
		return "", errors.New("it is a manifest and an index at once")
	case !isManifest && !isIndex:
		return "", errors.New("it is neither an image manifest nor an index")
	}
	for _, mt := range []string{m.MediaType, said} {
		switch {
		case isIndex && images.IsIndexType(mt), isManifest && images.IsManifestType(mt):
			return mt, nil
		case mt == m.MediaType && (images.IsIndexType(mt) || images.IsManifestType(mt)):
			return "", fmt.Errorf("its mediaType %s is not what it is", mt)
		}
	}
	if isIndex {
		return ocispecs.MediaTypeImageIndex, nil
	}
	return ocispecs.MediaTypeImageManifest, nil
}

// choose sets Manifest to what in the index fits p best.
func (img *Image) choose(data []byte, p ocispecs.Platform) error {
	var index ocispecs.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("parse index %s: %w", img.Manifest.Digest, err)
	}
	want := platforms.Only(p)
	var fit []ocispecs.Descriptor
	var have []string
	for _, d := range index.Manifests {
		if d.Annotations[annotationRefType] == typeAttestation {
			continue
		}
		if d.Platform == nil || d.Platform.OS == "" || want.Match(*d.Platform) {
			fit = append(fit, d)
			continue
		}
		have = append(have, platforms.FormatAll(*d.Platform))
	}
	if len(fit) == 0 {
		return fmt.Errorf("it has no manifest for platform %s, only for %s: pass --platform or choose another image", platforms.FormatAll(p), strings.Join(have, ", "))
	}
	slices.SortStableFunc(fit, func(a, b ocispecs.Descriptor) int { return comparePlatform(want, a.Platform, b.Platform) })
	img.Manifest = fit[0]
	if err := img.Manifest.Digest.Validate(); err != nil {
		return fmt.Errorf("index %s: digest %q: %w", img.Root.Digest, img.Manifest.Digest, err)
	}
	for _, d := range index.Manifests {
		if d.Annotations[annotationRefType] == typeAttestation && d.Annotations[annotationRefDigest] == img.Manifest.Digest.String() {
			img.Attestation = &d
		}
	}
	return nil
}

// comparePlatform puts the better match first; a manifest of no platform comes
// last.
func comparePlatform(want platforms.MatchComparer, a, b *ocispecs.Platform) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	case want.Less(*a, *b):
		return -1
	case want.Less(*b, *a):
		return 1
	default:
		return 0
	}
}

func (img *Image) readManifest(ctx context.Context, get Getter, data []byte) error {
	var m ocispecs.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	switch m.Config.MediaType {
	case images.MediaTypeDockerSchema2Config, ocispecs.MediaTypeImageConfig:
	default:
		return fmt.Errorf("its config is %q and not an image configuration: it is an artifact, not a container image", m.Config.MediaType)
	}
	var err error
	img.ConfigDesc = m.Config
	if img.Config, err = get(ctx, m.Config, maxConfig); err != nil {
		return err
	}
	var config ocispecs.Image
	if err := json.Unmarshal(img.Config, &config); err != nil {
		return fmt.Errorf("parse config %s: %w", m.Config.Digest, err)
	}
	img.Layers, err = chain(m.Layers, config.RootFS.DiffIDs)
	return err
}

func chain(layers []ocispecs.Descriptor, diffIDs []digest.Digest) ([]tree.ImageLayer, error) {
	if len(layers) != len(diffIDs) {
		return nil, fmt.Errorf("it has %d layers but its config lists %d diff_ids", len(layers), len(diffIDs))
	}
	if len(layers) > maxLayers {
		return nil, fmt.Errorf("it has %d layers, more than %d", len(layers), maxLayers)
	}
	out := make([]tree.ImageLayer, len(layers))
	for i, l := range layers {
		if !images.IsLayerType(l.MediaType) {
			return nil, fmt.Errorf("its layer %d has type %q, which is no file system layer", i, l.MediaType)
		}
		if err := errors.Join(l.Digest.Validate(), diffIDs[i].Validate()); err != nil {
			return nil, fmt.Errorf("its layer %d: %w", i, err)
		}
		if l.Size < 0 {
			return nil, fmt.Errorf("its layer %d: size %d", i, l.Size)
		}
		out[i] = tree.ImageLayer{DiffID: diffIDs[i], Desc: l}
	}
	return out, nil
}

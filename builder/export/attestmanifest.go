package export

import (
	"context"
	"encoding/json"
	"fmt"

	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// What marks an attestation manifest in an index (BuildKit,
// docs/attestations/attestation-storage.md).
const (
	attestationArtifact  = "application/vnd.docker.attestation.manifest.v1+json"
	annotationRefType    = "vnd.docker.reference.type"
	annotationRefDigest  = "vnd.docker.reference.digest"
	annotationRefDefault = "attestation-manifest"
	annotationPredicate  = "in-toto.io/predicate-type"
)

// attestationPlatform keeps clients from taking the manifest for an image.
var attestationPlatform = ocispecs.Platform{Architecture: "unknown", OS: "unknown"}

// writeAttestations writes one attestation manifest per platform that has
// attestations, and returns them in the order of the platforms.
func (w *writer) writeAttestations(ctx context.Context, in Input, parts []written, attestations map[string][]Attestation, o imageOptions, img *madeImage, r Request) ([]ocispecs.Descriptor, error) {
	names, err := splitNames(o.names(in))
	if err != nil {
		return nil, err
	}
	var out []ocispecs.Descriptor
	for i, p := range in.Platforms {
		list, ok := attestations[p.ID]
		if !ok {
			continue
		}
		if list, err = unbundle(ctx, w.trees, r, list); err != nil {
			return nil, fmt.Errorf("platform %s: %w", p.ID, err)
		}
		for j := range list {
			if list[j], err = w.withLayerIDs(ctx, list[j], p, parts[i].layers, r); err != nil {
				return nil, err
			}
		}
		self, err := imageSubjects(names, p.Platform, parts[i].desc.Digest)
		if err != nil {
			return nil, err
		}
		statements, err := states(ctx, w.trees, r, list, self)
		if err != nil {
			return nil, fmt.Errorf("platform %s: %w", p.ID, err)
		}
		desc, err := writeStatements(ctx, parts[i].desc, statements, o, img, r)
		if err != nil {
			return nil, fmt.Errorf("platform %s: %w", p.ID, err)
		}
		out = append(out, desc)
	}
	return out, nil
}

// writeStatements writes the manifest whose layers are statements about target.
func writeStatements(ctx context.Context, target ocispecs.Descriptor, list []*statement, o imageOptions, img *madeImage, r Request) (ocispecs.Descriptor, error) {
	types := typesOf(o.oci())
	m := ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: types.manifest,
		Layers:    []ocispecs.Descriptor{},
	}
	for _, s := range list {
		data, err := json.Marshal(s)
		if err != nil {
			return ocispecs.Descriptor{}, fmt.Errorf("encode %s attestation: %w", s.PredicateType, err)
		}
		layer := describe(statementMediaType, data)
		if err := img.put(ctx, layer, data); err != nil {
			return ocispecs.Descriptor{}, err
		}
		if o.oci() {
			layer.Annotations = map[string]string{annotationPredicate: s.PredicateType}
		}
		m.Layers = append(m.Layers, layer)
	}
	config, err := statementsConfig(&m, target, o)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	desc, data, err := encode(types.manifest, m)
	if err != nil {
		return desc, err
	}
	err = r.step("exporting attestation manifest "+desc.Digest.String(), func() error {
		if err := img.put(ctx, m.Config, config); err != nil {
			return err
		}
		return img.put(ctx, desc, data)
	})
	desc.Platform = &attestationPlatform
	desc.Annotations = map[string]string{
		annotationRefType:   annotationRefDefault,
		annotationRefDigest: target.Digest.String(),
	}
	return desc, err
}

// statementsConfig sets the config of m and returns its bytes. An OCI artifact
// has the empty one (OCI image-spec, manifest.md, "Guidance for an Empty
// Descriptor"), else it is an image config for tools that know nothing else.
func statementsConfig(m *ocispecs.Manifest, target ocispecs.Descriptor, o imageOptions) ([]byte, error) {
	if o.artifact() {
		m.ArtifactType = attestationArtifact
		m.Subject = &ocispecs.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
		m.Config = ocispecs.DescriptorEmptyJSON
		return ocispecs.DescriptorEmptyJSON.Data, nil
	}
	img := ocispecs.Image{Platform: attestationPlatform, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []godigest.Digest{}}}
	for _, l := range m.Layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, l.Digest)
	}
	config, err := json.Marshal(img)
	if err != nil {
		return nil, fmt.Errorf("encode attestation config: %w", err)
	}
	m.Config = describe(typesOf(o.oci()).config, config)
	return config, nil
}

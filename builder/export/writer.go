package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// writer makes images of inputs and puts what it writes into the blob store.
type writer struct {
	trees Trees
	blobs content.Store
}

// madeImage is what the writer made.
type madeImage struct {
	*blobs
	desc ocispecs.Descriptor
	// config is the digest of the image config; "" for an index.
	config godigest.Digest
	// created is when the image was made, as its config says; nil if it does not.
	created *time.Time
}

// written is the image of one platform.
type written struct {
	desc, config ocispecs.Descriptor
	created      *time.Time
	layers       chain
}

// write makes the image or index that in is for.
func (w *writer) write(ctx context.Context, in Input, o imageOptions, r Request) (*madeImage, error) {
	var err error
	if o.annotations, err = o.annotations.withMetadata(in.Metadata); err != nil {
		return nil, err
	}
	if err := o.annotations.check(in, o.oci()); err != nil {
		return nil, err
	}
	img := &madeImage{blobs: newBlobs(w.blobs, w.trees, r.Provider)}
	img.follow = r.follow
	attestations := o.attestations(in)
	index := in.Multi || len(attestations) > 0
	if err := checkIndex(in, o, index, len(attestations) > 0); err != nil {
		return nil, err
	}
	var chains []chain
	if err := r.step("exporting layers", func() error {
		chains, err = w.exportLayers(ctx, in, o, img.blobs)
		return err
	}); err != nil {
		return nil, err
	}
	parts := make([]written, len(in.Platforms))
	for i, p := range in.Platforms {
		if parts[i], err = w.writeManifest(ctx, in, p, chains[i], o, img, r); err != nil {
			return nil, err
		}
		if t := parts[i].created; t != nil && (img.created == nil || t.After(*img.created)) {
			img.created = t
		}
	}
	if !index {
		img.desc, img.config = parts[0].desc, parts[0].config.Digest
		return img, nil
	}
	extra, err := w.writeAttestations(ctx, in, parts, attestations, o, img, r)
	if err != nil {
		return nil, err
	}
	img.desc, err = w.writeIndex(ctx, parts, extra, o, img, r)
	return img, err
}

// checkIndex refuses what only one kind of output has a place for.
func checkIndex(in Input, o imageOptions, index, attested bool) error {
	if !index {
		if len(in.Platforms) != 1 {
			return fmt.Errorf("cannot export %d platforms as a single image", len(in.Platforms))
		}
		if a := o.annotations.of(nil); len(a.index)+len(a.indexDescriptor) > 0 {
			return errors.New("index annotations not supported for single platform export: there is no index to annotate")
		}
	}
	if attested && !o.oci() {
		return errors.New(`cannot export attestations with "oci-mediatypes=false": Docker's manifest list has no place for them`)
	}
	return nil
}

// writeManifest writes the manifest and config of one platform.
func (w *writer) writeManifest(ctx context.Context, in Input, p Platform, c chain, o imageOptions, img *madeImage, r Request) (written, error) {
	types := typesOf(o.oci())
	var cache []byte
	if in.InlineCache != nil {
		var err error
		if cache, err = in.InlineCache(ctx, p.ID, c.descs); err != nil {
			return written{}, fmt.Errorf("make inline cache: %w", err)
		}
	}
	config, err := imageConfig(p, c, o.epoch.of(in, p), cache)
	if err != nil {
		return written{}, fmt.Errorf("platform %s: %w", p.ID, err)
	}
	annotated := o.annotations.of(&p.Platform)
	out := written{config: describe(types.config, config), layers: c, created: createdOf(config)}
	desc, data, err := encode(types.manifest, ocispecs.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   types.manifest,
		Config:      out.config,
		Layers:      c.descs,
		Annotations: annotated.manifest,
	})
	if err != nil {
		return written{}, err
	}
	if err := r.step("exporting manifest "+desc.Digest.String(), func() error { return img.put(ctx, desc, data) }); err != nil {
		return written{}, err
	}
	if err := r.step("exporting config "+out.config.Digest.String(), func() error { return img.put(ctx, out.config, config) }); err != nil {
		return written{}, err
	}
	out.desc = desc
	out.desc.Platform = &p.Platform
	if len(annotated.manifestDescriptor) > 0 {
		out.desc.Annotations = maps.Clone(annotated.manifestDescriptor)
	}
	return out, nil
}

// writeIndex writes the index of all platforms, attestations last: clients take
// the first manifest that suits them.
func (w *writer) writeIndex(ctx context.Context, parts []written, attestations []ocispecs.Descriptor, o imageOptions, img *madeImage, r Request) (ocispecs.Descriptor, error) {
	types := typesOf(o.oci())
	annotated := o.annotations.of(nil)
	index := ocispecs.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   types.index,
		Annotations: annotated.index,
	}
	for _, p := range parts {
		index.Manifests = append(index.Manifests, p.desc)
	}
	index.Manifests = append(index.Manifests, attestations...)
	desc, data, err := encode(types.index, index)
	if err != nil {
		return desc, err
	}
	if len(annotated.indexDescriptor) > 0 {
		desc.Annotations = annotated.indexDescriptor
	}
	return desc, r.step("exporting manifest list "+desc.Digest.String(), func() error { return img.put(ctx, desc, data) })
}

package export

import (
	"errors"
	"fmt"
	"strings"

	"github.com/buildd/buildd/cache/layer"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// imageOptions are the attributes that every exporter of images has.
type imageOptions struct {
	name             string
	compression      layer.Compression
	epoch            epoch
	annotations      annotations
	rewriteTimestamp bool
	preferNondist    bool
	// inlineOnly says whether attestations are written that only make sense
	// beside an image in a registry.
	inlineOnly bool

	ociTypes    *bool // nil: by default
	ociArtifact *bool // nil: as ociTypes
}

// parseImageOptions takes what it knows out of a.
func parseImageOptions(a attrs, inlineOnly bool) (imageOptions, error) {
	o := imageOptions{inlineOnly: inlineOnly}
	var err error
	if o.annotations, err = takeAnnotations(a); err != nil {
		return o, err
	}
	if o.epoch, err = a.epoch(); err != nil {
		return o, err
	}
	if o.compression, err = takeCompression(a); err != nil {
		return o, err
	}
	if o.ociTypes, err = a.optional(string(exptypes.OptKeyOCITypes)); err != nil {
		return o, err
	}
	if o.ociArtifact, err = a.optional(string(exptypes.OptKeyOCIArtifact)); err != nil {
		return o, err
	}
	o.name, _ = a.take(string(exptypes.OptKeyName))
	if err := a.flags(map[string]*bool{
		string(exptypes.OptKeyForceInlineAttestations): &o.inlineOnly,
		string(exptypes.OptKeyPreferNondistLayers):     &o.preferNondist,
		string(exptypes.OptKeyRewriteTimestamp):        &o.rewriteTimestamp,
	}); err != nil {
		return o, err
	}
	if _, err := splitNames(o.name); err != nil {
		return o, err
	}
	return o, o.validate()
}

func (o imageOptions) validate() error {
	if o.oci() {
		return nil
	}
	if o.compression.Type == layer.Zstd {
		return errors.New(`exporter option "compression=zstd" conflicts with "oci-mediatypes=false": there is no such Docker media type`)
	}
	if o.ociArtifact != nil && *o.ociArtifact {
		return errors.New(`exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"`)
	}
	for _, a := range o.annotations {
		if a.needOCI() {
			return errors.New(errAnnotationsDocker)
		}
	}
	return nil
}

// oci tells whether media types are those of OCI: by default, as BuildKit has it
// since v0.31.
func (o imageOptions) oci() bool { return o.ociTypes == nil || *o.ociTypes }

// artifact tells whether attestation manifests are OCI artifacts.
func (o imageOptions) artifact() bool {
	if o.ociArtifact == nil {
		return o.oci()
	}
	return *o.ociArtifact
}

// names returns the names of the image; "*" asks for those that the frontend
// found.
func (o imageOptions) names(in Input) string {
	if v, ok := in.Metadata[exptypes.ExporterImageNameKey]; ok && o.name == "*" {
		return string(v)
	}
	return o.name
}

// splitNames splits a comma-separated list and refuses what is no reference.
func splitNames(list string) ([]string, error) {
	if list == "" || list == "*" {
		return nil, nil
	}
	var out []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if _, err := reference.ParseNormalizedNamed(name); err != nil {
			return nil, fmt.Errorf("image name %q: %w", name, err)
		}
		out = append(out, name)
	}
	return out, nil
}

// takeCompression takes the attributes that layer.ParseCompression reads.
func takeCompression(a attrs) (layer.Compression, error) {
	c, err := layer.ParseCompression(a)
	a.take(string(exptypes.OptKeyLayerCompression))
	a.take(string(exptypes.OptKeyForceCompression))
	a.take(string(exptypes.OptKeyCompressionLevel))
	return c, err
}

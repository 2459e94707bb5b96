package export

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const errAnnotationsDocker = `cannot export annotations with "oci-mediatypes=false": Docker's manifest list has no place for them`

// annotations are what users add to manifests, by platform ("" for all).
type annotations map[string]annotated

// annotated says where annotations of one platform go.
type annotated struct {
	index, indexDescriptor, manifest, manifestDescriptor map[string]string
}

// needOCI tells whether there are some that Docker's types have no place for.
func (a annotated) needOCI() bool {
	return len(a.index)+len(a.indexDescriptor)+len(a.manifestDescriptor) > 0
}

// takeAnnotations takes annotation[-TYPE][PLATFORM].KEY out of a.
func takeAnnotations(a attrs) (annotations, error) {
	out := annotations{}
	for k, v := range a {
		ok, err := out.add(k, v)
		if err != nil {
			return nil, err
		}
		if ok {
			delete(a, k)
		}
	}
	return out, nil
}

// withMetadata adds the annotations that a frontend asks for; they win over
// those of the exporter's attributes.
func (a annotations) withMetadata(metadata map[string][]byte) (annotations, error) {
	out := annotations{}
	for p, v := range a {
		out[p] = v.clone()
	}
	for k, v := range metadata {
		if _, err := out.add(k, string(v)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a annotations) add(attr, value string) (bool, error) {
	k, ok, err := exptypes.ParseAnnotationKey(attr)
	if err != nil {
		return true, fmt.Errorf("annotation %q: %w", attr, err)
	}
	if !ok {
		return false, nil
	}
	at, ok := a[k.PlatformString()]
	if !ok {
		at = annotated{map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}}
		a[k.PlatformString()] = at
	}
	switch k.Type {
	case exptypes.AnnotationIndex:
		at.index[k.Key] = value
	case exptypes.AnnotationIndexDescriptor:
		at.indexDescriptor[k.Key] = value
	case exptypes.AnnotationManifest:
		at.manifest[k.Key] = value
	case exptypes.AnnotationManifestDescriptor:
		at.manifestDescriptor[k.Key] = value
	default:
		return true, fmt.Errorf("annotation %q: unknown type %q", attr, k.Type)
	}
	return true, nil
}

// check refuses annotations for platforms that were not built, or that the kind
// of output has no place for.
func (a annotations) check(in Input, oci bool) error {
	var built []string
	for _, p := range in.Platforms {
		built = append(built, p.ID, platforms.FormatAll(p.Platform))
	}
	for p, at := range a {
		// A single result may be for no platform in particular, so there an
		// annotation for another platform is only useless.
		if in.Multi && p != "" && !slices.Contains(built, p) {
			return fmt.Errorf("invalid annotation: no platform %s found in source", p)
		}
		if !oci && at.needOCI() {
			return errors.New(errAnnotationsDocker)
		}
	}
	return nil
}

// of returns what goes to the manifest of p, nil for none. Annotations of an
// index belong to all platforms, wherever they were written.
func (a annotations) of(p *ocispecs.Platform) annotated {
	out := annotated{map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}}
	for _, k := range slices.Sorted(maps.Keys(a)) {
		maps.Copy(out.index, a[k].index)
		maps.Copy(out.indexDescriptor, a[k].indexDescriptor)
	}
	keys := []string{""}
	if p != nil {
		keys = append(keys, platforms.FormatAll(*p))
	}
	for _, k := range keys {
		maps.Copy(out.manifest, a[k].manifest)
		maps.Copy(out.manifestDescriptor, a[k].manifestDescriptor)
	}
	return out
}

func (a annotated) clone() annotated {
	return annotated{maps.Clone(a.index), maps.Clone(a.indexDescriptor), maps.Clone(a.manifest), maps.Clone(a.manifestDescriptor)}
}

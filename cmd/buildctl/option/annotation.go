package option

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var annotationLevel = regexp.MustCompile(`^([a-z-]+)(?:\[([A-Za-z0-9_/.-]+)\])?$`)

// Annotate puts the values of --annotation, [LEVEL[PLATFORM],...:]KEY=VALUE, on
// the images among outputs.
func Annotate(outputs []client.ExportEntry, values []string) error {
	for _, s := range values {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q: want [LEVEL:]KEY=VALUE", s)
		}
		levels := exptypes.AnnotationManifest
		if l, rest, ok := strings.Cut(k, ":"); ok && annotationLevels(l) {
			levels, k = l, rest
		}
		for l := range strings.SplitSeq(levels, ",") {
			key, err := annotationKey(l, k)
			if err != nil {
				return fmt.Errorf("%q: %w", s, err)
			}
			for _, e := range outputs {
				if IsImage(e) {
					e.Attrs[key.String()] = v
				}
			}
		}
	}
	return nil
}

// annotationLevels tells levels from the beginning of a key with a colon.
func annotationLevels(s string) bool {
	for l := range strings.SplitSeq(s, ",") {
		if !annotationLevel.MatchString(l) {
			return false
		}
	}
	return true
}

func annotationKey(level, key string) (exptypes.AnnotationKey, error) {
	m := annotationLevel.FindStringSubmatch(level)
	out := exptypes.AnnotationKey{Type: m[1], Key: key}
	switch out.Type {
	case exptypes.AnnotationIndex, exptypes.AnnotationIndexDescriptor, exptypes.AnnotationManifest, exptypes.AnnotationManifestDescriptor:
	default:
		return out, fmt.Errorf("level %q: want manifest, manifest-descriptor, index or index-descriptor", out.Type)
	}
	if m[2] != "" {
		p, err := platforms.Parse(m[2])
		if err != nil {
			return out, fmt.Errorf("platform %q: %w", m[2], err)
		}
		p = platforms.Normalize(p)
		out.Platform = &ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	}
	return out, nil
}

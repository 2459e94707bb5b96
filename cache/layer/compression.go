package layer

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Type is how a layer's tar is compressed.
type Type uint8

// The types of compression.
const (
	Uncompressed Type = iota
	Gzip
	Zstd
)

var typeNames = [...]string{Uncompressed: "uncompressed", Gzip: "gzip", Zstd: "zstd"}

// String is the type's name as exporter attributes have it.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return "compression type " + strconv.Itoa(int(t))
}

// MarshalText writes the type's name.
func (t Type) MarshalText() ([]byte, error) {
	if int(t) >= len(typeNames) {
		return nil, fmt.Errorf("marshal %s: unknown", t)
	}
	return []byte(t.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (t *Type) UnmarshalText(b []byte) error {
	v, err := parseType(string(b))
	if err == nil {
		*t = v
	}
	return err
}

func parseType(s string) (Type, error) {
	i := slices.Index(typeNames[:], s)
	if i < 0 {
		return 0, fmt.Errorf("unknown compression %q: want %s", s, strings.Join(typeNames[:], ", "))
	}
	return Type(i), nil
}

// DefaultLevel leaves the level to the type.
const DefaultLevel = -1

// Compression says how layers are to be compressed.
type Compression struct {
	Type Type
	// Level is 0 to 9 for gzip and 0 to 22 for zstd, or DefaultLevel.
	Level int
	// Force wants it of layers, too, that exist as blobs in another compression.
	Force bool
}

// Exporter attributes that ParseCompression reads.
const (
	attrCompression = "compression"
	attrLevel       = "compression-level"
	attrForce       = "force-compression"
)

// ParseCompression reads the exporter attributes compression, compression-level
// and force-compression; the default is gzip. Other attributes are left alone.
func ParseCompression(attrs map[string]string) (Compression, error) {
	c := Compression{Type: Gzip, Level: DefaultLevel}
	if v, ok := attrs[attrCompression]; ok {
		t, err := parseType(v)
		if err != nil {
			return Compression{}, fmt.Errorf("attribute %s: %w", attrCompression, err)
		}
		c.Type = t
	}
	if v, ok := attrs[attrForce]; ok {
		c.Force = true
		if v != "" {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return Compression{}, fmt.Errorf("attribute %s: %q is no boolean: want true or false", attrForce, v)
			}
			c.Force = b
		}
	}
	if v, ok := attrs[attrLevel]; ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > c.Type.maxLevel() {
			return Compression{}, fmt.Errorf("attribute %s: %q is no level of %s: want 0 to %d", attrLevel, v, c.Type, c.Type.maxLevel())
		}
		c.Level = n
	}
	return c, nil
}

// maxLevel is the highest level; what is not compressed takes any that another
// type has, as clients send the attribute whatever the type is.
func (t Type) maxLevel() int {
	if t == Gzip {
		return 9
	}
	return 22
}

// Media types of Docker's image manifest, version 2, schema 2, and of what its
// registries were later seen to hold.
const (
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerForeign = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	// The OCI image-spec deprecates these, images that have them remain.
	ociNondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// mediaTypes are those of OCI and Docker for each type.
var mediaTypes = [...]struct{ oci, docker string }{
	Uncompressed: {ocispecs.MediaTypeImageLayer, dockerLayer},
	Gzip:         {ocispecs.MediaTypeImageLayerGzip, dockerLayer + ".gzip"},
	Zstd:         {ocispecs.MediaTypeImageLayerZstd, dockerLayer + ".zstd"},
}

// MediaType is the media type of a layer compressed so, of OCI or of Docker. It
// is "" for an unknown type.
func (c Compression) MediaType(oci bool) string {
	switch {
	case int(c.Type) >= len(mediaTypes):
		return ""
	case oci:
		return mediaTypes[c.Type].oci
	default:
		return mediaTypes[c.Type].docker
	}
}

var typeByMedia = func() map[string]Type {
	m := map[string]Type{}
	for t, mt := range mediaTypes {
		m[mt.oci], m[mt.docker] = Type(t), Type(t)
		_, suffix, _ := strings.Cut(mt.oci, "+")
		sep := ""
		if suffix != "" {
			sep = "+"
		}
		m[ociNondistributable+sep+suffix] = Type(t)
		m[strings.Replace(mt.docker, dockerLayer, dockerLayerForeign, 1)] = Type(t)
	}
	return m
}()

// TypeOf returns the compression that a layer's media type names, of OCI or
// Docker, distributable or not.
func TypeOf(mediaType string) (Type, error) {
	t, ok := typeByMedia[mediaType]
	if !ok {
		known := slices.Sorted(maps.Keys(typeByMedia))
		return 0, fmt.Errorf("media type %q is not that of a layer: want one of %s", mediaType, strings.Join(known, ", "))
	}
	return t, nil
}

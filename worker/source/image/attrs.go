package image

import (
	"fmt"
	"strconv"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

type attrs struct {
	mode     string
	limit    int
	checksum digest.Digest
}

// parseAttrs reads the attributes of a docker-image source. Unknown ones do not
// count, as in BuildKit.
func parseAttrs(in map[string]string) (attrs, error) {
	var a attrs
	var err error
	for k, v := range in {
		switch k {
		case pb.AttrImageResolveMode:
			a.mode = v
		case pb.AttrImageLayerLimit:
			if a.limit, err = ParseLimit(v); err != nil {
				return a, err
			}
		case pb.AttrImageChecksum:
			if a.checksum, err = digest.Parse(v); err != nil {
				return a, fmt.Errorf("%s %q: %w: want sha256:DIGEST", k, v, err)
			}
		case pb.AttrImageRecordType:
			switch v {
			case "", "regular", "internal", "frontend":
			default:
				return a, fmt.Errorf("%s %q: want regular, internal or frontend", k, v)
			}
		}
	}
	return a, nil
}

// ParseLimit reads a number of layers.
func ParseLimit(v string) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("layer limit %q: want a number above 0", v)
	}
	return n, nil
}

// mode is where an image is looked for first.
type mode int

const (
	localFirst mode = iota
	registryFirst
)

func parseMode(v string) (mode, error) {
	switch v {
	case "", pb.AttrImageResolveModeDefault, pb.AttrImageResolveModePreferLocal:
		return localFirst, nil
	case pb.AttrImageResolveModeForcePull:
		return registryFirst, nil
	default:
		return 0, fmt.Errorf("%s %q: want default, pull or local", pb.AttrImageResolveMode, v)
	}
}

package export

import (
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerTypes are the media types of layers, OCI's and Docker's for the same
// (Docker has no non-distributable zstd layer).
var layerTypes = []struct{ oci, docker string }{
	{ocispecs.MediaTypeImageLayer, images.MediaTypeDockerSchema2Layer},
	{ocispecs.MediaTypeImageLayerGzip, images.MediaTypeDockerSchema2LayerGzip},
	{ocispecs.MediaTypeImageLayerZstd, images.MediaTypeDockerSchema2LayerZstd},
	{nondistLayer, images.MediaTypeDockerSchema2LayerForeign},
	{nondistLayer + "+gzip", images.MediaTypeDockerSchema2LayerForeignGzip},
	{nondistLayer + "+zstd", ""},
}

// nondistLayer is the type of layers that must not be pushed, which OCI
// deprecated and Windows' base images still have.
const nondistLayer = "application/vnd.oci.image.layer.nondistributable.v1.tar"

// layerType returns mt as OCI or Docker calls it. A type that neither knows is
// returned as it is: it came with an image that somebody could read.
func layerType(mt string, oci, keepNondist bool) string {
	for _, t := range layerTypes {
		if mt != t.oci && mt != t.docker {
			continue
		}
		if !keepNondist && strings.HasPrefix(t.oci, nondistLayer) {
			return layerType(ocispecs.MediaTypeImageLayer+strings.TrimPrefix(t.oci, nondistLayer), oci, true)
		}
		if oci || t.docker == "" {
			return t.oci
		}
		return t.docker
	}
	return mt
}

// imageTypes are the media types of what is not a layer.
type imageTypes struct{ index, manifest, config string }

func typesOf(oci bool) imageTypes {
	if oci {
		return imageTypes{ocispecs.MediaTypeImageIndex, ocispecs.MediaTypeImageManifest, ocispecs.MediaTypeImageConfig}
	}
	return imageTypes{
		images.MediaTypeDockerSchema2ManifestList,
		images.MediaTypeDockerSchema2Manifest,
		images.MediaTypeDockerSchema2Config,
	}
}

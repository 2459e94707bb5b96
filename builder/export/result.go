package export

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// result tells the client what was made. desc is img's descriptor as the
// exporter shows it.
func (img *madeImage) result(desc ocispecs.Descriptor) (*Result, error) {
	data, err := json.Marshal(desc)
	if err != nil {
		return nil, fmt.Errorf("encode descriptor: %w", err)
	}
	response := map[string]string{
		exptypes.ExporterImageDigestKey:     desc.Digest.String(),
		exptypes.ExporterImageDescriptorKey: base64.StdEncoding.EncodeToString(data),
	}
	if img.config != "" {
		response[exptypes.ExporterImageConfigDigestKey] = img.config.String()
	}
	return &Result{Response: response, Descriptor: &desc}, nil
}

package dockerfile

import (
	"encoding/json"
	"fmt"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// input is the result of another build that the client sent along as a definition, with its metadata in an option.
func (n *namedContext) input(name string) (*llb.State, *dockerspec.DockerOCIImage, error) {
	st, ok := n.inputs[name]
	if !ok {
		return nil, nil, fmt.Errorf("no input %q was sent with the request", name)
	}
	key := prefixInputMeta + name
	value, ok := n.Opts[key]
	if !ok {
		return &st, nil, nil
	}
	var meta map[string][]byte
	if err := json.Unmarshal([]byte(value), &meta); err != nil {
		return nil, nil, optionError(key, value, "a JSON object of base64 strings", err)
	}
	config, ok := meta[exptypes.ExporterImageConfigKey]
	if !ok {
		return &st, nil, nil
	}
	st, err := st.WithImageConfig(config)
	if err != nil {
		return nil, nil, err
	}
	// Its time stays, unlike that of an image from outside: it was made for this build.
	var img *dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, nil, fmt.Errorf("parse image config: %w", err)
	}
	return &st, img, nil
}

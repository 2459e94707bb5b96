package build

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// keep writes down what the exporters said: for --metadata-file, --iidfile and
// --quiet.
func (r *request) keep(response map[string]string) error {
	if r.metadataFile != "" {
		b, err := metadata(response)
		if err != nil {
			return err
		}
		if err := writeFile("--metadata-file", r.metadataFile, b); err != nil {
			return err
		}
	}
	id := response[exptypes.ExporterImageDigestKey]
	if id == "" {
		id = response[exptypes.ExporterImageConfigDigestKey]
	}
	if r.iidFile != "" {
		if id == "" {
			return fmt.Errorf("--iidfile %s: the outputs hold no image that has a digest: want type=image, oci or docker", r.iidFile)
		}
		if err := writeFile("--iidfile", r.iidFile, []byte(id)); err != nil {
			return err
		}
	}
	if r.quiet && id != "" && r.call == nil {
		fmt.Println(id)
	}
	return nil
}

// metadata makes JSON of what exporters said. Values that are JSON in base64
// become what they stand for.
func metadata(response map[string]string) ([]byte, error) {
	out := make(map[string]any, len(response))
	for k, v := range response {
		out[k] = v
		b, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			continue
		}
		var object map[string]any
		if json.Unmarshal(b, &object) == nil && len(object) > 0 {
			out[k] = json.RawMessage(b)
		}
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write metadata: %w", err)
	}
	return b, nil
}

// writeFile writes a file that is there whole or not at all.
func writeFile(flag, path string, b []byte) error {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() { // such as /dev/stdout
		if err := os.WriteFile(path, b, 0o666); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	defer os.Remove(f.Name()) // after the rename there is nothing
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

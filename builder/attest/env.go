package attest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ReadEnv reads what a daemon's provenance tells of its surroundings: the fields
// of the JSON objects in the files *.json of dir. A dir that
// is not there has none.
func ReadEnv(dir string) (map[string]any, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read provenance environment: %w", err)
	}
	env := map[string]any{}
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read provenance environment: %w", err)
		}
		if err := json.Unmarshal(data, &env); err != nil {
			return nil, fmt.Errorf("read provenance environment %s: want a JSON object: %w", path, err)
		}
	}
	for _, own := range []string{"buildConfig", "builderPlatform", "platform", "targetPlatform", "dockerfileVersion"} {
		if _, ok := env[own]; ok {
			return nil, fmt.Errorf("provenance environment %s: the key %q is builtin and cannot be set", dir, own)
		}
	}
	return env, nil
}

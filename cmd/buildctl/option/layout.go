package option

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/tonistiigi/fsutil"
)

// Layout opens an OCI layout directory for reading.
func Layout(dir string) (content.Store, error) {
	if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
		if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
			return nil, fmt.Errorf("%s is no OCI layout: it has neither oci-layout nor index.json", dir)
		}
	}
	s, err := local.NewStore(dir)
	if err != nil {
		return nil, fmt.Errorf("open OCI layout: %w", err)
	}
	return s, nil
}

// Layouts reads the values of --oci-layout, ID=DIR.
func Layouts(values []string) (map[string]content.Store, error) {
	dirs, err := Pairs(values)
	if err != nil {
		return nil, err
	}
	out := make(map[string]content.Store, len(dirs))
	for id, dir := range dirs {
		if out[id], err = Layout(dir); err != nil {
			return nil, fmt.Errorf("%q: %w", id+"="+dir, err)
		}
	}
	return out, nil
}

// Locals reads the values of --local, NAME=DIR.
func Locals(values []string) (map[string]fsutil.FS, error) {
	dirs, err := Pairs(values)
	if err != nil {
		return nil, err
	}
	out := make(map[string]fsutil.FS, len(dirs))
	for name, dir := range dirs {
		if out[name], err = fsutil.NewFS(dir); err != nil {
			return nil, fmt.Errorf("%q: %w: want a directory", name+"="+dir, err)
		}
	}
	return out, nil
}

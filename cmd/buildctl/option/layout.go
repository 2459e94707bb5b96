package option

import (
	"fmt"

	"github.com/buildd/buildd/cmd/buildctl/layout"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/tonistiigi/fsutil"
)

// Layouts reads the values of --oci-layout, ID=DIR.
func Layouts(values []string) (map[string]content.Store, error) {
	dirs, err := Pairs(values)
	if err != nil {
		return nil, err
	}
	out := make(map[string]content.Store, len(dirs))
	for id, dir := range dirs {
		if out[id], err = layout.Open(dir); err != nil {
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

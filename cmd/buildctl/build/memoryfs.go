package build

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// memoryFS is a directory of files that lie nowhere, such as a Dockerfile from
// standard input.
type memoryFS map[string][]byte

var _ fsutil.FS = memoryFS{}

// Walk implements fsutil.FS: of a target only that file, if it is there.
func (m memoryFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if target != "" && target != "." && target != "/" && target != name {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		st := &types.Stat{Path: name, Mode: 0o644, Size: int64(len(m[name]))}
		if err := fn(name, &fsutil.DirEntryInfo{Stat: st}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Open implements fsutil.FS.
func (m memoryFS) Open(name string) (io.ReadCloser, error) {
	b, ok := m[name]
	if !ok {
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

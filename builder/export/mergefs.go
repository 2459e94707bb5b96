package export

import (
	"bytes"
	"context"
	"errors"
	"io"
	gofs "io/fs"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// mergedFS lays file systems over each other: of a path that several have, the
// last one's is seen.
type mergedFS []fsutil.FS

// errStop ends a walk that nobody wants the rest of.
var errStop = errors.New("walk stopped")

type walked struct {
	path  string
	entry gofs.DirEntry
	err   error
}

// Walk implements fsutil.FS.
func (m mergedFS) Walk(ctx context.Context, target string, fn gofs.WalkDirFunc) error {
	nexts := make([]func() (walked, bool), len(m))
	heads := make([]*walked, len(m))
	advance := func(i int) {
		heads[i] = nil
		if w, ok := nexts[i](); ok {
			heads[i] = &w
		}
	}
	for i, fs := range m {
		next, stop := iter.Pull(entries(ctx, fs, target))
		defer stop()
		nexts[i] = next
		advance(i)
	}
	for {
		var least *walked
		for _, h := range heads {
			if h != nil && (least == nil || comparePaths(h.path, least.path) <= 0) {
				least = h
			}
		}
		if least == nil {
			return nil
		}
		if least.entry == nil {
			return least.err
		}
		if err := fn(least.path, least.entry, least.err); err != nil {
			return err
		}
		for i, h := range heads {
			if h != nil && h.path == least.path {
				advance(i)
			}
		}
	}
}

// entries is a walk as an iterator. An error ends it with an element that has
// no entry.
func entries(ctx context.Context, fs fsutil.FS, target string) iter.Seq[walked] {
	return func(yield func(walked) bool) {
		err := fs.Walk(ctx, target, func(p string, e gofs.DirEntry, err error) error {
			if !yield(walked{p, e, err}) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(walked{err: err})
		}
	}
}

// Open implements fsutil.FS.
func (m mergedFS) Open(p string) (io.ReadCloser, error) {
	for _, fs := range slices.Backward(m) {
		f, err := fs.Open(p)
		if !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
	}
	return nil, &os.PathError{Op: "open", Path: p, Err: os.ErrNotExist}
}

// comparePaths is the order of walks: a directory's files come right after it.
func comparePaths(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

// memFS is files without directories.
type memFS map[string]memFile

type memFile struct {
	stat *fstypes.Stat
	data []byte
}

// Walk implements fsutil.FS.
func (m memFS) Walk(_ context.Context, target string, fn gofs.WalkDirFunc) error {
	var names []string
	for name := range m {
		if t := strings.Trim(target, "/"); t == "" || t == name {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := fn(name, &fsutil.DirEntryInfo{Stat: m[name].stat.Clone()}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Open implements fsutil.FS.
func (m memFS) Open(p string) (io.ReadCloser, error) {
	f, ok := m[strings.TrimPrefix(p, "/")]
	if !ok {
		return nil, &os.PathError{Op: "open", Path: p, Err: os.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(f.data)), nil
}

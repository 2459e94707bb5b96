package export

import (
	"context"
	"fmt"
	"io"

	"github.com/buildd/buildd/cache/layer"
	"github.com/tonistiigi/fsutil"
)

// tarball sends the root file system as one tar.
type tarball struct {
	files *rootfs
	o     fileOptions
}

func newTar(f *rootfs, attrs map[string]string) (Exporter, error) {
	o, err := parseFileOptions(attrs)
	if err != nil {
		return nil, err
	}
	return &tarball{files: f, o: o}, nil
}

func (t *tarball) Type() string                    { return TypeTar }
func (t *tarball) Name() string                    { return "exporting to client tarball" }
func (t *tarball) Compression() *layer.Compression { return nil }

func (t *tarball) Export(ctx context.Context, in Input, r Request) (*Result, error) {
	fs, err := t.open(ctx, in, r)
	if err != nil {
		return nil, err
	}
	return &Result{}, r.step("sending tarball", func() error {
		return r.sendFile(ctx, nil, func(ctx context.Context, w io.Writer) error {
			return fsutil.WriteTar(ctx, fs, w)
		})
	})
}

func (t *tarball) open(ctx context.Context, in Input, r Request) (fsutil.FS, error) {
	o := t.o
	o.split = nil // a tar of several platforms always has directories
	var dirs []fsutil.Dir
	for _, p := range in.Platforms {
		fs, err := t.files.open(ctx, in, p, o, r)
		if err != nil {
			return nil, fmt.Errorf("platform %s: %w", p.ID, err)
		}
		if !in.Multi {
			return fs, nil
		}
		dirs = append(dirs, inDir(in, p, o, fs))
	}
	return fsutil.SubDirFS(dirs)
}

// Package layout reads OCI image layouts (image-spec, image-layout.md) without
// leaving a trace in them. [Open] returns a content.Store that a session can
// offer to a daemon; it can only be read.
package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is a layout's blobs.
type Store struct{ dir string }

var _ content.Store = Store{}

// Open opens the layout in dir.
func Open(dir string) (Store, error) {
	for _, name := range []string{ocispecs.ImageLayoutFile, ocispecs.ImageIndexFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return Store{dir}, nil
		}
	}
	return Store{}, fmt.Errorf("%s is no OCI layout: it has neither %s nor %s", dir, ocispecs.ImageLayoutFile, ocispecs.ImageIndexFile)
}

// Index returns what the layout lists.
func (s Store) Index() (ocispecs.Index, error) {
	var idx ocispecs.Index
	b, err := os.ReadFile(filepath.Join(s.dir, ocispecs.ImageIndexFile))
	if err != nil {
		return idx, fmt.Errorf("read index of OCI layout: %w", err)
	}
	if err := json.Unmarshal(b, &idx); err != nil {
		return idx, fmt.Errorf("read index of OCI layout: %w", err)
	}
	return idx, nil
}

// path returns where a blob lies. A digest is checked before it is a path.
func (s Store) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("blob %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(s.dir, ocispecs.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

func notFound(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: not in the OCI layout: %w", d, errdefs.ErrNotFound)
	}
	return fmt.Errorf("blob %s: %w", d, err)
}

// Info implements content.InfoProvider.
func (s Store) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	p, err := s.path(d)
	if err != nil {
		return content.Info{}, err
	}
	fi, err := os.Stat(p)
	if err != nil {
		return content.Info{}, notFound(d, err)
	}
	return content.Info{Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}, nil
}

// ReaderAt implements content.Provider.
func (s Store) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	p, err := s.path(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, notFound(desc.Digest, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, notFound(desc.Digest, err)
	}
	return blob{f, fi.Size()}, nil
}

type blob struct {
	*os.File
	size int64
}

func (b blob) Size() int64 { return b.size }

var errReadOnly = fmt.Errorf("an OCI layout is only read: %w", errdefs.ErrNotImplemented)

// Writer implements content.Ingester; it always fails.
func (Store) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errReadOnly
}

// Update implements content.Manager; it always fails.
func (Store) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errReadOnly
}

// Walk implements content.Manager; it always fails: nobody needs a list.
func (Store) Walk(context.Context, content.WalkFunc, ...string) error { return errReadOnly }

// Delete implements content.Manager; it always fails.
func (Store) Delete(context.Context, digest.Digest) error { return errReadOnly }

// Status implements content.IngestManager; it always fails.
func (Store) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errReadOnly
}

// ListStatuses implements content.IngestManager: nothing is on its way in.
func (Store) ListStatuses(context.Context, ...string) ([]content.Status, error) { return nil, nil }

// Abort implements content.IngestManager; it always fails.
func (Store) Abort(context.Context, string) error { return errReadOnly }

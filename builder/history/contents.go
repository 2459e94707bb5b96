package history

import (
	"bytes"
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Contents is the blob store together with the blobs of records that are not
// written yet.
func (s *Store) Contents() content.Store { return contents{s.Blobs, s} }

type contents struct {
	content.Store
	history *Store
}

// Info implements content.Store.
func (c contents) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	if b, ok := c.history.pendingBlob(d); ok {
		return content.Info{Digest: d, Size: int64(len(b))}, nil
	}
	return c.Store.Info(ctx, d)
}

// ReaderAt implements content.Store.
func (c contents) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if b, ok := c.history.pendingBlob(desc.Digest); ok {
		return blobReader{bytes.NewReader(b)}, nil
	}
	return c.Store.ReaderAt(ctx, desc)
}

func (s *Store) pendingBlob(d digest.Digest) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.late.blobs[d]
	return b, ok
}

type blobReader struct{ *bytes.Reader }

func (blobReader) Close() error { return nil }

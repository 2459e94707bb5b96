package tree

import (
	"context"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// KnownBlob returns a blob of a layer that is known already: the one that an
// image came with, wherever it is, or the last one that was packed here. Nothing
// is made or fetched. The error of a layer without one is cache.ErrNotFound.
func (s *Store) KnownBlob(ctx context.Context, id cache.LayerID) (ocispecs.Descriptor, error) {
	s.mu.Lock()
	r, err := s.recordLocked(id)
	if err != nil {
		s.mu.Unlock()
		return ocispecs.Descriptor{}, err
	}
	info, blobs := r.infoLocked(), append([]packed(nil), r.Packed...)
	s.mu.Unlock()
	if info.Desc != nil {
		return *info.Desc, nil
	}
	for i := len(blobs) - 1; i >= 0; i-- {
		if b := blobs[i]; s.cfg.Blobs.Has(ctx, b.Digest) {
			c := layer.Compression{Type: b.Type}
			return ocispecs.Descriptor{MediaType: c.MediaType(true), Digest: b.Digest, Size: b.Bytes}, nil
		}
	}
	return ocispecs.Descriptor{}, cache.ErrNotFound
}

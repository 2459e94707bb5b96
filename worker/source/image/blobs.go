package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/buildd/buildd/worker/registry"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReadStored reads a small blob of a content store and verifies it. A blob that
// is not there is errdefs.ErrNotFound.
func ReadStored(ctx context.Context, s content.Store, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	info, err := s.Info(ctx, desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	if info.Size > limit {
		return nil, fmt.Errorf("blob %s: %d bytes are more than the limit of %d", desc.Digest, info.Size, limit)
	}
	desc.Size = info.Size
	data, err := content.ReadBlob(ctx, s, desc)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	return data, verify(desc.Digest, data)
}

func verify(want digest.Digest, data []byte) error {
	if have := want.Algorithm().FromBytes(data); have != want {
		return fmt.Errorf("blob %s: its content has the digest %s", want, have)
	}
	return nil
}

// Keep puts a small verified blob into a store.
func Keep(ctx context.Context, s content.Store, desc ocispecs.Descriptor, data []byte) error {
	desc.Size = int64(len(data))
	err := content.WriteBlob(ctx, s, "source-"+desc.Digest.String(), bytes.NewReader(data), desc)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("keep blob %s: %w", desc.Digest, err)
	}
	return nil
}

// stored reads only from the own blob store.
func (l *lookup) stored(ctx context.Context, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
	return ReadStored(ctx, l.s.c.Blobs, desc, limit)
}

// get reads from the own blob store, or from the registry and keeps what it got.
func (l *lookup) get(ctx context.Context, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
	data, err := l.stored(ctx, desc, limit)
	if err == nil || !errdefs.IsNotFound(err) {
		return data, err
	}
	if data, err = l.fetch(ctx, desc, limit); err != nil {
		return nil, err
	}
	if err := verify(desc.Digest, data); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", l.ref(), err)
	}
	// Another build may be writing the same blob: it is kept then, too.
	if err := Keep(ctx, l.s.c.Blobs, desc, data); err != nil && !errdefs.IsUnavailable(err) {
		return nil, err
	}
	return data, nil
}

func (l *lookup) fetch(ctx context.Context, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
	if desc.Size == 0 || desc.MediaType == "" { // a digest of the reference, or of an index without sizes
		_, d, err := l.resolver().Resolve(ctx, l.at(desc.Digest))
		if err != nil {
			return nil, err
		}
		if d.Digest != desc.Digest {
			return nil, fmt.Errorf("resolve %s: the registry answers for %s", l.at(desc.Digest), d.Digest)
		}
		desc = d
	}
	if l.fetcher == nil {
		f, err := l.resolver().Fetcher(ctx, l.ref())
		if err != nil {
			return nil, err
		}
		l.fetcher = f
	}
	data, err := registry.FetchAll(ctx, l.fetcher, l.ref(), desc, limit)
	if err == nil && desc.Size > 0 && int64(len(data)) != desc.Size {
		err = fmt.Errorf("fetch %s of %s: got %d bytes of %d", desc.Digest, l.ref(), len(data), desc.Size)
	}
	return data, err
}

// at is the reference's repository at a digest.
func (l *lookup) at(d digest.Digest) string { return l.named.Name() + "@" + d.String() }

// errNoReferrers is returned by registries and stores without that interface.
var errNoReferrers = errors.New("referrers cannot be listed")

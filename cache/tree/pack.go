package tree

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocidigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/flight"
	"github.com/buildd/buildd/cache/layer"
)

// BlobOptions say what a layer's blob is to be.
type BlobOptions struct {
	Compression layer.Compression
	// Epoch is the latest time that a file may have (rewrite-timestamp); nil
	// leaves times alone. Layers that came with an image keep theirs.
	Epoch *time.Time
	// OCI gives the descriptor OCI's media type, not Docker's.
	OCI bool
	// Lazy describes the blob that an image's layer came as even if it is not
	// here, for who can do without its bytes, as a registry that has it.
	Lazy bool
	// Follow gets the blob when this very call begins to make it, and must not
	// wait; nil for nobody. It is not called if the blob is here, or if somebody
	// else makes it already; and it may be called after Blob has returned early.
	Follow func(*blob.Growing)
}

type packKey struct {
	id cache.LayerID
	packOptions
}

// Blob returns a layer as a blob in the blob store, and its diff ID. A layer that
// came with an image is the blob that it came as, which is fetched through p if
// it is not here (p may be nil, then it is an error), unless o.Compression forces
// another compression. Any other layer is packed and compressed, once for all who
// ask for it; the blob is remembered, and made again when it was removed.
func (s *Store) Blob(ctx context.Context, id cache.LayerID, o BlobOptions, p Provider) (ocispecs.Descriptor, ocidigest.Digest, error) {
	desc, diffID, err := s.blob(ctx, id, o, p)
	if err != nil {
		return ocispecs.Descriptor{}, "", fmt.Errorf("blob of layer %.80s: %w", id, err)
	}
	return desc, diffID, nil
}

func (s *Store) blob(ctx context.Context, id cache.LayerID, o BlobOptions, p Provider) (ocispecs.Descriptor, ocidigest.Digest, error) {
	r, info, release, err := s.holdLayer(id)
	if err != nil {
		return ocispecs.Descriptor{}, "", err
	}
	defer release()
	if info.Desc != nil {
		t, err := layer.TypeOf(info.Desc.MediaType)
		if err != nil {
			return ocispecs.Descriptor{}, "", err
		}
		keep := !o.Compression.Force || t == o.Compression.Type
		if !keep || !o.Lazy {
			if err := s.fetch(ctx, *info.Desc, info.Sources, fetcher{provider: p}); err != nil {
				return ocispecs.Descriptor{}, "", s.lost(ctx, r, err)
			}
		}
		if keep {
			return original(*info.Desc, t, o.OCI), info.DiffID, nil
		}
		o.Epoch = nil
	} else if !info.Ready {
		return ocispecs.Descriptor{}, "", fmt.Errorf("its files are gone: %w", cache.ErrNotFound)
	}
	b, err := s.packOnce(ctx, r, info, o)
	if err != nil {
		return ocispecs.Descriptor{}, "", err
	}
	return ocispecs.Descriptor{MediaType: o.Compression.MediaType(o.OCI), Digest: b.Digest, Size: b.Bytes}, b.DiffID, nil
}

// original is the descriptor of an image's layer, its media type as wanted. A
// layer that must not be distributed keeps its own, which says so.
func original(desc ocispecs.Descriptor, t layer.Type, oci bool) ocispecs.Descriptor {
	c := layer.Compression{Type: t}
	if desc.MediaType == c.MediaType(true) || desc.MediaType == c.MediaType(false) {
		desc.MediaType = c.MediaType(oci)
	}
	return desc
}

// holdLayer keeps a layer from being removed until release is called.
func (s *Store) holdLayer(id cache.LayerID) (*layerRecord, LayerInfo, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.recordLocked(id)
	if err != nil {
		return nil, LayerInfo{}, nil, err
	}
	r.holds++
	return r, r.infoLocked(), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		r.holds--
	}, nil
}

func (o BlobOptions) packOptions() (packOptions, error) {
	k := packOptions{Type: o.Compression.Type, Level: o.Compression.Level}
	if k.Type == layer.Uncompressed {
		k.Level = layer.DefaultLevel // it has none
	}
	if o.Epoch != nil {
		if y := o.Epoch.Year(); y < 1678 || y > 2261 { // what int64 nanoseconds hold
			return k, fmt.Errorf("time %s is out of range", o.Epoch)
		}
		k.HasEpoch, k.Epoch = true, o.Epoch.UnixNano()
	}
	return k, nil
}

// packOnce makes the blob that options ask for unless it is here already.
func (s *Store) packOnce(ctx context.Context, r *layerRecord, info LayerInfo, o BlobOptions) (packed, error) {
	k, err := o.packOptions()
	if err != nil {
		return packed{}, err
	}
	known := func() (packed, bool) {
		b, ok := s.packedAs(r, k)
		return b, ok && s.cfg.Blobs.Has(ctx, b.Digest)
	}
	if b, ok := known(); ok {
		return b, nil
	}
	return s.packs.Do(ctx, packKey{r.id, k}, struct{}{}, func(ctx context.Context, _ *flight.Call[struct{}, packed]) (packed, error) {
		if b, ok := known(); ok {
			return b, nil // by a flight that has just ended
		}
		b, err := s.pack(ctx, r, info, k, o.Follow)
		if err == nil {
			s.remember(r, b)
		}
		return b, err
	})
}

func (s *Store) packedAs(r *layerRecord, k packOptions) (packed, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(r.Packed, func(b packed) bool { return b.packOptions == k })
	if i < 0 {
		return packed{}, false
	}
	return r.Packed[i], true
}

// maxPacked is how many blobs a layer remembers, the last ones.
const maxPacked = 8

func (s *Store) remember(r *layerRecord, b packed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A blob that was removed may have been made again, by another version.
	r.Packed = slices.DeleteFunc(r.Packed, func(old packed) bool { return old.packOptions == b.packOptions })
	r.Packed = append(r.Packed, b)
	r.Packed = r.Packed[max(0, len(r.Packed)-maxPacked):]
	if r.DiffID == "" && !b.HasEpoch {
		r.DiffID = b.DiffID
	}
	s.dirtyLayers[r.id] = struct{}{}
}

// pack makes a blob: tar, diff ID, compression, digest and file in one pass.
func (s *Store) pack(ctx context.Context, r *layerRecord, info LayerInfo, k packOptions, follow func(*blob.Growing)) (packed, error) {
	b := packed{packOptions: k}
	desc, err := s.cfg.Blobs.CreateFollowed(ctx, follow, func(w io.Writer) (err error) {
		b.DiffID, err = s.compress(ctx, r, info, k, w)
		return err
	})
	if err != nil {
		return b, err
	}
	if info.Desc != nil && b.DiffID != info.DiffID {
		return b, fmt.Errorf("blob %s unpacks to diff ID %s, the image says %s", info.Desc.Digest, b.DiffID, info.DiffID)
	}
	b.Digest, b.Bytes = desc.Digest, desc.Size
	return b, nil
}

// compress writes a layer's compressed tar and returns the digest of the tar.
func (s *Store) compress(ctx context.Context, r *layerRecord, info LayerInfo, k packOptions, w io.Writer) (_ ocidigest.Digest, err error) {
	zw, err := layer.NewWriter(w, layer.Compression{Type: k.Type, Level: k.Level})
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := zw.Close(); err == nil {
			err = cerr
		}
	}()
	tar := newTarDigest(zw)
	if info.Desc != nil {
		err = s.copyTar(ctx, *info.Desc, tar)
	} else {
		err = s.writeTar(ctx, r, k, tar)
	}
	return tar.finish(), err
}

// copyTar writes the tar that an image's layer was, byte by byte, so that its
// diff ID stays.
func (s *Store) copyTar(ctx context.Context, desc ocispecs.Descriptor, w io.Writer) error {
	ra, err := s.cfg.Blobs.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer ra.Close()
	zr, err := layer.NewReader(content.NewReader(ra), desc.MediaType)
	if err != nil {
		return err
	}
	defer zr.Close()
	_, err = io.CopyBuffer(w, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return zr.Read(p)
	}), make([]byte, 256<<10))
	return err
}

func (s *Store) writeTar(ctx context.Context, r *layerRecord, k packOptions, w io.Writer) error {
	dirs, err := s.dirs([]*layerRecord{r})
	if err != nil {
		return err
	}
	l, err := s.layer(ctx, r, dirs[0])
	if err != nil {
		return err
	}
	o := layer.PackOptions{UserXattr: s.cfg.Rootless}
	if k.HasEpoch {
		t := time.Unix(0, k.Epoch).UTC()
		o.Epoch = &t
	}
	return layer.Pack(ctx, l, w, o)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

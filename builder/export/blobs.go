package export

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// blobs reads the blobs of one image and fetches those that were left where
// they are until somebody wants their bytes. It is a content.InfoReaderProvider.
type blobs struct {
	store    content.Store
	trees    Trees
	provider tree.Provider
	// follow gets layers that are being made; nil for nobody.
	follow func(*blob.Growing)

	mu sync.Mutex
	// lazy, sources and all are guarded by mu.
	lazy    map[godigest.Digest]lazyBlob
	sources map[godigest.Digest][]string
	all     []godigest.Digest
}

// holder is a blob store that can be kept from removing what an export is about
// to name or to send.
type holder interface {
	Hold(ds ...godigest.Digest) (release func())
}

type lazyBlob struct {
	id   cache.LayerID
	opts tree.BlobOptions
	size int64
}

func newBlobs(store content.Store, trees Trees, p tree.Provider) *blobs {
	return &blobs{
		store: store, trees: trees, provider: p,
		lazy:    map[godigest.Digest]lazyBlob{},
		sources: map[godigest.Digest][]string{},
	}
}

func (b *blobs) addLazy(info tree.LayerInfo, o tree.BlobOptions) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o.Lazy, o.Follow = false, nil
	b.lazy[info.Desc.Digest] = lazyBlob{id: info.ID, opts: o, size: info.Desc.Size}
	b.sources[info.Desc.Digest] = append(b.sources[info.Desc.Digest], info.Sources...)
}

// uses says that a blob belongs to the image.
func (b *blobs) uses(dgst godigest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, dgst)
}

// hold keeps the image's blobs where they are until release is called.
func (b *blobs) hold() (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h, ok := b.store.(holder); ok {
		return h.Hold(b.all...)
	}
	return func() {}
}

func (b *blobs) isLazy(dgst godigest.Digest) (lazyBlob, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.lazy[dgst]
	return l, ok
}

// from returns the image references that a blob can be had from.
func (b *blobs) from(dgst godigest.Digest) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sources[dgst]
}

// Info implements content.InfoProvider.
func (b *blobs) Info(ctx context.Context, dgst godigest.Digest) (content.Info, error) {
	info, err := b.store.Info(ctx, dgst)
	if l, ok := b.isLazy(dgst); ok && errdefs.IsNotFound(err) {
		return content.Info{Digest: dgst, Size: l.size}, nil
	}
	return info, err
}

// ReaderAt implements content.Provider.
func (b *blobs) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := b.store.ReaderAt(ctx, desc)
	if !errdefs.IsNotFound(err) {
		return ra, err
	}
	l, ok := b.isLazy(desc.Digest)
	if !ok {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	if err := b.fetch(ctx, desc.Digest, l); err != nil {
		return nil, err
	}
	return b.store.ReaderAt(ctx, desc)
}

func (b *blobs) fetch(ctx context.Context, dgst godigest.Digest, l lazyBlob) error {
	got, _, err := b.trees.Blob(ctx, l.id, l.opts, b.provider)
	if err != nil {
		return fmt.Errorf("fetch layer %s: %w", dgst, err)
	}
	if got.Digest != dgst {
		return fmt.Errorf("fetch layer %s: the store has it as %s", dgst, got.Digest)
	}
	return nil
}

// fetchAll brings every blob here, several at once.
func (b *blobs) fetchAll(ctx context.Context) error {
	b.mu.Lock()
	lazy := make(map[godigest.Digest]lazyBlob, len(b.lazy))
	for dgst, l := range b.lazy {
		lazy[dgst] = l
	}
	b.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelBlobs)
	for dgst, l := range lazy {
		g.Go(func() error {
			if _, err := b.store.Info(ctx, dgst); !errdefs.IsNotFound(err) {
				return err
			}
			return b.fetch(ctx, dgst, l)
		})
	}
	return g.Wait()
}

// put writes a blob of the image that exporting makes itself.
func (b *blobs) put(ctx context.Context, desc ocispecs.Descriptor, data []byte) error {
	// Two exports of one image write the same blob at once; the store lets the
	// second wait for the first by this name.
	ref := "export-" + desc.Digest.String()
	b.uses(desc.Digest)
	err := content.WriteBlob(ctx, b.store, ref, bytes.NewReader(data), desc)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	return nil
}

// describe is the descriptor of data.
func describe(mediaType string, data []byte) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: mediaType, Digest: godigest.FromBytes(data), Size: int64(len(data))}
}

// encode writes v as manifests are written: two spaces deep, as other tools do,
// so that a person can read them.
func encode(mediaType string, v any) (ocispecs.Descriptor, []byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return ocispecs.Descriptor{}, nil, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return describe(mediaType, data), data, nil
}

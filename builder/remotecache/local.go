package remotecache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// localPrefix begins the IDs of the content stores that clients lend as caches.
const localPrefix = "local:"

// atClient is a cache in a directory of the client, an OCI layout.
type atClient struct {
	wrapping
	dir    string
	digest digest.Digest
}

func localStore(a attrs) (store, error) {
	var l atClient
	var err error
	if l.dir, _ = a.take("dest"); l.dir == "" {
		return nil, errors.New("attribute dest is missing: want a directory of the client")
	}
	a.take("tag") // for the client, which keeps the directory's index
	a.take("reset")
	l.wrapping, err = takeWrapping(a)
	return l, err
}

func (l atClient) name() string { return "exporting cache to client directory" }

func (l atClient) write(ctx context.Context, c session.Client, d *remote.Document, blobs []remote.Blob, step func(string) func(error)) (map[string]string, error) {
	s, err := session.ContentStore(ctx, c, "", localPrefix+l.dir, func(ctx context.Context, s content.Store) error {
		_, err := s.ListStatuses(ctx) // fails if the client does not lend the directory
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("export cache to directory %q: %w", l.dir, err)
	}
	_, res, err := l.writeManifest(ctx, layoutTarget{s}, d, blobs, step)
	if err != nil {
		return nil, fmt.Errorf("export cache to directory %q: %w", l.dir, err)
	}
	return res, nil
}

// layoutTarget writes into a content store.
type layoutTarget struct{ s content.Store }

func (t layoutTarget) Put(ctx context.Context, desc ocispecs.Descriptor, _ []string, open remote.Open) (err error) {
	w, err := content.OpenWriter(ctx, t.s, content.WithRef("cache-"+desc.Digest.String()), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	ra, err := open(ctx)
	if err != nil {
		return err
	}
	defer ra.Close()
	err = content.Copy(ctx, w, io.NewSectionReader(ra, 0, ra.Size()), desc.Size, desc.Digest)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func localSource(a attrs) (source, error) {
	var l atClient
	if l.dir, _ = a.take("src"); l.dir == "" {
		return nil, errors.New("attribute src is missing: want a directory of the client")
	}
	a.take("tag") // for the client, which looks the digest up
	v, _ := a.take("digest")
	var err error
	if l.digest, err = digest.Parse(v); err != nil {
		return nil, fmt.Errorf("attribute digest: %q is no digest of a manifest: want sha256:HEX", v)
	}
	return l, nil
}

func (l atClient) id() string { return "directory " + l.dir }

func (l atClient) read(ctx context.Context, c session.Client) ([]*remote.Document, error) {
	s, info, err := l.open(ctx, c, l.digest)
	if err != nil {
		return nil, err
	}
	return remote.Read(ctx, s, ocispecs.Descriptor{Digest: l.digest, Size: info.Size})
}

// open returns the client's content store and what it says of a blob.
func (l atClient) open(ctx context.Context, c session.Client, dgst digest.Digest) (content.Store, content.Info, error) {
	var info content.Info
	s, err := session.ContentStore(ctx, c, "", localPrefix+l.dir, func(ctx context.Context, s content.Store) (err error) {
		info, err = s.Info(ctx, dgst)
		return err
	})
	return s, info, err
}

func (l atClient) images() string { return "" }

func (l atClient) blob(ctx context.Context, c session.Client, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	s, _, err := l.open(ctx, c, desc.Digest)
	if err != nil {
		return nil, err
	}
	return s.ReaderAt(ctx, desc)
}

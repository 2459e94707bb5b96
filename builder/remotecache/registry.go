package remotecache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// responseManifest is where clients look for the descriptor of the manifest.
const responseManifest = "cache.manifest"

// wrapping are the attributes of caches that are manifests.
type wrapping struct{ image, oci bool }

func takeWrapping(a attrs) (w wrapping, err error) {
	if w.oci, err = a.flag("oci-mediatypes", true); err != nil {
		return w, err
	}
	if w.image, err = a.flag("image-manifest", w.oci); err != nil {
		return w, err
	}
	if w.image && !w.oci {
		return w, errors.New(`attribute image-manifest: "true" conflicts with oci-mediatypes=false: there is no such Docker media type`)
	}
	return w, nil
}

// writeManifest writes a cache as a manifest.
func (w wrapping) writeManifest(ctx context.Context, to remote.Target, d *remote.Document, blobs []remote.Blob, step func(string) func(error)) (ocispecs.Descriptor, map[string]string, error) {
	desc, err := remote.Write(ctx, to, d, blobs, remote.Manifest{Image: w.image, OCI: w.oci, Step: step})
	if err != nil {
		return desc, nil, err
	}
	b, err := json.Marshal(desc)
	if err != nil {
		return desc, nil, fmt.Errorf("encode descriptor: %w", err)
	}
	return desc, map[string]string{responseManifest: string(b)}, nil
}

// inRegistry is a cache in a registry.
type inRegistry struct {
	wrapping
	s        *Set
	ref      reference.Named
	insecure bool
}

func (s *Set) inRegistry(a attrs) (r inRegistry, err error) {
	r.s = s
	v, _ := a.take("ref")
	if v == "" {
		return r, errors.New("attribute ref is missing: want the name of an image, such as HOST/NAME:TAG")
	}
	named, err := reference.ParseNormalizedNamed(v)
	if err != nil {
		return r, fmt.Errorf("attribute ref: %q is no name of an image: %w", v, err)
	}
	r.ref = reference.TagNameOnly(named)
	r.insecure, err = a.flag("registry.insecure", false)
	return r, err
}

func (s *Set) registryStore(a attrs) (store, error) {
	r, err := s.inRegistry(a)
	if err != nil {
		return nil, err
	}
	if _, ok := r.ref.(reference.Digested); ok {
		return nil, fmt.Errorf("attribute ref: %q has a digest, which nothing can be pushed to: want HOST/NAME:TAG", r.ref)
	}
	r.wrapping, err = takeWrapping(a)
	return r, err
}

func (r inRegistry) name() string { return "exporting cache to registry" }

func (r inRegistry) write(ctx context.Context, c session.Client, d *remote.Document, blobs []remote.Blob, step func(string) func(error)) (map[string]string, error) {
	t := &registryTarget{ref: r.ref, resolver: r.s.c.Resolver(c, r.insecure)}
	_, res, err := r.writeManifest(ctx, t, d, blobs, step)
	if err != nil {
		return nil, fmt.Errorf("push cache to %s: %w", r.ref, err)
	}
	return res, nil
}

// registryTarget pushes blobs and manifests.
type registryTarget struct {
	ref      reference.Named
	resolver remotes.Resolver
}

func (t *registryTarget) Put(ctx context.Context, desc ocispecs.Descriptor, sources []string, open remote.Open) error {
	desc.Annotations = export.MountSources(desc, t.ref, sources)
	ctx = remotes.WithMediaTypeKeyPrefix(ctx, remote.ConfigMediaType, "cache-config")
	return registry.Retry(ctx, func(ctx context.Context) error {
		p, err := t.resolver.Pusher(ctx, t.ref.String())
		if err != nil {
			return err
		}
		return export.PushBlob(ctx, p, opener{open}, desc)
	})
}

// opener is a content.Provider of one blob.
type opener struct{ open remote.Open }

func (o opener) ReaderAt(ctx context.Context, _ ocispecs.Descriptor) (content.ReaderAt, error) {
	return o.open(ctx)
}

func (s *Set) registrySource(a attrs) (source, error) {
	r, err := s.inRegistry(a)
	return r, err
}

func (r inRegistry) id() string { return r.ref.String() }

func (r inRegistry) read(ctx context.Context, c session.Client) ([]*remote.Document, error) {
	resolver := r.s.c.Resolver(c, r.insecure)
	_, desc, err := resolver.Resolve(ctx, r.ref.String())
	if err != nil {
		return nil, err
	}
	f, err := resolver.Fetcher(ctx, r.ref.String())
	if err != nil {
		return nil, err
	}
	return remote.Read(ctx, fetched{f, r.ref.String()}, desc)
}

// images: what mirrors and credentials there are is the daemon's and the clients'
// business, as with any image. Only who was told so by attribute may go without
// verification.
func (r inRegistry) images() string {
	if r.insecure {
		return ""
	}
	return r.ref.String()
}

func (r inRegistry) blob(ctx context.Context, c session.Client, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	f, err := r.s.c.Resolver(c, r.insecure).Fetcher(ctx, r.ref.String())
	if err != nil {
		return nil, err
	}
	return registry.OpenBlob(ctx, f, r.ref.String(), desc)
}

// fetched is a content.Provider of small blobs.
type fetched struct {
	f   remotes.Fetcher
	ref string
}

func (f fetched) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	b, err := registry.FetchAll(ctx, f.f, f.ref, desc, remote.MaxDocument)
	return remote.Bytes(b), err
}

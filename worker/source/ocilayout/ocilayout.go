// Package ocilayout is the source oci-layout://NAME@DIGEST: an image in an OCI
// layout directory that the client gives out through its session.
package ocilayout

import (
	"context"
	"fmt"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/buildd/buildd/worker/source/image"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is the source of images in clients' OCI layouts.
type Source struct {
	trees    image.Trees
	blobs    content.Store
	platform ocispecs.Platform
}

// New returns a Source that keeps manifests and configs in blobs. platform is
// that of requests without one; nil is this machine's.
func New(trees image.Trees, blobs content.Store, platform *ocispecs.Platform) *Source {
	s := &Source{trees: trees, blobs: blobs, platform: platforms.DefaultSpec()}
	if platform != nil {
		s.platform = *platform
	}
	return s
}

// Schemes is oci-layout.
func (s *Source) Schemes() []string { return []string{source.OCILayoutScheme} }

// layout is one request.
type layout struct {
	name    string // as errors say it
	store   string
	session string
	digest  digest.Digest
	limit   int
}

// parse reads NAME@DIGEST and the attributes. NAME is the store's unless
// oci.store says another.
func parse(r source.Request) (layout, error) {
	named, err := reference.ParseNormalizedNamed(r.Ref())
	if err != nil {
		return layout{}, fmt.Errorf("source %s: %w: want oci-layout://NAME@sha256:DIGEST", r.Identifier, err)
	}
	d, ok := named.(reference.Digested)
	if !ok {
		return layout{}, fmt.Errorf("source %s: it has no digest: want oci-layout://NAME@sha256:DIGEST", r.Identifier)
	}
	store, _, _ := strings.Cut(r.Ref(), "@")
	l := layout{name: r.Identifier, store: store, digest: d.Digest()}
	for k, v := range r.Attrs {
		switch k {
		case pb.AttrOCILayoutSessionID:
			l.session = v
		case pb.AttrOCILayoutStoreID:
			l.store = v
		case pb.AttrOCILayoutLayerLimit:
			if l.limit, err = image.ParseLimit(v); err != nil {
				return layout{}, fmt.Errorf("source %s: %w", r.Identifier, err)
			}
		}
	}
	return l, nil
}

func (s *Source) load(ctx context.Context, c session.Client, l layout, p ocispecs.Platform) (*image.Image, error) {
	var store content.Store // the client's, asked for when needed
	get := func(ctx context.Context, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
		data, err := image.ReadStored(ctx, s.blobs, desc, limit)
		if err == nil || !errdefs.IsNotFound(err) {
			return data, err
		}
		if store == nil {
			if store, err = session.OCIStore(ctx, c, l.session, l.store, desc.Digest); err != nil {
				return nil, fmt.Errorf("oci layout %q: %w: pass --oci-layout %s=DIR with an image %s in it", l.store, err, l.store, desc.Digest)
			}
		}
		if data, err = image.ReadStored(ctx, store, desc, limit); err != nil {
			return nil, fmt.Errorf("oci layout %q: %w", l.store, err)
		}
		if err := image.Keep(ctx, s.blobs, desc, data); err != nil && !errdefs.IsUnavailable(err) {
			return nil, err
		}
		return data, nil
	}
	return image.Load(ctx, get, l.name, ocispecs.Descriptor{Digest: l.digest}, p)
}

func (s *Source) platformOf(r source.Request) ocispecs.Platform {
	if r.Platform != nil {
		return platforms.Normalize(r.Platform.Spec())
	}
	return s.platform
}

// Pin reads the manifest and config.
func (s *Source) Pin(ctx context.Context, c session.Client, r source.Request) (source.Pin, error) {
	l, err := parse(r)
	if err != nil {
		return source.Pin{}, err
	}
	img, err := s.load(ctx, c, l, s.platformOf(r))
	if err != nil {
		return source.Pin{}, err
	}
	layers, err := image.Limit(img.Layers, l.limit)
	if err != nil {
		return source.Pin{}, fmt.Errorf("source %s: %w", r.Identifier, err)
	}
	return image.PinChain(ctx, s.trees, r, l.digest.String(), layers, source.OCILayoutScheme+"://"+l.store)
}

// Fetch tells the tree store of the chain. Nothing is transferred.
func (s *Source) Fetch(ctx context.Context, _ session.Client, p source.Pin, _ func(solver.Status)) (cache.Tree, error) {
	return image.AddChain(ctx, s.trees, p)
}

// Describe returns the digest and the config.
func (s *Source) Describe(ctx context.Context, c session.Client, r source.Request, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	l, err := parse(r)
	if err != nil {
		return nil, err
	}
	p := s.platformOf(r)
	if opt := o.OCILayoutOpt; opt != nil {
		if opt.Platform != nil {
			p = platforms.Normalize(*opt.Platform)
		}
		if opt.Store.StoreID != "" {
			l.store = opt.Store.StoreID
		}
		if opt.Store.SessionID != "" {
			l.session = opt.Store.SessionID
		}
	}
	img, err := s.load(ctx, c, l, p)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{
		Op:    r.Op(),
		Image: &sourceresolver.ResolveImageResponse{Digest: img.Root.Digest, Config: img.Config},
	}, nil
}

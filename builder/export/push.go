package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strings"

	"github.com/buildd/buildd/worker/registry"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// pushAll pushes the image under one name after the other; early are on their way
// to the first one.
func (e *imageStore) pushAll(ctx context.Context, img *madeImage, names []string, early *streams, r Request) error {
	defer img.hold()()
	defer early.stop(errPushed)
	defer early.during(ctx)()
	for i, name := range names {
		ref, err := pushTarget(name, e.byDigest)
		if err != nil {
			return err
		}
		if i > 0 {
			early = nil
		}
		if err := e.pushTo(ctx, img, ref, early, r); err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}

func (e *imageStore) pushTo(ctx context.Context, img *madeImage, ref reference.Named, early *streams, r Request) error {
	// The digest tells containerd which of all manifests gets the tag, if there
	// is one.
	target, err := reference.WithDigest(ref, img.desc.Digest)
	if err != nil {
		return err
	}
	ctx = remotes.WithMediaTypeKeyPrefix(ctx, statementMediaType, "attestation")
	pusher, err := e.resolver(r.Client, e.insecure).Pusher(ctx, target.String())
	if err != nil {
		return err
	}
	g, err := graphOf(ctx, img.blobs, img.desc)
	if err != nil {
		return err
	}
	push := func(ctx context.Context, d ocispecs.Descriptor) error {
		if err := early.await(ctx, d.Digest); err != nil {
			return err
		}
		d.Annotations = MountSources(d, ref, img.from(d.Digest))
		err := registry.Retry(ctx, func(ctx context.Context) error { return PushBlob(ctx, pusher, img.blobs, d) })
		if err != nil {
			return fmt.Errorf("%s %s: %w", kindOf(d.MediaType), d.Digest, err)
		}
		return nil
	}
	if err := early.push(r, func() error { return g.eachData(ctx, push) }); err != nil {
		return err
	}
	return r.step("pushing manifest for "+target.String(), func() error {
		for _, d := range g.manifests {
			if err := push(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
}

// PushBlob uploads d unless the registry has it. Layers that must not be
// distributed stay where they are.
func PushBlob(ctx context.Context, to remotes.Pusher, from content.Provider, d ocispecs.Descriptor) (err error) {
	if images.IsNonDistributable(d.MediaType) {
		return nil
	}
	w, err := to.Push(ctx, d)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		if cerr := w.Close(); err == nil && !errors.Is(cerr, io.ErrClosedPipe) {
			err = cerr
		}
	}()
	ra, err := from.ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer ra.Close()
	// Commit compares the digest that the registry computed with ours.
	return content.Copy(ctx, w, io.NewSectionReader(ra, 0, ra.Size()), d.Size, d.Digest)
}

// MountSources says which other repositories of the target's registry have d,
// so that the registry can take it from there.
func MountSources(d ocispecs.Descriptor, target reference.Named, sources []string) map[string]string {
	host := reference.Domain(target)
	var repos []string
	for _, s := range sources {
		ref, err := reference.ParseNormalizedNamed(s)
		if err == nil && reference.Domain(ref) == host && reference.Path(ref) != reference.Path(target) {
			repos = append(repos, reference.Path(ref))
		}
	}
	if len(repos) == 0 {
		return d.Annotations
	}
	// containerd's key has the host without its port.
	if u, err := url.Parse("dummy://" + host); err == nil {
		host = u.Hostname()
	}
	out := maps.Clone(d.Annotations)
	if out == nil {
		out = map[string]string{}
	}
	out[labels.LabelDistributionSource+"."+host] = strings.Join(repos, ",")
	return out
}

// kindOf says in a word what a blob is.
func kindOf(mediaType string) string {
	switch {
	case images.IsIndexType(mediaType):
		return "index"
	case images.IsManifestType(mediaType):
		return "manifest"
	case images.IsConfigType(mediaType):
		return "config"
	case images.IsLayerType(mediaType):
		return "layer"
	default:
		return "blob"
	}
}

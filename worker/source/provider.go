package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// OCILayoutScheme is that of images in clients' OCI layouts, and of the sources
// of their layers.
const OCILayoutScheme = "oci-layout"

// Provider finds the blobs of image layers where the layers' sources say: in
// registries, or in the OCI layouts of clients. It is a tree.Provider.
type Provider struct {
	Hosts *registry.Hosts
	// Client lends its credentials and layouts; nil has none.
	Client session.Client
}

// ReaderAt opens the blob in the first of sources that has it. Nothing that is
// read is verified.
func (p Provider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor, sources []string) (content.ReaderAt, error) {
	var refs []string
	var errs []error
	for _, s := range sources {
		store, ok := strings.CutPrefix(s, OCILayoutScheme+"://")
		if !ok {
			refs = append(refs, s)
			continue
		}
		ra, err := p.layout(ctx, desc, store)
		if err == nil {
			return ra, nil
		}
		errs = append(errs, err)
	}
	if len(refs) > 0 || len(errs) == 0 {
		ra, err := p.Hosts.Blob(ctx, p.Client, desc, refs)
		if err == nil {
			return ra, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (p Provider) layout(ctx context.Context, desc ocispecs.Descriptor, store string) (content.ReaderAt, error) {
	s, err := session.OCIStore(ctx, p.Client, "", store, desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("layer %s of oci layout %q: %w", desc.Digest, store, err)
	}
	ra, err := s.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("layer %s of oci layout %q: %w", desc.Digest, store, err)
	}
	return ra, nil
}

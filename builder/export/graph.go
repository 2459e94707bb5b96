package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// parallelBlobs is how many blobs are sent at once: enough to hide the latency
// of a registry, few enough not to be throttled by it.
const parallelBlobs = 4

// graph is what an image consists of, each blob once.
type graph struct {
	// data are configs, layers and statements.
	data []ocispecs.Descriptor
	// manifests are in the order in which registries accept them: what a manifest
	// names comes before it.
	manifests []ocispecs.Descriptor
}

// graphOf reads the manifests below desc.
func graphOf(ctx context.Context, p content.Provider, desc ocispecs.Descriptor) (graph, error) {
	var g graph
	return g, g.add(ctx, p, desc, map[godigest.Digest]bool{})
}

func (g *graph) add(ctx context.Context, p content.Provider, desc ocispecs.Descriptor, seen map[godigest.Digest]bool) error {
	if seen[desc.Digest] {
		return nil
	}
	seen[desc.Digest] = true
	isIndex := images.IsIndexType(desc.MediaType)
	if !isIndex && !images.IsManifestType(desc.MediaType) {
		g.data = append(g.data, desc)
		return nil
	}
	data, err := content.ReadBlob(ctx, p, desc)
	if err != nil {
		return fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	var m struct {
		Config    ocispecs.Descriptor   `json:"config"`
		Layers    []ocispecs.Descriptor `json:"layers"`
		Manifests []ocispecs.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	children := m.Manifests
	if !isIndex {
		children = append([]ocispecs.Descriptor{m.Config}, m.Layers...)
	}
	for _, c := range children {
		if err := g.add(ctx, p, c, seen); err != nil {
			return err
		}
	}
	g.manifests = append(g.manifests, desc)
	return nil
}

// each runs f for all data at once and then for one manifest after the other.
func (g graph) each(ctx context.Context, f func(context.Context, ocispecs.Descriptor) error) error {
	if err := g.eachData(ctx, f); err != nil {
		return err
	}
	for _, d := range g.manifests {
		if err := f(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (g graph) eachData(ctx context.Context, f func(context.Context, ocispecs.Descriptor) error) error {
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallelBlobs)
	for _, d := range g.data {
		eg.Go(func() error { return f(ctx, d) })
	}
	return eg.Wait()
}

// copyImage copies all that desc consists of into another store.
func copyImage(ctx context.Context, to content.Ingester, from content.Provider, desc ocispecs.Descriptor) error {
	g, err := graphOf(ctx, from, desc)
	if err != nil {
		return err
	}
	return g.each(ctx, func(ctx context.Context, d ocispecs.Descriptor) error {
		if err := copyBlob(ctx, to, from, d); err != nil {
			return fmt.Errorf("copy %s: %w", d.Digest, err)
		}
		return nil
	})
}

func copyBlob(ctx context.Context, to content.Ingester, from content.Provider, d ocispecs.Descriptor) (err error) {
	w, err := content.OpenWriter(ctx, to, content.WithRef("export-"+d.Digest.String()), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	ra, err := from.ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer ra.Close()
	err = content.Copy(ctx, w, content.NewReader(ra), d.Size, d.Digest)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

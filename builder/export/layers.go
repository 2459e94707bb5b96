package export

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	"github.com/containerd/containerd/v2/pkg/labels"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// rewrittenTimestamp is the annotation by which BuildKit tells a layer whose
// times were clamped, and to when.
const rewrittenTimestamp = "buildkit/rewritten-timestamp"

// chain is the layers of one platform, bottom first.
type chain struct {
	infos   []tree.LayerInfo
	descs   []ocispecs.Descriptor // as a manifest lists them
	diffIDs []godigest.Digest
}

// exportLayers packs the layers of all platforms, as many at once as there are
// processors: equal layers of several platforms are packed once by the store.
// Layers that came with an image are its blobs still, and are not even fetched;
// blobs learns where they can be had from.
func (w *writer) exportLayers(ctx context.Context, in Input, o imageOptions, blobs *blobs) ([]chain, error) {
	chains := make([]chain, len(in.Platforms))
	for i, p := range in.Platforms {
		infos, err := w.layers(p.Tree)
		if err != nil {
			return nil, err
		}
		n := len(infos)
		chains[i] = chain{infos: infos, descs: make([]ocispecs.Descriptor, n), diffIDs: make([]godigest.Digest, n)}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, runtime.NumCPU()))
	for i, p := range in.Platforms {
		for j := range chains[i].infos {
			g.Go(func() error { return w.exportLayer(ctx, &chains[i], j, o, o.epoch.of(in, p), blobs) })
		}
	}
	return chains, g.Wait()
}

// exportLayer packs layer j of c.
func (w *writer) exportLayer(ctx context.Context, c *chain, j int, o imageOptions, epoch *time.Time, blobs *blobs) error {
	info := c.infos[j]
	opts := tree.BlobOptions{Compression: o.compression, OCI: o.oci(), Lazy: true, Follow: blobs.follow}
	if o.rewriteTimestamp && info.Desc == nil { // the times of an image's layers are not ours to change
		opts.Epoch = epoch
	}
	desc, diffID, err := w.trees.Blob(ctx, info.ID, opts, blobs.provider)
	if err != nil {
		return fmt.Errorf("export layer %s: %w", info.ID, err)
	}
	blobs.uses(desc.Digest)
	if info.Desc != nil && info.Desc.Digest == desc.Digest {
		blobs.addLazy(info, opts)
	}
	c.descs[j], c.diffIDs[j] = exportedLayer(desc, opts.Epoch, o), diffID
	return nil
}

func (w *writer) layers(t cache.Tree) ([]tree.LayerInfo, error) {
	if t == "" {
		return nil, nil
	}
	infos, err := w.trees.Layers(t)
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	return infos, nil
}

// exportedLayer is the descriptor as the manifest has it.
func exportedLayer(desc ocispecs.Descriptor, epoch *time.Time, o imageOptions) ocispecs.Descriptor {
	out := ocispecs.Descriptor{
		MediaType: layerType(desc.MediaType, o.oci(), o.preferNondist),
		Digest:    desc.Digest,
		Size:      desc.Size,
	}
	if o.preferNondist {
		out.URLs = desc.URLs
	}
	if !o.oci() {
		return out // Docker's manifests have no annotations
	}
	out.Annotations = maps.Clone(desc.Annotations)
	maps.DeleteFunc(out.Annotations, func(k, _ string) bool {
		return k == labels.LabelUncompressed || k == "buildkit/createdat" || k == rewrittenTimestamp ||
			strings.HasPrefix(k, labels.LabelDistributionSource+".")
	})
	if epoch != nil {
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[rewrittenTimestamp] = strconv.FormatInt(epoch.Unix(), 10)
	}
	if len(out.Annotations) == 0 {
		out.Annotations = nil
	}
	return out
}

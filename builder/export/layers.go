package export

import (
	"context"
	"encoding/json"
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
// Layers of an image that need no change are not touched and not even fetched;
// blobs learns where they can be had from.
func (w *writer) exportLayers(ctx context.Context, in Input, o imageOptions, blobs *blobs) ([]chain, error) {
	chains := make([]chain, len(in.Platforms))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, runtime.NumCPU()))
	for i, p := range in.Platforms {
		infos, err := w.layers(p.Tree)
		if err != nil {
			return nil, err
		}
		c := &chains[i]
		*c = chain{infos: infos, descs: make([]ocispecs.Descriptor, len(infos)), diffIDs: make([]godigest.Digest, len(infos))}
		immutable, err := baseLayers(p.BaseConfig, infos)
		if err != nil {
			return nil, err
		}
		for j, info := range infos {
			opts := tree.BlobOptions{Compression: o.compression, OCI: o.oci()}
			if o.rewriteTimestamp && j >= immutable {
				opts.Epoch = o.epoch.of(in, p)
			}
			if lazy(info, opts) {
				c.descs[j], c.diffIDs[j] = exportedLayer(*info.Desc, opts.Epoch, o), info.DiffID
				blobs.addLazy(info, opts)
				continue
			}
			g.Go(func() error {
				desc, diffID, err := w.trees.Blob(ctx, info.ID, opts, blobs.provider)
				if err != nil {
					return fmt.Errorf("export layer %s: %w", info.ID, err)
				}
				c.descs[j], c.diffIDs[j] = exportedLayer(desc, opts.Epoch, o), diffID
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return chains, nil
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

// lazy tells whether the layer's blob is the one that it came as: then all that
// a manifest says of it is known without the bytes.
func lazy(info tree.LayerInfo, o tree.BlobOptions) bool {
	return info.Desc != nil && info.DiffID != "" && o.Epoch == nil && !o.Compression.Force
}

// baseLayers counts the layers that are those of the base image, from the
// bottom: their times are not ours to clamp.
func baseLayers(config []byte, infos []tree.LayerInfo) (int, error) {
	if len(config) == 0 {
		return 0, nil
	}
	var base ocispecs.Image
	if err := json.Unmarshal(config, &base); err != nil {
		return 0, fmt.Errorf("read base image config: %w", err)
	}
	n := 0
	for n < len(infos) && n < len(base.RootFS.DiffIDs) && infos[n].DiffID == base.RootFS.DiffIDs[n] {
		n++
	}
	return n, nil
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

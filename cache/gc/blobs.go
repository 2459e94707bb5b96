package gc

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// rooted returns the blobs that images and other roots lead to.
func (c *Collector) rooted(ctx context.Context) (map[digest.Digest]bool, error) {
	seen := map[digest.Digest]bool{}
	if c.cfg.Images != nil {
		imgs, err := c.cfg.Images.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, img := range imgs {
			c.reach(ctx, img.Target, seen, true)
		}
	}
	// After the images: what has been seen is not looked into again.
	for _, r := range c.cfg.Roots {
		ds, err := r.Roots(ctx)
		if err != nil {
			return nil, fmt.Errorf("list roots: %w", err)
		}
		for _, d := range ds {
			c.reach(ctx, d, seen, false)
		}
	}
	return seen, nil
}

// reach adds to seen what a descriptor leads to, layers of file systems only if
// wanted.
func (c *Collector) reach(ctx context.Context, top ocispecs.Descriptor, seen map[digest.Digest]bool, layers bool) {
	open := []ocispecs.Descriptor{top}
	for len(open) > 0 {
		desc := open[len(open)-1]
		open = open[:len(open)-1]
		if seen[desc.Digest] || !layers && images.IsLayerType(desc.MediaType) {
			continue
		}
		seen[desc.Digest] = true
		kids, err := images.Children(ctx, c.cfg.Blobs.Store, desc)
		if err != nil {
			// An index may name platforms that are not here. And what cannot be
			// parsed is of no use to anybody; it must not keep the disk full.
			if !errdefs.IsNotFound(err) {
				c.cfg.Log.Warn("a manifest in the image store is damaged", "digest", desc.Digest, "err", err)
			}
			continue
		}
		open = append(open, kids...)
	}
}

// sweepBlobs removes blobs that nothing names: those of layers that were just
// removed at once, others when they have been here for a while.
func (c *Collector) sweepBlobs(ctx context.Context, dead map[digest.Digest]bool) error {
	keep, err := c.rooted(ctx)
	if err != nil {
		return err
	}
	// After the roots: a blob that became a root meanwhile is fresh.
	for d := range c.cfg.Trees.Blobs() {
		keep[d] = true
	}
	if len(dead) > 0 {
		_, err := c.cfg.Blobs.Sweep(ctx, 0, func(d digest.Digest) bool { return keep[d] || !dead[d] })
		if err != nil {
			return err
		}
	}
	_, err = c.cfg.Blobs.Sweep(ctx, c.cfg.Spare, func(d digest.Digest) bool { return keep[d] })
	return err
}

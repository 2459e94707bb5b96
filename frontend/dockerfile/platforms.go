package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	commonexptypes "github.com/moby/buildkit/exporter/exptypes"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// image is what a build makes for one platform.
type image struct {
	ref      gwclient.Reference
	lowered  *lower.Result
	platform exptypes.Platform
}

// run builds all platforms side by side.
func (b *build) run(ctx context.Context) (*gwclient.Result, error) {
	targets := make([]*ocispecs.Platform, 0, 1)
	for i := range b.options.platforms {
		targets = append(targets, &b.options.platforms[i])
	}
	if len(targets) == 0 {
		targets = append(targets, nil)
	}
	scan, err := b.newScanner(ctx)
	if err != nil {
		return nil, err
	}
	images := make([]*image, len(targets))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, target := range targets {
		o := b.lowerOptions(groupCtx)
		o.TargetPlatform = target
		if i > 0 {
			o.Warn = nil // the first platform has said it
		}
		group.Go(func() (err error) {
			images[i], err = b.image(groupCtx, o)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	res, err := b.result(images)
	if err != nil || scan == nil {
		return res, err
	}
	return res, scan.attest(ctx, res, images)
}

func (b *build) image(ctx context.Context, o lower.Options) (*image, error) {
	lowered, err := lower.Lower(ctx, b.definition.Data, o)
	if err != nil {
		return nil, err
	}
	def, err := b.marshal(ctx, lowered.State)
	if err != nil {
		return nil, fmt.Errorf("marshal LLB: %w", err)
	}
	ref, err := b.solve(ctx, gwclient.SolveRequest{Definition: def.ToPB(), CacheImports: b.options.cacheImports})
	if err != nil {
		return nil, err
	}
	p := platforms.DefaultSpec()
	if o.TargetPlatform != nil {
		p = *o.TargetPlatform
	}
	return &image{ref: ref, lowered: lowered, platform: exportPlatform(p, lowered.Image.Platform)}, nil
}

// exportPlatform is how exporters know the platform p. That of a Windows image also has the version that its base has.
func exportPlatform(p, of ocispecs.Platform) exptypes.Platform {
	p = platforms.Normalize(p)
	id := platforms.FormatAll(p)
	if p.OS == "windows" && of.OS == p.OS {
		if p.OSVersion == "" {
			p.OSVersion = of.OSVersion
		}
		if p.OSFeatures == nil {
			p.OSFeatures = of.OSFeatures
		}
		p = platforms.Normalize(p)
	}
	return exptypes.Platform{ID: id, Platform: p}
}

// result puts the images together under the names of BuildKit's exptypes packages.
func (b *build) result(images []*image) (*gwclient.Result, error) {
	res := gwclient.NewResult()
	var list exptypes.Platforms
	for _, img := range images {
		suffix := ""
		if b.options.multiPlatform {
			suffix = "/" + img.platform.ID
			res.AddRef(img.platform.ID, img.ref)
		} else {
			res.SetRef(img.ref)
		}
		if err := img.addMeta(res, suffix); err != nil {
			return nil, err
		}
		list.Platforms = append(list.Platforms, img.platform)
	}
	return res, addJSON(res, exptypes.ExporterPlatformsKey, list)
}

func (i *image) addMeta(res *gwclient.Result, suffix string) error {
	if err := addJSON(res, exptypes.ExporterImageConfigKey+suffix, &i.lowered.Image); err != nil {
		return err
	}
	if base := i.lowered.BaseImage; base != nil {
		if err := addJSON(res, exptypes.ExporterImageBaseConfigKey+suffix, base); err != nil {
			return err
		}
	}
	if epoch := i.lowered.Epoch; epoch != nil {
		res.AddMeta(commonexptypes.ExporterEpochKey+suffix, strconv.AppendInt(nil, epoch.Unix(), 10))
	}
	return nil
}

func addJSON(res *gwclient.Result, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal %s: %w", key, err)
	}
	res.AddMeta(key, data)
	return nil
}

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// attestationFor marks a manifest that says something about another one.
const attestationFor = "vnd.docker.reference.type"

// member is an image for one platform.
type member struct {
	desc     ocispecs.Descriptor
	platform ocispecs.Platform
	config   []byte
}

// members returns the images that a manifest or index leads to, for the
// platforms wanted. Those of an index whose blobs are not there are left out.
func members(ctx context.Context, store content.Store, d ocispecs.Descriptor, want platforms.MatchComparer) ([]member, error) {
	switch {
	case images.IsManifestType(d.MediaType):
		if d.Annotations[attestationFor] != "" {
			return nil, nil
		}
		m, err := readMember(ctx, store, d)
		if err != nil || !want.Match(m.platform) {
			return nil, err
		}
		return []member{m}, nil
	case images.IsIndexType(d.MediaType):
		b, err := readBlob(ctx, store, d)
		if err != nil {
			return nil, fmt.Errorf("read index: %w", err)
		}
		var idx ocispecs.Index
		if err := json.Unmarshal(b, &idx); err != nil {
			return nil, fmt.Errorf("read index %s: %w", d.Digest, err)
		}
		var out []member
		for _, c := range idx.Manifests {
			if _, err := store.Info(ctx, c.Digest); errdefs.IsNotFound(err) {
				continue
			}
			ms, err := members(ctx, store, c, want)
			if err != nil {
				return nil, err
			}
			out = append(out, ms...)
		}
		return out, nil
	default:
		return nil, fmt.Errorf("%s is of type %q: want an image manifest or an index", d.Digest, d.MediaType)
	}
}

func readMember(ctx context.Context, store content.Provider, d ocispecs.Descriptor) (member, error) {
	m := member{desc: d}
	b, err := readBlob(ctx, store, d)
	if err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	var mf ocispecs.Manifest
	if err := json.Unmarshal(b, &mf); err != nil {
		return m, fmt.Errorf("read manifest %s: %w", d.Digest, err)
	}
	if m.config, err = readBlob(ctx, store, mf.Config); err != nil {
		return m, fmt.Errorf("read configuration of %s: %w", d.Digest, err)
	}
	m.platform, err = platformOf(d, m.config)
	return m, err
}

// readBlob reads what a descriptor names, and nothing that is not it: a daemon
// that has the blob already would not look at the one here.
func readBlob(ctx context.Context, store content.Provider, d ocispecs.Descriptor) ([]byte, error) {
	b, err := content.ReadBlob(ctx, store, d)
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("blob %s: its content has digest %s", d.Digest, got)
	}
	return b, nil
}

// platformOf returns what an image runs on, by its index or else by its
// configuration.
func platformOf(d ocispecs.Descriptor, config []byte) (ocispecs.Platform, error) {
	var p ocispecs.Platform
	if err := json.Unmarshal(config, &p); err != nil {
		return p, fmt.Errorf("read configuration of %s: %w", d.Digest, err)
	}
	if d.Platform != nil && d.Platform.OS != "" {
		p = *d.Platform
	}
	if p.OS == "" || p.Architecture == "" {
		return p, fmt.Errorf("the configuration of %s names no platform: it is no image", d.Digest)
	}
	return platforms.Normalize(p), nil
}

// wanted are the frontend options by which a daemon knows that these platforms
// are what is asked for.
func wanted(ms []member) map[string]string {
	ids := make([]string, len(ms))
	for i, m := range ms {
		ids[i] = platforms.FormatAll(m.platform)
	}
	return map[string]string{"platform": strings.Join(ids, ",")}
}

// assemble makes a result of images as they are, with the files that state
// names for each.
func assemble(ctx context.Context, g gwclient.Client, ms []member, state func(member) llb.State) (*gwclient.Result, error) {
	res := gwclient.NewResult()
	var ps exptypes.Platforms
	for _, m := range ms {
		def, err := state(m).Marshal(ctx, llb.Platform(m.platform))
		if err != nil {
			return nil, err
		}
		one, err := g.Solve(ctx, gwclient.SolveRequest{Definition: def.ToPB()})
		if err != nil {
			return nil, err
		}
		id := platforms.FormatAll(m.platform)
		if len(ms) == 1 {
			res.SetRef(one.Ref)
			res.AddMeta(exptypes.ExporterImageConfigKey, m.config)
		} else {
			res.AddRef(id, one.Ref)
			res.AddMeta(exptypes.ExporterImageConfigKey+"/"+id, m.config)
		}
		ps.Platforms = append(ps.Platforms, exptypes.Platform{ID: id, Platform: m.platform})
	}
	b, err := json.Marshal(ps)
	if err != nil {
		return nil, err
	}
	if len(ms) > 1 {
		res.AddMeta(exptypes.ExporterPlatformsKey, b)
	}
	return res, nil
}

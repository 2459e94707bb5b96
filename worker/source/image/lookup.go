package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// lookup finds one image for one client.
type lookup struct {
	s        *Source
	client   session.Client
	named    reference.Named
	mode     mode
	platform ocispecs.Platform
	memo     *source.Memo

	fetcher  remotes.Fetcher // of the registry, nil until needed
	localErr error           // why the own image store's image did not do
}

// found is what a build remembers of a name.
type found struct {
	Root  ocispecs.Descriptor
	Local bool
}

func (l *lookup) ref() string { return l.named.String() }

// find tries the places of the mode in turn.
func (l *lookup) find(ctx context.Context) (*Resolved, error) {
	if d, ok := l.named.(reference.Digested); ok {
		return l.load(ctx, found{Root: ocispecs.Descriptor{Digest: d.Digest()}})
	}
	key := fmt.Sprintf("image\n%s\n%d", l.ref(), l.mode)
	if l.mode == registryFirst {
		return l.findRemoteFirst(ctx, key)
	}
	if local, err := l.local(ctx); err != nil || local != nil {
		return local, err
	}
	r, err := l.remote(ctx, key)
	if err != nil && l.localErr != nil {
		err = fmt.Errorf("%w; and what the local image store has does not do: %w", err, l.localErr)
	}
	return r, err
}

// findRemoteFirst is --pull. A machine without a way to the registry still
// builds on what was imported by hand; a registry that can be reached has the
// last word.
func (l *lookup) findRemoteFirst(ctx context.Context, key string) (*Resolved, error) {
	r, err := l.remote(ctx, key)
	if err == nil || ctx.Err() != nil {
		return r, err
	}
	local, lerr := l.local(ctx)
	switch {
	case lerr != nil || local == nil:
		return nil, err
	case errors.Is(err, registry.ErrUnreachable):
		return local, nil
	default:
		return nil, fmt.Errorf("%w; the local image store has this name, leave out --pull to use it", err)
	}
}

// local looks into the own image store; nil without error if it has nothing
// that fits.
func (l *lookup) local(ctx context.Context) (*Resolved, error) {
	if l.s.c.Names == nil {
		return nil, nil
	}
	desc, err := l.s.c.Names.Get(ctx, l.ref())
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s in the image store: %w", l.ref(), err)
	}
	img, err := Load(ctx, l.stored, l.ref(), desc, l.platform)
	if err != nil {
		// Another platform, or blobs that are gone: what the name means elsewhere
		// may serve.
		l.localErr = err
		return nil, ctx.Err()
	}
	return &Resolved{Image: *img, Ref: l.ref(), Digest: img.Root.Digest, Local: true}, nil
}

// remote asks the registry, once per build.
func (l *lookup) remote(ctx context.Context, key string) (*Resolved, error) {
	data, err := l.memo.Do(ctx, key, func(ctx context.Context) ([]byte, error) {
		_, desc, err := l.resolver().Resolve(ctx, l.ref())
		if err != nil {
			return nil, err
		}
		return json.Marshal(found{Root: desc})
	})
	if err != nil {
		return nil, err
	}
	var f found
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", l.ref(), err)
	}
	return l.load(ctx, f)
}

func (l *lookup) load(ctx context.Context, f found) (*Resolved, error) {
	img, err := Load(ctx, l.get, l.ref(), f.Root, l.platform)
	if err != nil {
		return nil, err
	}
	return &Resolved{Image: *img, Ref: l.ref(), Digest: img.Root.Digest, Local: f.Local}, nil
}

func (l *lookup) resolver() *registry.Resolver {
	return l.s.c.Hosts.Resolver(l.client, registry.ResolverOptions{})
}

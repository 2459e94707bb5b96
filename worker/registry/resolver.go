package registry

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// ResolverOptions say what a Resolver is for.
type ResolverOptions struct {
	// Insecure accepts any certificate, and plain HTTP, whatever the
	// configuration says (registry.insecure of an exporter).
	Insecure bool
	// Tracker lets several pushes to one registry share what was uploaded.
	Tracker docker.StatusTracker
}

// Resolver reaches images with one client's credentials. It implements
// remotes.Resolver. References may be familiar names, such as "alpine".
type Resolver struct {
	r        remotes.Resolver
	h        *Hosts
	registry docker.RegistryHosts
}

var _ remotes.Resolver = (*Resolver)(nil)

// Resolver returns a Resolver that asks c for credentials; a nil c is
// anonymous.
func (h *Hosts) Resolver(c session.Client, o ResolverOptions) *Resolver {
	registry := h.Registry(c, o.Insecure)
	return &Resolver{docker.NewResolver(docker.ResolverOptions{Hosts: registry, Tracker: o.Tracker}), h, registry}
}

// Registry returns h as containerd's docker package wants it.
func (h *Hosts) Registry(c session.Client, insecure bool) docker.RegistryHosts {
	auth := newAuthorizer(h, c)
	return func(host string) ([]docker.RegistryHost, error) {
		known, err := h.of(host, insecure)
		if err != nil {
			return nil, err
		}
		out := make([]docker.RegistryHost, len(known))
		for i, rh := range known {
			rh.Authorizer = auth.at(rh)
			out[i] = rh
		}
		return out, nil
	}
}

// Resolve asks the registry what ref is.
func (r *Resolver) Resolve(ctx context.Context, ref string) (string, ocispecs.Descriptor, error) {
	ref, err := Normalize(ref)
	if err != nil {
		return "", ocispecs.Descriptor{}, err
	}
	name, desc, err := r.r.Resolve(ctx, ref)
	if err != nil {
		return "", ocispecs.Descriptor{}, explain(ctx, "resolve", ref, err)
	}
	return name, desc, nil
}

// Fetcher returns what fetches the parts of ref.
func (r *Resolver) Fetcher(ctx context.Context, ref string) (remotes.Fetcher, error) {
	ref, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	f, err := r.r.Fetcher(ctx, ref)
	if err != nil {
		return nil, explain(ctx, "fetch", ref, err)
	}
	return f, nil
}

// Pusher returns what pushes the parts of ref.
func (r *Resolver) Pusher(ctx context.Context, ref string) (remotes.Pusher, error) {
	ref, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	p, err := r.r.Pusher(ctx, ref)
	if err != nil {
		return nil, explain(ctx, "push", ref, err)
	}
	return p, nil
}

// Normalize writes out what a familiar name leaves out: "alpine" is
// "docker.io/library/alpine:latest".
func Normalize(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %w", ref, err)
	}
	return reference.TagNameOnly(named).String(), nil
}

package main

import (
	"context"

	"github.com/buildd/buildd/builder/remotecache"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/containerd/containerd/v2/core/remotes"
)

// alive tells of trees whether there are files of them, or a way to get them:
// what a build imported and did not need may be out of reach for the next.
func (d *daemon) alive(trees *tree.Store) func(cache.Tree) bool {
	return func(t cache.Tree) bool {
		return trees.Has(t) && trees.Obtainable(context.Background(), t, d.caches.Reaches)
	}
}

// newCaches makes what imports and exports caches.
func (d *daemon) newCaches(s stores, hosts *registry.Hosts) {
	d.caches = remotecache.New(remotecache.Config{Trees: s.trees, Blobs: s.blobs, Resolver: resolver(hosts)})
}

func resolver(hosts *registry.Hosts) func(session.Client, bool) remotes.Resolver {
	return func(c session.Client, insecure bool) remotes.Resolver {
		return hosts.Resolver(c, registry.ResolverOptions{Insecure: insecure})
	}
}

// provider returns what brings the blobs of layers that were never fetched.
func (d *daemon) provider(hosts *registry.Hosts) func(session.Client) tree.Provider {
	return func(c session.Client) tree.Provider {
		return remotecache.Provider{Set: d.caches, Next: source.Provider{Hosts: hosts, Client: c}}
	}
}

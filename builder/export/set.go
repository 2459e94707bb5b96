package export

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types that a Set knows. TypeNone runs the build and keeps its outcome in
// the cache only; TypeCacheOnly is buildx's name for the same.
const (
	TypeImage     = "image"
	TypeOCI       = "oci"
	TypeDocker    = "docker"
	TypeTar       = "tar"
	TypeLocal     = "local"
	TypeCacheOnly = "cacheonly"
	TypeNone      = "none"
)

// Trees is what exporters need of the tree store.
type Trees interface {
	Layers(t cache.Tree) ([]tree.LayerInfo, error)
	Blob(ctx context.Context, id cache.LayerID, o tree.BlobOptions, p tree.Provider) (ocispecs.Descriptor, godigest.Digest, error)
	Ensure(ctx context.Context, t cache.Tree, p tree.Provider, progress tree.Progress) error
	Files(ctx context.Context, t cache.Tree) (*digest.View, error)
}

// Images is buildd's image store.
type Images interface {
	// Get returns cache.ErrNotFound, possibly wrapped, for a name without image.
	Get(ctx context.Context, name string) (ocispecs.Descriptor, error)
	Put(ctx context.Context, name string, desc ocispecs.Descriptor) error
}

// Config is what the exporters of a daemon share.
type Config struct {
	Trees Trees
	// Blobs takes manifests and configs; the blobs of layers lie there too.
	Blobs content.Store
	// Images takes the names of images; nil if the daemon keeps none.
	Images Images
	// Resolver opens registries with the client's credentials. insecure means
	// that of registry.insecure: plain HTTP, or TLS that nobody verified. nil
	// makes push an error.
	Resolver func(c session.Client, insecure bool) remotes.Resolver
}

// Set makes exporters by the name of their type.
type Set struct {
	by map[string]func(typ string, attrs map[string]string) (Exporter, error)
}

// NewSet returns the Set of all exporters.
func NewSet(c Config) *Set {
	w := &writer{trees: c.Trees, blobs: c.Blobs}
	files := &rootfs{trees: c.Trees}
	archive := func(typ string, attrs map[string]string) (Exporter, error) { return newArchive(w, typ, attrs) }
	nothing := func(typ string, _ map[string]string) (Exporter, error) { return cacheOnly{typ: typ}, nil }
	return &Set{by: map[string]func(string, map[string]string) (Exporter, error){
		TypeImage: func(_ string, attrs map[string]string) (Exporter, error) {
			return newImage(w, c.Images, c.Resolver, attrs)
		},
		TypeOCI:       archive,
		TypeDocker:    archive,
		TypeTar:       func(_ string, attrs map[string]string) (Exporter, error) { return newTar(files, attrs) },
		TypeLocal:     func(_ string, attrs map[string]string) (Exporter, error) { return newLocal(files, attrs) },
		TypeCacheOnly: nothing,
		TypeNone:      nothing,
	}}
}

// Types lists what the set knows, sorted.
func (s *Set) Types() []string {
	var out []string
	for typ := range s.by {
		out = append(out, typ)
	}
	slices.Sort(out)
	return out
}

// Resolve makes the exporter that a client asked for. What it asked wrongly is
// an error that names the attribute, its value and what would be right.
func (s *Set) Resolve(typ string, attrs map[string]string) (Exporter, error) {
	construct, ok := s.by[typ]
	if !ok {
		return nil, fmt.Errorf("exporter %q could not be found: want one of %s", typ, strings.Join(s.Types(), ", "))
	}
	e, err := construct(typ, attrs)
	if err != nil {
		return nil, fmt.Errorf("exporter type=%s: %w", typ, err)
	}
	return e, nil
}

package remotecache

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types that a Set knows.
const (
	TypeRegistry = "registry"
	TypeLocal    = "local"
	TypeInline   = "inline"
	TypeS3       = "s3"
	TypeAzblob   = "azblob"
	TypeGHA      = "gha"
)

// Config is what the caches of a daemon share.
type Config struct {
	Trees *tree.Store
	// Blobs holds the blobs of layers.
	Blobs content.Store
	// Resolver opens registries with the client's credentials; insecure accepts
	// plain HTTP, and TLS that nobody verified.
	Resolver func(c session.Client, insecure bool) remotes.Resolver
}

// Set knows all types of caches. It is safe for concurrent use.
type Set struct {
	c      Config
	by     map[string]kind
	active active
}

// kind is one type of cache.
type kind struct {
	exporter func(a attrs) (store, error) // nil: it cannot be exported to
	importer func(a attrs) (source, error)
}

// store is where a cache is exported to.
type store interface {
	// name is what progress calls the export.
	name() string
	// write writes the cache and returns what the client is told.
	write(ctx context.Context, c session.Client, d *remote.Document, blobs []remote.Blob, step func(string) func(error)) (map[string]string, error)
}

// source is where a cache is imported from.
type source interface {
	// id names the place for messages, without secrets.
	id() string
	// read gets the documents.
	read(ctx context.Context, c session.Client) ([]*remote.Document, error)
	// images is the reference by which the blobs can be had from a registry, at any
	// time; "" if they are only to be had from blob, while the build runs.
	images() string
	blob(ctx context.Context, c session.Client, desc ocispecs.Descriptor) (content.ReaderAt, error)
}

// New returns a Set.
func New(c Config) *Set {
	s := &Set{c: c}
	s.by = map[string]kind{
		TypeRegistry: {s.registryStore, s.registrySource},
		TypeLocal:    {localStore, localSource},
		TypeInline:   {inlineStore, nil},
		TypeS3:       {s3Store, s3Source},
		TypeAzblob:   {azblobStore, azblobSource},
		TypeGHA:      {ghaStore, ghaSource},
	}
	return s
}

// kind returns the kind of a type.
func (s *Set) kind(typ string) (kind, error) {
	k, ok := s.by[typ]
	if !ok {
		return k, fmt.Errorf("cache type %q is not known: want one of %s", typ, strings.Join(slices.Sorted(maps.Keys(s.by)), ", "))
	}
	return k, nil
}

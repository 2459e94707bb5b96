package remotecache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// sourcePrefix begins the sources of layers that only a running build can get.
const sourcePrefix = "cache-import://"

// Imports is what one build imports. It is safe for concurrent use.
type Imports struct {
	ImportsConfig
	s *Set

	mu   sync.Mutex // guards what follows
	seen map[string]bool
	ends []func()
}

// ImportsConfig says whose imports they are.
type ImportsConfig struct {
	Client session.Client
	// Add makes the build read a cache.
	Add func(solver.Import)
	// Begin shows a task; end says how it went, and in warning what is odd about it.
	Begin func(name string) (end func(err error, warning string))
}

// Imports returns what a build imports, nothing at first. Close must be called
// when the build has ended.
func (s *Set) Imports(c ImportsConfig) *Imports {
	return &Imports{ImportsConfig: c, s: s, seen: map[string]bool{}}
}

// Add makes the build read a cache unless it does already. It is an error if the
// attributes are wrong; whether there is such a cache is found out when it is
// needed.
func (i *Imports) Add(typ string, m map[string]string) error {
	k, err := i.s.kind(typ)
	if err == nil && k.importer == nil {
		err = errors.New("it cannot be imported so: import the image with type=registry")
	}
	if err != nil {
		return fmt.Errorf("cache import type=%s: %w", typ, err)
	}
	name := nameOf(typ, m)
	i.mu.Lock()
	known := i.seen[name]
	i.seen[name] = true
	i.mu.Unlock()
	if known {
		return nil
	}
	a := newAttrs(m)
	src, err := k.importer(a)
	if err != nil {
		return fmt.Errorf("cache import type=%s: %w", typ, err)
	}
	from := src.images()
	if from == "" {
		from = sourcePrefix + name
		end := i.s.active.add(from, func(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
			return src.blob(ctx, i.Client, desc)
		})
		i.mu.Lock()
		i.ends = append(i.ends, end)
		i.mu.Unlock()
	}
	i.ImportsConfig.Add(&remote.Cache{Trees: i.s.c.Trees, Source: from, Load: func(ctx context.Context) ([]*remote.Document, error) {
		end := i.Begin("importing cache manifest from " + src.id())
		docs, err := src.read(ctx, i.Client)
		warning := a.unknown()
		if errors.Is(err, remote.ErrForeign) {
			warning = fmt.Sprintf("%s: %v; the build goes on without it", src.id(), remote.ErrForeign)
		}
		end(err, warning)
		return docs, err
	}})
	return nil
}

// nameOf names a cache by all its attributes. It is a digest, as there may be
// secrets among them.
func nameOf(typ string, m map[string]string) string {
	parts := [][]byte{[]byte(typ)}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, []byte(k), []byte(m[k]))
	}
	return cache.Hash("buildd cache import 1", parts...).String()
}

// Close ends what Add began.
func (i *Imports) Close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, end := range i.ends {
		end()
	}
	i.ends = nil
}

// openBlob opens a blob of a cache.
type openBlob func(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error)

// active are the caches of running builds whose blobs only these can get.
type active struct {
	mu sync.Mutex // guards by
	by map[string]map[*openBlob]bool
}

func (a *active) add(source string, open openBlob) (remove func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[string]map[*openBlob]bool{}
	}
	if a.by[source] == nil {
		a.by[source] = map[*openBlob]bool{}
	}
	a.by[source][&open] = true
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.by[source], &open)
		if len(a.by[source]) == 0 {
			delete(a.by, source)
		}
	})
}

func (a *active) get(source string) (out []openBlob) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for open := range a.by[source] {
		out = append(out, *open)
	}
	return out
}

// Reaches tells whether blobs can be had from a source of a layer now, as far as
// that depends on which builds run.
func (s *Set) Reaches(source string) bool {
	return !strings.HasPrefix(source, sourcePrefix) || len(s.active.get(source)) > 0
}

// Provider gets blobs from the caches that running builds import, and from Next
// those that are elsewhere. It is a tree.Provider.
type Provider struct {
	Set  *Set
	Next tree.Provider
}

// ReaderAt opens the blob in the first of sources that has it. Nothing that is
// read is verified.
func (p Provider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor, sources []string) (content.ReaderAt, error) {
	var others []string
	var errs []error
	for _, s := range sources {
		if !strings.HasPrefix(s, sourcePrefix) {
			others = append(others, s)
			continue
		}
		for _, open := range p.Set.active.get(s) {
			ra, err := open(ctx, desc)
			if err == nil {
				return ra, nil
			}
			errs = append(errs, fmt.Errorf("fetch %s from an imported cache: %w", desc.Digest, err))
		}
	}
	if len(others) > 0 || len(errs) == 0 {
		ra, err := p.Next.ReaderAt(ctx, desc, others)
		if err == nil {
			return ra, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

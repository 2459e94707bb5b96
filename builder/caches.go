package builder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/buildd/buildd/builder/bridge"
	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/builder/remotecache"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/solver"
	control "github.com/moby/buildkit/api/services/control"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// caches are where a build exports its cache to, and what it exports.
type caches struct {
	exporters []*remotecache.Exporter
	imports   *remotecache.Imports
	roots     []solver.Edge
	results   []cache.Tree
}

// cacheExporters makes the exporters of caches that a request asks for. Clients
// that ask for an inline cache twice mean it once.
func (b *Builder) cacheExporters(entries []*control.CacheOptionsEntry) ([]*remotecache.Exporter, error) {
	var out []*remotecache.Exporter
	seen := map[string]bool{}
	for _, e := range entries {
		name := cacheName(e)
		if seen[name] && e.Type == remotecache.TypeInline {
			continue
		}
		if seen[name] {
			return nil, fmt.Errorf("duplicate cache exports [%s]", e.Type)
		}
		seen[name] = true
		x, err := b.Caches.Exporter(e.Type, e.Attrs)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// cacheName is equal for two entries that would write to the same place.
func cacheName(e *control.CacheOptionsEntry) string {
	switch ref := e.Attrs["ref"]; {
	case e.Type == remotecache.TypeInline:
		return e.Type
	case e.Type == remotecache.TypeRegistry && ref != "":
		return e.Type + " " + ref
	}
	name := e.Type
	for _, k := range slices.Sorted(maps.Keys(e.Attrs)) {
		name += fmt.Sprintf(" %q=%q", k, e.Attrs[k])
	}
	return name
}

// importCaches lets the build import caches.
func (j *job) importCaches() {
	j.caches.imports = j.b.Caches.Imports(remotecache.ImportsConfig{
		Client: j.build.Lend, Add: j.build.Solve.Import,
		Begin: func(name string) func(error, string) {
			t := j.log.Begin(name)
			return func(err error, warning string) {
				if warning != "" {
					j.log.Warn(&control.VertexWarning{Vertex: string(t.Digest()), Level: 1, Short: []byte(warning)})
				}
				t.End(err)
			}
		},
	})
	j.build.Import = func(es []gwclient.CacheOptionsEntry) error {
		for _, e := range es {
			if err := j.caches.imports.Add(e.Type, e.Attrs); err != nil {
				return err
			}
		}
		return nil
	}
}

// importEntries are the caches that the request itself names. Frontends get to
// know of them by their options.
func importEntries(req *control.SolveRequest) (out []gwclient.CacheOptionsEntry) {
	for _, e := range req.Cache.Imports {
		out = append(out, gwclient.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs})
	}
	return out
}

// remember keeps what a result is made of, for the export of the cache.
func (c *caches) remember(ctx context.Context, res *gwclient.Result) error {
	c.roots, c.results = nil, nil
	if res == nil {
		return nil
	}
	return res.EachRef(func(r gwclient.Reference) error {
		ref, ok := r.(*bridge.Ref)
		if !ok || ref == nil {
			return nil
		}
		t, err := ref.Tree(ctx) // solved already
		c.roots = append(c.roots, ref.Edge())
		c.results = append(c.results, t)
		return err
	})
}

// inlineCache returns what images carry; nil if no inline cache was asked for.
func (j *job) inlineCache(in export.Input) func(context.Context, string, []ocispecs.Descriptor) ([]byte, error) {
	if !slices.ContainsFunc(j.caches.exporters, (*remotecache.Exporter).Inline) {
		return nil
	}
	return func(ctx context.Context, platform string, _ []ocispecs.Descriptor) ([]byte, error) {
		i := slices.IndexFunc(in.Platforms, func(p export.Platform) bool { return p.ID == platform })
		if i < 0 {
			return nil, nil
		}
		steps, err := j.build.Solve.Steps(ctx, j.caches.roots...)
		if err != nil {
			return nil, err
		}
		t := j.log.Begin("preparing layers for inline cache")
		b, err := j.b.Caches.Inline(in.Platforms[i].Tree, steps)
		t.End(err)
		return b, err
	}
}

// exportCaches exports the cache to all places side by side and returns what the
// client is told.
func (j *job) exportCaches(ctx context.Context) (map[string]string, error) {
	var mu sync.Mutex // guards response
	response := map[string]string{}
	eg, ctx := errgroup.WithContext(ctx)
	for _, x := range j.caches.exporters {
		if x.Inline() {
			continue
		}
		eg.Go(func() error {
			res, err := j.exportCache(ctx, x)
			if err != nil && !x.IgnoreError {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(response, res)
			return nil
		})
	}
	return response, eg.Wait()
}

// maxLosses bounds how often the export of a cache begins again without layers
// that an imported cache promised and that cannot be had.
const maxLosses = 8

func (j *job) exportCache(ctx context.Context, x *remotecache.Exporter) (map[string]string, error) {
	t := j.log.Begin(x.Name())
	if x.Warning != "" {
		j.log.Warn(&control.VertexWarning{Vertex: string(t.Digest()), Level: 1, Short: []byte("cache export type=" + x.Type + ": " + x.Warning)})
	}
	var res map[string]string
	var err error
	for range maxLosses {
		var steps []*solver.Known
		if steps, err = j.build.Solve.Steps(ctx, j.caches.roots...); err != nil {
			break
		}
		res, err = x.Export(ctx, remotecache.Request{
			Steps: steps, Results: j.caches.results, Client: j.build.Lend, Provider: j.b.Provider(j.build.Lend), Step: t.Part,
		})
		if !errors.Is(err, cache.ErrLost) { // what was lost is not among the steps any more
			break
		}
	}
	t.End(err)
	if err != nil {
		return nil, fmt.Errorf("export cache type=%s: %w", x.Type, err)
	}
	return res, nil
}

package builder

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/buildd/buildd/builder/bridge"
	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/solver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"
)

// input solves all that a frontend returned.
func (j *job) input(ctx context.Context, res *gwclient.Result) (export.Input, error) {
	if res == nil {
		res = gwclient.NewResult()
	}
	var (
		mu   sync.Mutex // guards refs and one
		refs map[string]cache.Tree
		one  cache.Tree
	)
	eg, ctx := errgroup.WithContext(ctx)
	solve := func(r gwclient.Reference, set func(cache.Tree)) {
		eg.Go(func() error {
			t, err := treeOf(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			set(t)
			return err
		})
	}
	if res.Ref != nil {
		solve(res.Ref, func(t cache.Tree) { one = t })
	}
	if res.Refs != nil {
		refs = make(map[string]cache.Tree, len(res.Refs))
		for k, r := range res.Refs {
			solve(r, func(t cache.Tree) { refs[k] = t })
		}
	}
	if err := eg.Wait(); err != nil {
		return export.Input{}, err
	}
	if len(j.exporters) == 0 { // nothing is exported, so nothing needs platforms
		return export.Input{Metadata: res.Metadata}, nil
	}
	return export.NewInput(one, refs, res.Metadata)
}

func treeOf(ctx context.Context, r gwclient.Reference) (cache.Tree, error) {
	switch r := r.(type) {
	case nil:
		return "", nil
	case *bridge.Ref:
		return r.Tree(ctx)
	default:
		return "", fmt.Errorf("a reference of type %T is not of this build", r)
	}
}

// export runs all exporters side by side, and when all have succeeded what they
// left for the end.
func (j *job) export(ctx context.Context, in export.Input) Outcome {
	results := make([]*export.Result, len(j.exporters))
	in.InlineCache = j.inlineCache(in)
	err := j.each(ctx, func(ctx context.Context, i int, x export.Exporter) error {
		r, err := j.exportOne(ctx, i, x, in)
		results[i] = r
		return err
	})
	out := Outcome{Response: map[string]string{}, Results: results}
	if err == nil {
		out.Response, err = j.finish(ctx, results)
	} else {
		discard(results)
	}
	out.Err = err
	for _, r := range results {
		if r != nil {
			maps.Copy(out.Response, r.Response)
		}
	}
	for k, v := range in.Metadata {
		if strings.HasPrefix(k, "frontend.") {
			out.Response[k] = string(v)
		}
	}
	return out
}

// discard gives up what exporters have begun for the end.
func discard(results []*export.Result) {
	for _, r := range results {
		if r != nil && r.Discard != nil {
			r.Discard()
		}
	}
}

// finish does what exporters left for the end and exports the cache meanwhile.
func (j *job) finish(ctx context.Context, results []*export.Result) (response map[string]string, err error) {
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		return j.each(ctx, func(ctx context.Context, i int, _ export.Exporter) error {
			if results[i].Finalize == nil {
				return nil
			}
			return results[i].Finalize(ctx)
		})
	})
	eg.Go(func() (err error) {
		response, err = j.exportCaches(ctx)
		return err
	})
	return response, eg.Wait()
}

func (j *job) each(ctx context.Context, f func(context.Context, int, export.Exporter) error) error {
	eg, ctx := errgroup.WithContext(ctx)
	for i, x := range j.exporters {
		eg.Go(func() error { return f(ctx, i, x) })
	}
	return eg.Wait()
}

// exportOne runs one exporter as a task that progress shows.
func (j *job) exportOne(ctx context.Context, id int, x export.Exporter, in export.Input) (*export.Result, error) {
	t := j.log.Begin(x.Name())
	r, err := x.Export(ctx, in, export.Request{
		ID: id, Client: j.build.Lend, Provider: j.b.Provider(j.build.Lend), Progress: t.Part,
		Bytes: func(part string, n int64) { t.Status(solver.Status{ID: part, Current: n}) },
	})
	if err == nil && r.Finalize != nil {
		finalize := r.Finalize
		r.Finalize = func(ctx context.Context) error {
			err := finalize(ctx)
			t.End(err)
			return err
		}
		return r, nil
	}
	t.End(err)
	return r, err
}

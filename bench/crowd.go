package main

import (
	"context"
	"fmt"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
)

// crowd is an engine that serves many clients at once.
type crowd interface {
	// buildMany runs the same build n times at once and sums what happened.
	buildMany(ctx context.Context, r request, n int) (outcome, error)
}

// buildMany runs the clients in this process, each with a connection and a
// session of its own: the start of so many programs would be most of the time.
func (d *daemon) buildMany(ctx context.Context, r request, n int) (outcome, error) {
	out := make([]outcome, n)
	eg, ctx := errgroup.WithContext(ctx)
	for i := range n {
		eg.Go(func() (err error) {
			out[i], err = d.buildOne(ctx, r)
			return err
		})
	}
	err := eg.Wait()
	return sum(out), err
}

func (d *daemon) buildOne(ctx context.Context, r request) (outcome, error) {
	c, err := client.New(ctx, d.addr())
	if err != nil {
		return outcome{}, err
	}
	defer c.Close()
	fs, err := fsutil.NewFS(r.dir)
	if err != nil {
		return outcome{}, err
	}
	status := make(chan *client.SolveStatus)
	var o outcome
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		_, err := c.Solve(ctx, nil, client.SolveOpt{
			Frontend: "dockerfile.v0", LocalMounts: map[string]fsutil.FS{"context": fs, "dockerfile": fs},
		}, status)
		return err
	})
	eg.Go(func() error {
		var p progress
		for s := range status {
			for _, v := range s.Vertexes {
				p.add(vertex{Digest: v.Digest.String(), Name: v.Name, Cached: v.Cached, Completed: v.Completed, Error: v.Error})
			}
		}
		var err error
		o, err = p.outcome()
		return err
	})
	return o, eg.Wait()
}

// buildMany starts so many programs, as there is no daemon to share.
func (b *buildah) buildMany(ctx context.Context, r request, n int) (outcome, error) {
	out := make([]outcome, n)
	eg, ctx := errgroup.WithContext(ctx)
	for i := range n {
		eg.Go(func() (err error) {
			out[i], err = b.build(ctx, r)
			return err
		})
	}
	err := eg.Wait()
	return sum(out), err
}

func sum(out []outcome) outcome {
	var s outcome
	for _, o := range out {
		s.ran += o.ran
		s.cached += o.cached
	}
	return s
}

const clients = 50

// crowdWorkload is w7, on the Dockerfile of w2.
func crowdWorkload() *workload {
	w := cached(workload{name: "w7", what: fmt.Sprint(clients, " clients build the same cached Dockerfile at once"), target: 0.3, floor: "w7"}, 3, twoStages)
	// BuildKit does not tell every client about the steps that they share
	w.after = func(_ context.Context, _ *bench, _ engine, _ int, o outcome) error { return o.want(0, o.cached) }
	dir := "cached-w7"
	w.run = func(ctx context.Context, b *bench, e engine, _ int) (outcome, error) {
		return e.(crowd).buildMany(ctx, request{dir: b.fixtureDir(dir)}, clients)
	}
	return w
}

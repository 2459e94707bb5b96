package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
)

// pull takes what a step made into the store, and returns its trees.
func (p *peer) pull(ctx context.Context, s *step, r *workerv1.Result) ([]cache.Tree, error) {
	fresh, err := p.fresh(s, r)
	if err != nil {
		return nil, fmt.Errorf("worker %s returned what the step cannot have made: %w", p.addr, err)
	}
	bases := p.bases(s)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelPuts)
	for _, h := range fresh {
		g.Go(func() error {
			t, err := p.getLayer(gctx, h, bases)
			if err != nil {
				return err
			}
			return s.lease.Add(t)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []cache.Tree
	for _, o := range r.Outputs {
		var ids []cache.LayerID
		for _, l := range o.GetLayers() {
			ids = append(ids, cache.LayerID(l.GetId()))
		}
		t, err := p.trees.Append("", ids...)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// fresh returns the new layers of a result: those that are no input's. There may
// be none that came with an image, and none whose name is taken, whatever its
// content: a worker has no business with the layers of other steps.
func (p *peer) fresh(s *step, r *workerv1.Result) (map[cache.LayerID]tree.Header, error) {
	if want := outputs(s.Op); len(r.Outputs) != want {
		return nil, fmt.Errorf("%d outputs, the op has %d", len(r.Outputs), want)
	}
	out := map[cache.LayerID]tree.Header{}
	for _, o := range r.Outputs {
		for _, l := range o.GetLayers() {
			h, err := headerOf(l)
			if err != nil {
				return nil, err
			}
			if s.inputs[h.ID] {
				continue
			}
			if h.Image != nil {
				return nil, fmt.Errorf("layer %s of an image is in no input", h.ID)
			}
			if known, ok := out[h.ID]; ok && known.Content != h.Content {
				return nil, fmt.Errorf("layer %s has two contents", h.ID)
			}
			if _, err := p.trees.Layer(h.ID); !errors.Is(err, cache.ErrNotFound) {
				return nil, fmt.Errorf("layer %s is another step's", h.ID)
			}
			out[h.ID] = h
		}
	}
	return out, nil
}

// bases are the layers of the inputs whose files are here, and so on the worker,
// which read them: what a step copied need not travel.
func (p *peer) bases(s *step) (out []cache.LayerID) {
	for id := range s.inputs {
		if info, err := p.trees.Layer(id); err == nil && info.Ready {
			out = append(out, id)
		}
	}
	return out
}

func (p *peer) getLayer(ctx context.Context, h tree.Header, bases []cache.LayerID) (cache.Tree, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &workerv1.GetLayerRequest{Id: string(h.ID)}
	for _, id := range bases {
		r.Bases = append(r.Bases, string(id))
	}
	stream, err := p.api.GetLayer(ctx, r)
	if err != nil {
		return "", err
	}
	var broke error
	data := &chunks{next: func() ([]byte, error) {
		m, err := stream.Recv()
		if err != nil {
			broke = err
		}
		return m.GetData(), err
	}}
	t, err := p.trees.Import(ctx, h, data, bases...)
	if err != nil && broke != nil && !errors.Is(broke, io.EOF) {
		return "", broke // what the store says of it is less
	}
	return t, err
}

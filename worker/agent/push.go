package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/buildd/buildd/cache/flight"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/solver"
)

const (
	// parallelPuts is how many layers go to or come from a worker at a time for
	// one step: enough that no machine waits for the other between two.
	parallelPuts = 4
	// pushes is how often a worker may turn out not to have what it was given, as
	// when it runs out of space.
	pushes = 3
)

// push gives the worker what it lacks of a step's inputs.
func (p *peer) push(ctx context.Context, s *step, lease string) error {
	for range pushes {
		r, err := p.api.HoldLayers(ctx, &workerv1.HoldLayersRequest{Lease: lease, Layers: s.layers})
		if err != nil {
			return err
		}
		if len(r.Layers) == 0 && len(r.Blobs) == 0 {
			return nil
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(parallelPuts)
		for _, name := range append(r.Layers, r.Blobs...) {
			h, ok := s.headers[name]
			if !ok {
				_ = g.Wait()
				return fmt.Errorf("it asks for %.100q, which the step has nothing to do with", name)
			}
			g.Go(func() error { return p.put(ctx, s, lease, name, h) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return &lostError{addr: p.addr, err: errors.New("it does not keep what it is sent")}
}

// put sends a layer or blob, once for all steps that need it at the moment. What
// another step's lease holds is held by this one's when HoldLayers is asked again.
func (p *peer) put(ctx context.Context, s *step, lease, name string, h tree.Header) error {
	began := time.Now()
	show := func(done int64, ended bool) {
		if s.Progress == nil {
			return
		}
		st := solver.Status{ID: "sending " + short(name), Current: done, Total: s.sizes[name], Started: began}
		if ended {
			st.Current, st.Completed = st.Total, time.Now()
		}
		s.Progress.Status(st)
	}
	_, err := p.puts.Do(ctx, name, struct{}{}, func(ctx context.Context, _ *flight.Call[struct{}, struct{}]) (struct{}, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the call if it broke off here
		if h.Image != nil {
			return struct{}{}, p.putBlob(ctx, h, show)
		}
		return struct{}{}, p.putLayer(ctx, h, lease, show)
	})
	if err == nil {
		show(0, true)
	}
	return err
}

// short is the beginning of a name that is enough to tell it from others.
func short(name string) string { return name[:min(len(name), 19)] }

func (p *peer) putLayer(ctx context.Context, h tree.Header, lease string, show func(int64, bool)) error {
	stream, err := p.api.PutLayer(ctx)
	if err != nil {
		return err
	}
	head := &workerv1.LayerHeader{Layer: layerOf(h), Lease: lease}
	err = stream.Send(&workerv1.PutLayerRequest{Message: &workerv1.PutLayerRequest_Header{Header: head}})
	if err == nil {
		m := &meter{show: show}
		err = p.trees.Export(ctx, h.ID, chunkWriter(func(b []byte) error {
			m.add(len(b))
			return stream.Send(&workerv1.PutLayerRequest{Message: &workerv1.PutLayerRequest_Data{Data: b}})
		}))
	}
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the worker ended the call, and now says why
		return fmt.Errorf("send layer %s: %w", h.ID, err)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		return err
	}
	return nil
}

func (p *peer) putBlob(ctx context.Context, h tree.Header, show func(int64, bool)) error {
	desc := h.Image.Desc
	ra, err := p.blobs.ReaderAt(ctx, desc)
	if err != nil {
		return fmt.Errorf("send layer %s to worker %s: %w", h.ID, p.addr, err)
	}
	defer ra.Close()
	stream, err := p.api.PutBlob(ctx)
	if err != nil {
		return err
	}
	head := &workerv1.Blob{Digest: desc.Digest.String(), Size: desc.Size, MediaType: desc.MediaType}
	err = stream.Send(&workerv1.PutBlobRequest{Message: &workerv1.PutBlobRequest_Header{Header: head}})
	if err == nil {
		m := &meter{show: show}
		w := chunkWriter(func(b []byte) error {
			m.add(len(b))
			return stream.Send(&workerv1.PutBlobRequest{Message: &workerv1.PutBlobRequest_Data{Data: b}})
		})
		_, err = io.CopyBuffer(w, io.NewSectionReader(onlyReaderAt{ra}, 0, ra.Size()), make([]byte, chunk))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("send blob %s: %w", desc.Digest, err)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		return err
	}
	return nil
}

// meter shows how much was sent, now and then.
type meter struct {
	show func(int64, bool)
	n    int64
	last time.Time
}

func (m *meter) add(n int) {
	m.n += int64(n)
	if time.Since(m.last) > 200*time.Millisecond {
		m.last = time.Now()
		m.show(m.n, false)
	}
}

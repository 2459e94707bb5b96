package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/flight"
)

// Provider is where missing blobs come from.
type Provider interface {
	// ReaderAt opens a blob; sources are references of images that have it.
	ReaderAt(ctx context.Context, desc ocispecs.Descriptor, sources []string) (content.ReaderAt, error)
}

// Progress is told how a layer gets on: bytes of the blob that are here, of how
// many, and whether the layer is unpacked. It may be called concurrently for
// different layers.
type Progress func(desc ocispecs.Descriptor, done, total int64, unpacked bool)

// fetcher is what a waiter brings to the fetch of a blob.
type fetcher struct {
	provider Provider
	progress Progress
}

func (f fetcher) report(desc ocispecs.Descriptor, done int64, unpacked bool) {
	if f.progress != nil {
		f.progress(desc, done, desc.Size, unpacked)
	}
}

type fetchCall = flight.Call[fetcher, struct{}]

// fetch brings a blob into the blob store unless it is there.
func (s *Store) fetch(ctx context.Context, desc ocispecs.Descriptor, sources []string, f fetcher) error {
	if s.cfg.Blobs.Has(ctx, desc.Digest) {
		f.report(desc, desc.Size, false)
		return nil
	}
	if f.provider == nil {
		return fmt.Errorf("blob %s is not here, and there is nowhere to fetch it from: %w", desc.Digest, cache.ErrNotFound)
	}
	_, err := s.fetches.Do(ctx, desc.Digest, f, func(ctx context.Context, c *fetchCall) (struct{}, error) {
		return struct{}{}, s.fetchFrom(ctx, desc, sources, c)
	})
	return err
}

// fetchFrom tries the providers of all who wait, as one of them may have access
// that another has not, or leave meanwhile.
func (s *Store) fetchFrom(ctx context.Context, desc ocispecs.Descriptor, sources []string, c *fetchCall) error {
	p := &fetchProgress{call: c, desc: desc}
	c.OnJoin(p.replay)
	var errs []error
	for tried := 0; ; tried++ {
		waiters := c.Waiters()
		if ctx.Err() != nil || tried >= len(waiters) {
			errs = append(errs, ctx.Err())
			return fmt.Errorf("fetch blob %s: %w", desc.Digest, errors.Join(errs...))
		}
		err := s.fetchAny(ctx, desc, sources, waiters[tried].provider, p)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
}

// fetchAny lets the provider choose among the sources. If what that gives is not
// what the digest says, it tries every source by itself, the latest first: one
// that is broken or lies must not stand in the way of the others.
func (s *Store) fetchAny(ctx context.Context, desc ocispecs.Descriptor, sources []string, from Provider, p *fetchProgress) error {
	err := s.fetchOnce(ctx, desc, sources, from, p)
	if err == nil || len(sources) < 2 || ctx.Err() != nil {
		return err
	}
	for _, src := range slices.Backward(sources) {
		if s.fetchOnce(ctx, desc, []string{src}, from, p) == nil {
			return nil
		}
	}
	return err
}

func (s *Store) fetchOnce(ctx context.Context, desc ocispecs.Descriptor, sources []string, from Provider, p *fetchProgress) error {
	ra, err := from.ReaderAt(ctx, desc, sources)
	if err != nil {
		return err
	}
	defer ra.Close()
	p.set(0, true)
	r := &countingReader{r: content.NewReader(ra), count: func(n int64) { p.set(n, false) }}
	if err := s.cfg.Blobs.Ingest(ctx, desc, r); err != nil {
		return err
	}
	p.set(desc.Size, true)
	return nil
}

// progressInterval is how often progress is reported at most.
const progressInterval = 100 * time.Millisecond

// fetchProgress passes a download's progress on to all who wait for it.
type fetchProgress struct {
	call *fetchCall
	desc ocispecs.Descriptor

	mu   sync.Mutex // guards what follows
	done int64
	last time.Time
}

// set notes how many bytes are here, and reports it if that is due or always is
// set.
func (p *fetchProgress) set(done int64, always bool) {
	p.mu.Lock()
	p.done = done
	due := always || time.Since(p.last) >= progressInterval
	if due {
		p.last = time.Now()
	}
	p.mu.Unlock()
	if !due {
		return
	}
	for _, w := range p.call.Waiters() {
		w.report(p.desc, done, false)
	}
}

func (p *fetchProgress) replay(f fetcher) {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	f.report(p.desc, done, false)
}

type countingReader struct {
	r     io.Reader
	n     int64
	count func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.count(c.n)
	return n, err
}

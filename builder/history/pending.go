package history

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxPending is how many bytes of blobs may wait to be written: a build that
// makes it more waits for the disk.
const maxPending = 64 << 20

// pending are records that the disk does not have yet. A build waits neither for
// the disk nor until its record is written down: who asks for the record does. A
// crash loses the last of them.
type pending struct {
	recs  map[string]*entry
	blobs map[digest.Digest][]byte
	size  int           // of blobs
	empty chan struct{} // closed when nothing is pending any more; nil if nothing is
}

func newPending() pending {
	return pending{recs: map[string]*entry{}, blobs: map[digest.Digest][]byte{}}
}

// keep takes the record of a build that has ended, which is to be completed.
func (s *Store) keep(ctx context.Context, e *entry) *finalizer {
	f := newFinalizer()
	s.mu.Lock()
	delete(s.active, e.rec.Ref)
	s.open[e.rec.Ref] = f
	p := &s.late
	p.recs[e.rec.Ref] = e
	full := p.size > maxPending
	if p.empty == nil {
		p.empty = make(chan struct{})
		s.writers.Go(func() { s.flush(ctx) })
	}
	s.mu.Unlock()
	if full {
		_ = s.settle(ctx) // ctx does not end
	}
	return f
}

// ready says that a record may be read and written.
func (s *Store) ready(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, b := range e.blobs {
		if _, ok := s.late.blobs[d]; !ok {
			s.late.blobs[d] = b
			s.late.size += len(b)
		}
	}
	close(e.ready)
	s.publishLocked(control.BuildHistoryEventType_COMPLETE, e.rec)
}

// settle waits until nothing is pending.
func (s *Store) settle(ctx context.Context) error {
	s.mu.Lock()
	empty := s.late.empty
	s.mu.Unlock()
	if empty == nil {
		return nil
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// flush writes until nothing is pending. What cannot be written is lost.
func (s *Store) flush(ctx context.Context) {
	for {
		recs, unready, blobs := s.late.take(&s.mu)
		switch {
		case len(recs)+len(blobs) > 0:
			if err := s.write(ctx, recs, blobs); err != nil {
				s.Log.Error("save records of builds", "builds", len(recs), "error", err)
			}
			s.late.drop(&s.mu, recs, blobs)
		case unready != nil:
			<-unready.ready
		default:
			if err := s.trim(); err != nil {
				s.Log.Error("trim history", "error", err)
			}
			return
		}
	}
}

// take returns what can be written, and one of the records that cannot yet. If
// there is neither, it says that nothing is pending.
func (p *pending) take(mu sync.Locker) (recs []*entry, unready *entry, blobs map[digest.Digest][]byte) {
	mu.Lock()
	defer mu.Unlock()
	for _, e := range p.recs {
		select {
		case <-e.ready:
			recs = append(recs, e)
		default:
			unready = e
		}
	}
	if len(p.recs)+len(p.blobs) == 0 {
		close(p.empty)
		p.empty = nil
	}
	return recs, unready, maps.Clone(p.blobs)
}

// drop removes what was written.
func (p *pending) drop(mu sync.Locker, recs []*entry, blobs map[digest.Digest][]byte) {
	mu.Lock()
	defer mu.Unlock()
	for _, e := range recs {
		if p.recs[e.rec.Ref] == e {
			delete(p.recs, e.rec.Ref)
		}
	}
	for d, b := range blobs {
		delete(p.blobs, d)
		p.size -= len(b)
	}
}

// write writes blobs, then the records that point to them.
func (s *Store) write(ctx context.Context, recs []*entry, blobs map[digest.Digest][]byte) error {
	for d, b := range blobs {
		if err := content.WriteBlob(ctx, s.Blobs, "history-"+d.String(), bytes.NewReader(b), ocispecs.Descriptor{Digest: d, Size: int64(len(b))}); err != nil {
			return fmt.Errorf("save blob %s: %w", d, err)
		}
	}
	return s.put(recs)
}

// pendingEntry returns a record once it is complete; nil if it is not pending.
func (s *Store) pendingEntry(ref string) *entry {
	s.mu.Lock()
	e := s.late.recs[ref]
	s.mu.Unlock()
	if e != nil {
		<-e.ready
	}
	return e
}

func (s *Store) pendingRecords() map[string]*control.BuildHistoryRecord {
	s.mu.Lock()
	recs := slices.Collect(maps.Values(s.late.recs))
	s.mu.Unlock()
	out := map[string]*control.BuildHistoryRecord{}
	for _, e := range recs {
		<-e.ready
		out[e.rec.Ref] = e.rec
	}
	return out
}

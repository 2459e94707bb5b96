package history

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/buildd/buildd/builder/trace"
	control "github.com/moby/buildkit/api/services/control"
)

const (
	mediaTypeTrace = "application/vnd.buildkit.otlp.json.v0"
	// finalizeAfter is how long a record waits for the last spans of its client
	// unless it is told that there are no more.
	finalizeAfter = 3 * time.Second
)

// finalizer completes a record with its trace.
type finalizer struct {
	once  sync.Once
	ready chan struct{} // closed by who knows that no more spans come
	done  chan struct{} // closed when the record is complete
}

func newFinalizer() *finalizer {
	return &finalizer{ready: make(chan struct{}), done: make(chan struct{})}
}

// complete saves the trace of a build whose record is there already, once the
// trace is whole.
func (s *Store) complete(ctx context.Context, ref string, b *trace.Build, f *finalizer) {
	defer close(f.done)
	if b != nil {
		select {
		case <-f.ready:
		case <-time.After(finalizeAfter):
		case <-s.closing:
		}
		if err := s.saveTrace(ctx, ref, b); err != nil {
			s.Log.Error("record trace of build", "ref", ref, "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, ref)
}

// finalize waits until a record is complete. One that is needs nothing.
func (s *Store) finalize(ctx context.Context, ref string) error {
	s.mu.Lock()
	f := s.open[ref]
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	f.once.Do(func() { close(f.ready) })
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Store) saveTrace(ctx context.Context, ref string, b *trace.Build) error {
	var buf bytes.Buffer
	if err := trace.Encode(&buf, b.Spans()); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	e := newEntry(nil)
	d := e.blob(mediaTypeTrace, buf.Bytes())
	if err := s.write(ctx, nil, e.blobs); err != nil {
		return err
	}
	err := s.modify(ref, func(r *control.BuildHistoryRecord) { r.Trace = d })
	if errors.Is(err, ErrNotFound) { // it was deleted meanwhile
		return nil
	}
	return err
}

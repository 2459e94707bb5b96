package history

import (
	"bytes"
	"context"
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

// finalizeLater saves the trace of a build that is recorded already, once it is
// whole.
func (s *Store) finalizeLater(ctx context.Context, ref string, b *trace.Build) {
	if b == nil {
		return
	}
	f := &finalizer{ready: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	s.open[ref] = f
	s.mu.Unlock()
	s.tracing.Go(func() {
		defer close(f.done)
		select {
		case <-f.ready:
		case <-time.After(finalizeAfter):
		case <-s.closing:
		}
		if err := s.saveTrace(ctx, ref, b); err != nil {
			s.Log.Error("record trace of build", "ref", ref, "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, ref)
	})
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
	d, err := s.saveBlob(ctx, mediaTypeTrace, buf.Bytes())
	if err != nil {
		return err
	}
	return s.modify(ref, func(r *control.BuildHistoryRecord) { r.Trace = d })
}

package trace

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	// maxSpans is how many spans one trace may have; what comes later is dropped.
	maxSpans = 20_000
	// maxWaiting is how many spans are kept of traces that no build belongs to,
	// yet: clients may send spans before they ask for the build.
	maxWaiting = 10_000
	// keepWaiting is for how long.
	keepWaiting = time.Minute
)

// Recorder keeps the spans of the traces that builds belong to. It is safe for
// concurrent use.
type Recorder struct {
	mu      sync.Mutex // guards what follows
	traces  map[trace.TraceID]*spans
	waiting int // spans of traces that nobody watches
	now     func() time.Time
}

// spans are those of one trace.
type spans struct {
	list    []tracetest.SpanStub
	watched int // builds that will ask for them
	last    time.Time
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder {
	return &Recorder{traces: map[trace.TraceID]*spans{}, now: time.Now}
}

// Add enters spans.
func (r *Recorder) Add(list ...tracetest.SpanStub) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropOldLocked()
	for _, s := range list {
		t := r.traceLocked(s.SpanContext.TraceID())
		if len(t.list) >= maxSpans || (t.watched == 0 && r.waiting >= maxWaiting) {
			continue
		}
		t.list = append(t.list, s)
		t.last = r.now()
		if t.watched == 0 {
			r.waiting++
		}
	}
}

func (r *Recorder) traceLocked(id trace.TraceID) *spans {
	t, ok := r.traces[id]
	if !ok {
		t = &spans{}
		r.traces[id] = t
	}
	return t
}

func (r *Recorder) dropOldLocked() {
	for id, t := range r.traces {
		if t.watched == 0 && r.now().Sub(t.last) > keepWaiting {
			r.waiting -= len(t.list)
			delete(r.traces, id)
		}
	}
}

// watch keeps the spans of a trace until stop is called, which returns them.
func (r *Recorder) watch(id trace.TraceID) (stop func() []tracetest.SpanStub) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.traceLocked(id)
	if t.watched == 0 {
		r.waiting -= len(t.list)
	}
	t.watched++
	return sync.OnceValue(func() []tracetest.SpanStub {
		r.mu.Lock()
		defer r.mu.Unlock()
		list := append([]tracetest.SpanStub(nil), t.list...)
		if t.watched--; t.watched == 0 {
			delete(r.traces, id)
		}
		return list
	})
}

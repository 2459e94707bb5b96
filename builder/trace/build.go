package trace

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	service = "buildd"
	// solveSpan is what BuildKit calls the span of a build in the daemon.
	solveSpan = "moby.buildkit.v1.Control/Solve"
)

// Build is the trace of one build.
type Build struct {
	r     *Recorder
	span  tracetest.SpanStub // of the whole build
	spans func() []tracetest.SpanStub
}

// Begin starts the trace of a build, as a part of the client's trace if ctx
// carries it. A nil Recorder records nothing.
func (r *Recorder) Begin(ctx context.Context) *Build {
	if r == nil {
		return nil
	}
	parent := trace.SpanContextFromContext(ctx)
	id := parent.TraceID()
	if !id.IsValid() {
		_, _ = rand.Read(id[:]) // never fails
	}
	b := &Build{r: r, spans: r.watch(id)}
	b.span = stub(id, parent, solveSpan, trace.SpanKindServer, time.Now())
	return b
}

func stub(id trace.TraceID, parent trace.SpanContext, name string, kind trace.SpanKind, start time.Time) tracetest.SpanStub {
	var span trace.SpanID
	_, _ = rand.Read(span[:]) // never fails
	return tracetest.SpanStub{
		Name: name, SpanKind: kind, StartTime: start, Parent: parent,
		SpanContext:          trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.FlagsSampled}),
		Resource:             resource.NewSchemaless(attribute.String("service.name", service)),
		InstrumentationScope: instrumentation.Scope{Name: service},
	}
}

// End ends the build's span at a time and enters one for each step and each part of a step
// that follow tells of: it calls its argument with the build's whole progress.
func (b *Build) End(ctx context.Context, ref string, at time.Time, err error, follow func(context.Context, func(*control.StatusResponse) error) error) error {
	if b == nil {
		return nil
	}
	b.span.EndTime = at
	b.span.Attributes = []attribute.KeyValue{attribute.String("ref", ref)}
	b.span.Status = statusOf(err)
	steps := steps{build: b.span, by: map[string]*tracetest.SpanStub{}}
	ferr := follow(ctx, func(e *control.StatusResponse) error {
		steps.add(e)
		return nil
	})
	b.r.Add(append(steps.spans(), b.span)...)
	if ferr != nil {
		return fmt.Errorf("trace build %s: %w", ref, ferr)
	}
	return nil
}

// Spans returns what is known of the trace and lets go of it.
func (b *Build) Spans() []tracetest.SpanStub {
	if b == nil {
		return nil
	}
	return b.spans()
}

func statusOf(err error) sdktrace.Status {
	if err == nil {
		return sdktrace.Status{Code: codes.Ok}
	}
	return sdktrace.Status{Code: codes.Error, Description: err.Error()}
}

// Encode writes spans as history records keep them.
func Encode(w io.Writer, list []tracetest.SpanStub) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	for _, s := range list {
		if err := enc.Encode(s); err != nil {
			return fmt.Errorf("encode span %q: %w", s.Name, err)
		}
	}
	return nil
}

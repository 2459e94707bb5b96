package trace

import (
	"errors"

	control "github.com/moby/buildkit/api/services/control"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// steps makes spans of progress.
type steps struct {
	build tracetest.SpanStub
	by    map[string]*tracetest.SpanStub // by vertex
	parts []tracetest.SpanStub
}

func (s *steps) add(e *control.StatusResponse) {
	for _, v := range e.Vertexes {
		if v.Started == nil {
			continue
		}
		span, ok := s.by[v.Digest]
		if !ok {
			started := stub(s.build.SpanContext.TraceID(), s.build.SpanContext, v.Name, trace.SpanKindInternal, v.Started.AsTime())
			span = &started
			s.by[v.Digest] = span
		}
		span.Attributes = []attribute.KeyValue{attribute.String("vertex", v.Digest), attribute.Bool("cached", v.Cached)}
		if v.Completed == nil {
			continue
		}
		span.EndTime = v.Completed.AsTime()
		span.Status = statusOf(nil)
		if v.Error != "" {
			span.Status = statusOf(errors.New(v.Error))
		}
	}
	for _, p := range e.Statuses {
		step, ok := s.by[p.Vertex]
		if !ok || p.Started == nil || p.Completed == nil {
			continue
		}
		span := stub(s.build.SpanContext.TraceID(), step.SpanContext, p.ID, trace.SpanKindInternal, p.Started.AsTime())
		span.EndTime = p.Completed.AsTime()
		span.Status = statusOf(nil)
		if p.Total > 0 {
			span.Attributes = []attribute.KeyValue{attribute.Int64("bytes", p.Total)}
		}
		s.parts = append(s.parts, span)
	}
}

// spans returns those that have ended.
func (s *steps) spans() []tracetest.SpanStub {
	out := s.parts
	for _, span := range s.by {
		if !span.EndTime.IsZero() {
			out = append(out, *span)
		}
	}
	return out
}

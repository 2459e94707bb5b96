package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var (
	traceID = trace.TraceID{1, 2, 3}
	spanID  = trace.SpanID{4, 5, 6}
)

func withClient(ctx context.Context) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled}))
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}

// sent is what a client exports.
func sent(spans ...*otlp.Span) *collector.ExportTraceServiceRequest {
	return &collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{
		Resource:   &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: text("buildctl")}}},
		ScopeSpans: []*otlp.ScopeSpans{{Scope: &common.InstrumentationScope{Name: "scope"}, Spans: spans}},
	}}}
}

func find(t *testing.T, list []tracetest.SpanStub, name string) tracetest.SpanStub {
	t.Helper()
	i := slices.IndexFunc(list, func(s tracetest.SpanStub) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("there is no span %q among %d", name, len(list))
	}
	return list[i]
}

func TestBuildIsPartOfTheClientsTrace(t *testing.T) {
	r := NewRecorder()
	b := r.Begin(withClient(t.Context()))
	if _, err := (traceService{r: r}).Export(t.Context(), sent(
		&otlp.Span{
			TraceId: traceID[:], SpanId: spanID[:], Name: "build", Kind: otlp.Span_SPAN_KIND_CLIENT, StartTimeUnixNano: 1, EndTimeUnixNano: 2,
			Status: &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: "broken"},
			Attributes: []*common.KeyValue{
				{Key: "text", Value: text("x")},
				{Key: "list", Value: &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: []*common.AnyValue{
					{Value: &common.AnyValue_IntValue{IntValue: 1}}, {Value: &common.AnyValue_IntValue{IntValue: 2}},
				}}}}},
				{Key: "nothing"},
			},
			Events: []*otlp.Span_Event{{Name: "event", TimeUnixNano: 3}},
		},
		&otlp.Span{TraceId: []byte{1}, SpanId: spanID[:], Name: "malformed"},
		nil,
	)); err != nil {
		t.Fatal(err)
	}
	start := time.Unix(100, 0)
	follow := func(_ context.Context, send func(*control.StatusResponse) error) error {
		return send(&control.StatusResponse{
			Vertexes: []*control.Vertex{
				{Digest: "a", Name: "step a", Started: timestamppb.New(start)},
				{Digest: "a", Name: "step a", Started: timestamppb.New(start), Completed: timestamppb.New(start.Add(time.Second)), Error: "exit 1"},
				{Digest: "b", Name: "never started"},
				{Digest: "c", Name: "never ended", Started: timestamppb.New(start)},
			},
			Statuses: []*control.VertexStatus{
				{ID: "part", Vertex: "a", Total: 7, Started: timestamppb.New(start), Completed: timestamppb.New(start)},
				{ID: "part of nothing", Vertex: "x", Started: timestamppb.New(start), Completed: timestamppb.New(start)},
			},
		})
	}
	if err := b.End(t.Context(), "ref", time.Now(), errors.New("exit 1"), follow); err != nil {
		t.Fatal(err)
	}
	list := b.Spans()
	if len(list) != 4 {
		t.Errorf("%d spans", len(list))
	}
	for _, s := range list {
		if s.SpanContext.TraceID() != traceID {
			t.Errorf("span %s is of trace %s", s.Name, s.SpanContext.TraceID())
		}
	}
	client := find(t, list, "build")
	if client.Status.Code != codes.Error || client.Status.Description != "broken" || client.SpanKind != trace.SpanKindClient ||
		client.EndTime.UnixNano() != 2 || len(client.Events) != 1 || client.InstrumentationScope.Name != "scope" {
		t.Errorf("client's span %+v", client)
	}
	if got := client.Attributes[1].Value.AsInt64Slice(); !slices.Equal(got, []int64{1, 2}) || client.Attributes[0].Value.AsString() != "x" {
		t.Errorf("attributes %v", client.Attributes)
	}
	build := find(t, list, solveSpan)
	if build.Parent.SpanID() != spanID || build.Status.Code != codes.Error {
		t.Errorf("build %+v", build)
	}
	step := find(t, list, "step a")
	if step.Parent.SpanID() != build.SpanContext.SpanID() || step.EndTime.Sub(step.StartTime) != time.Second || step.Status.Description != "exit 1" {
		t.Errorf("step %+v", step)
	}
	if part := find(t, list, "part"); part.Parent.SpanID() != step.SpanContext.SpanID() {
		t.Errorf("part %+v", part)
	}
	if len(r.traces) != 0 || r.waiting != 0 {
		t.Errorf("%d traces stay, %d spans wait", len(r.traces), r.waiting)
	}
}

func TestBuildWithoutClientsTrace(t *testing.T) {
	b := NewRecorder().Begin(t.Context())
	if err := b.End(t.Context(), "ref", time.Now(), nil, func(context.Context, func(*control.StatusResponse) error) error { return nil }); err != nil {
		t.Fatal(err)
	}
	list := b.Spans()
	if len(list) != 1 || !list[0].SpanContext.IsValid() || list[0].Parent.IsValid() || list[0].Status.Code != codes.Ok {
		t.Errorf("%+v", list)
	}
	var none *Recorder
	if b := none.Begin(t.Context()); b.End(t.Context(), "ref", time.Now(), nil, nil) != nil || b.Spans() != nil {
		t.Error("no recorder records")
	}
}

func TestRecorderIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	r := NewRecorder()
	r.now = func() time.Time { return now }
	add := func(id trace.TraceID, n int) {
		for range n {
			r.Add(stub(id, trace.SpanContext{}, "x", trace.SpanKindClient, now))
		}
	}
	add(traceID, maxWaiting+5)
	if n := len(r.traces[traceID].list); n != maxWaiting {
		t.Errorf("%d spans of a trace that nobody asked for", n)
	}
	// What came early counts for the build, and makes room for other traces.
	first, second := r.watch(traceID), r.watch(traceID)
	add(trace.TraceID{9}, 1)
	if r.waiting != 1 {
		t.Errorf("%d spans wait", r.waiting)
	}
	now = now.Add(2 * keepWaiting)
	add(traceID, 1)
	if len(r.traces) != 1 || r.waiting != 0 {
		t.Errorf("%d traces, %d spans wait: what nobody asked for should be gone", len(r.traces), r.waiting)
	}
	add(traceID, maxSpans)
	if n := len(first()); n != maxSpans {
		t.Errorf("%d spans", n)
	}
	if n, again := len(second()), len(second()); n != maxSpans || again != n || len(r.traces) != 0 {
		t.Errorf("%d spans for the second build, then %d; %d traces stay", n, again, len(r.traces))
	}
}

func TestEncode(t *testing.T) {
	var buf bytes.Buffer
	list := []tracetest.SpanStub{
		stub(traceID, trace.SpanContext{}, "one", trace.SpanKindServer, time.Unix(1, 0)),
		stub(traceID, trace.SpanContext{}, "two", trace.SpanKindServer, time.Unix(2, 0)),
	}
	if err := Encode(&buf, list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for dec := json.NewDecoder(&buf); ; {
		var s struct {
			Name        string
			SpanContext struct{ TraceID, SpanID string }
			StartTime   time.Time
		}
		err := dec.Decode(&s)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if s.SpanContext.TraceID != traceID.String() || s.StartTime.IsZero() {
			t.Errorf("%+v", s)
		}
		names = append(names, s.Name)
	}
	if !slices.Equal(names, []string{"one", "two"}) {
		t.Errorf("spans %q", names)
	}
}

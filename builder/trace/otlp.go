package trace

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
)

// fromOTLP reads spans as they come over the wire; those without a valid ID are
// left out.
func fromOTLP(in []*otlp.ResourceSpans) []tracetest.SpanStub {
	var out []tracetest.SpanStub
	for _, rs := range in {
		res := resource.NewWithAttributes(rs.GetSchemaUrl(), attributes(rs.GetResource().GetAttributes())...)
		for _, ss := range rs.GetScopeSpans() {
			scope := instrumentation.Scope{Name: ss.GetScope().GetName(), Version: ss.GetScope().GetVersion(), SchemaURL: ss.GetSchemaUrl()}
			for _, s := range ss.GetSpans() {
				span := fromSpan(s)
				if !span.SpanContext.IsValid() {
					continue
				}
				span.Resource, span.InstrumentationScope = res, scope
				out = append(out, span)
			}
		}
	}
	return out
}

func fromSpan(s *otlp.Span) tracetest.SpanStub {
	out := tracetest.SpanStub{
		Name:        s.GetName(),
		SpanContext: spanContext(s.GetTraceId(), s.GetSpanId(), s.GetTraceState()),
		SpanKind:    kind(s.GetKind()),
		StartTime:   at(s.GetStartTimeUnixNano()), EndTime: at(s.GetEndTimeUnixNano()),
		Attributes:        attributes(s.GetAttributes()),
		Status:            status(s.GetStatus()),
		DroppedAttributes: int(s.GetDroppedAttributesCount()), DroppedEvents: int(s.GetDroppedEventsCount()), DroppedLinks: int(s.GetDroppedLinksCount()),
	}
	if len(s.GetParentSpanId()) > 0 {
		out.Parent = spanContext(s.GetTraceId(), s.GetParentSpanId(), "")
	}
	for _, e := range s.GetEvents() {
		out.Events = append(out.Events, sdktrace.Event{
			Name: e.GetName(), Time: at(e.GetTimeUnixNano()), Attributes: attributes(e.GetAttributes()), DroppedAttributeCount: int(e.GetDroppedAttributesCount()),
		})
	}
	for _, l := range s.GetLinks() {
		out.Links = append(out.Links, sdktrace.Link{
			SpanContext: spanContext(l.GetTraceId(), l.GetSpanId(), l.GetTraceState()), Attributes: attributes(l.GetAttributes()),
			DroppedAttributeCount: int(l.GetDroppedAttributesCount()),
		})
	}
	return out
}

func at(nanos uint64) time.Time { return time.Unix(0, int64(nanos)).UTC() }

// spanContext is invalid if an ID has not its length.
func spanContext(traceID, spanID []byte, state string) trace.SpanContext {
	var t trace.TraceID
	var s trace.SpanID
	if len(traceID) != len(t) || len(spanID) != len(s) {
		return trace.SpanContext{}
	}
	copy(t[:], traceID)
	copy(s[:], spanID)
	st, err := trace.ParseTraceState(state)
	if err != nil {
		st = trace.TraceState{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: t, SpanID: s, TraceFlags: trace.FlagsSampled, TraceState: st, Remote: true})
}

func kind(k otlp.Span_SpanKind) trace.SpanKind {
	switch k {
	case otlp.Span_SPAN_KIND_INTERNAL:
		return trace.SpanKindInternal
	case otlp.Span_SPAN_KIND_SERVER:
		return trace.SpanKindServer
	case otlp.Span_SPAN_KIND_CLIENT:
		return trace.SpanKindClient
	case otlp.Span_SPAN_KIND_PRODUCER:
		return trace.SpanKindProducer
	case otlp.Span_SPAN_KIND_CONSUMER:
		return trace.SpanKindConsumer
	default:
		return trace.SpanKindUnspecified
	}
}

func status(s *otlp.Status) sdktrace.Status {
	out := sdktrace.Status{Description: s.GetMessage()}
	switch s.GetCode() {
	case otlp.Status_STATUS_CODE_OK:
		out.Code = codes.Ok
	case otlp.Status_STATUS_CODE_ERROR:
		out.Code = codes.Error
	default:
		out.Code = codes.Unset
	}
	return out
}

func attributes(in []*common.KeyValue) []attribute.KeyValue {
	out := make([]attribute.KeyValue, 0, len(in))
	for _, kv := range in {
		out = append(out, attribute.KeyValue{Key: attribute.Key(kv.GetKey()), Value: value(kv.GetValue())})
	}
	return out
}

// value reads an attribute. Lists must be of one type, as the SDK has them; what
// it has no type for becomes text.
func value(v *common.AnyValue) attribute.Value {
	switch x := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return attribute.StringValue(x.StringValue)
	case *common.AnyValue_BoolValue:
		return attribute.BoolValue(x.BoolValue)
	case *common.AnyValue_IntValue:
		return attribute.Int64Value(x.IntValue)
	case *common.AnyValue_DoubleValue:
		return attribute.Float64Value(x.DoubleValue)
	case *common.AnyValue_ArrayValue:
		return list(x.ArrayValue.GetValues())
	case nil:
		return attribute.StringValue("")
	default:
		return attribute.StringValue(v.String())
	}
}

func list(vs []*common.AnyValue) attribute.Value {
	if len(vs) == 0 {
		return attribute.StringSliceValue(nil)
	}
	switch vs[0].GetValue().(type) {
	case *common.AnyValue_BoolValue:
		return attribute.BoolSliceValue(each(vs, (*common.AnyValue).GetBoolValue))
	case *common.AnyValue_IntValue:
		return attribute.Int64SliceValue(each(vs, (*common.AnyValue).GetIntValue))
	case *common.AnyValue_DoubleValue:
		return attribute.Float64SliceValue(each(vs, (*common.AnyValue).GetDoubleValue))
	default:
		return attribute.StringSliceValue(each(vs, (*common.AnyValue).GetStringValue))
	}
}

func each[T any](vs []*common.AnyValue, get func(*common.AnyValue) T) []T {
	out := make([]T, len(vs))
	for i, v := range vs {
		out[i] = get(v)
	}
	return out
}

package control

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc/metadata"
)

// withTrace puts the client's span, which the headers of its call name (W3C Trace
// Context), into ctx.
func withTrace(ctx context.Context) context.Context {
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, headers(md))
}

// headers implements propagation.TextMapCarrier.
type headers metadata.MD

func (h headers) Get(key string) string {
	if vs := metadata.MD(h).Get(key); len(vs) > 0 {
		return vs[0]
	}
	return ""
}

func (h headers) Set(key, value string) { metadata.MD(h).Set(key, value) }

func (h headers) Keys() []string {
	var out []string
	for k := range h {
		out = append(out, k)
	}
	return out
}

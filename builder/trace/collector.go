package trace

import (
	"context"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// Register serves the OTLP trace collector on srv: clients of BuildKit send
// their spans to the daemon that they build with.
func (r *Recorder) Register(srv grpc.ServiceRegistrar) {
	collector.RegisterTraceServiceServer(srv, traceService{r: r})
}

type traceService struct {
	collector.UnimplementedTraceServiceServer
	r *Recorder
}

// Export implements collector.TraceServiceServer. Spans that cannot be read are
// dropped: a build must not fail for its trace.
func (s traceService) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.r.Add(fromOTLP(req.GetResourceSpans())...)
	return &collector.ExportTraceServiceResponse{}, nil
}

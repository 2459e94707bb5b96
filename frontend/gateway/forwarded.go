package gateway

import (
	"context"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
)

// forwarded passes every call on to the session of its build.
type forwarded struct {
	gwpb.UnimplementedLLBBridgeServer
	f *Forwarder
}

func forward[I, O any](ctx context.Context, f *Forwarder, in I, call func(*Session, context.Context, I) (O, error)) (O, error) {
	s, err := f.find(ctx)
	if err != nil {
		var zero O
		return zero, err
	}
	return call(s, ctx, in)
}

func (w *forwarded) ExecProcess(srv gwpb.LLBBridge_ExecProcessServer) error {
	s, err := w.f.find(srv.Context())
	if err != nil {
		return err
	}
	return s.ExecProcess(srv)
}

func (w *forwarded) ResolveImageConfig(ctx context.Context, in *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	return forward(ctx, w.f, in, (*Session).ResolveImageConfig)
}

func (w *forwarded) ResolveSourceMeta(ctx context.Context, in *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	return forward(ctx, w.f, in, (*Session).ResolveSourceMeta)
}

func (w *forwarded) Solve(ctx context.Context, in *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	return forward(ctx, w.f, in, (*Session).Solve)
}

func (w *forwarded) ReadFile(ctx context.Context, in *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	return forward(ctx, w.f, in, (*Session).ReadFile)
}

func (w *forwarded) ReadDir(ctx context.Context, in *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	return forward(ctx, w.f, in, (*Session).ReadDir)
}

func (w *forwarded) StatFile(ctx context.Context, in *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	return forward(ctx, w.f, in, (*Session).StatFile)
}

func (w *forwarded) Evaluate(ctx context.Context, in *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	return forward(ctx, w.f, in, (*Session).Evaluate)
}

func (w *forwarded) Ping(ctx context.Context, in *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	return forward(ctx, w.f, in, (*Session).Ping)
}

func (w *forwarded) Return(ctx context.Context, in *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	return forward(ctx, w.f, in, (*Session).Return)
}

func (w *forwarded) Inputs(ctx context.Context, in *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	return forward(ctx, w.f, in, (*Session).Inputs)
}

func (w *forwarded) NewContainer(ctx context.Context, in *gwpb.NewContainerRequest) (*gwpb.NewContainerResponse, error) {
	return forward(ctx, w.f, in, (*Session).NewContainer)
}

func (w *forwarded) ReleaseContainer(ctx context.Context, in *gwpb.ReleaseContainerRequest) (*gwpb.ReleaseContainerResponse, error) {
	return forward(ctx, w.f, in, (*Session).ReleaseContainer)
}

func (w *forwarded) ReadFileContainer(ctx context.Context, in *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	return forward(ctx, w.f, in, (*Session).ReadFileContainer)
}

func (w *forwarded) ReadDirContainer(ctx context.Context, in *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	return forward(ctx, w.f, in, (*Session).ReadDirContainer)
}

func (w *forwarded) StatFileContainer(ctx context.Context, in *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	return forward(ctx, w.f, in, (*Session).StatFileContainer)
}

func (w *forwarded) Warn(ctx context.Context, in *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	return forward(ctx, w.f, in, (*Session).Warn)
}

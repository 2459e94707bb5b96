package control

import (
	"context"
	"time"

	"github.com/buildd/buildd/builder"
	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/buildd/buildd/worker/session"
	control "github.com/moby/buildkit/api/services/control"
	types "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/session/grpchijack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// timestampKey is the header by which clients correct for a clock of their own.
const timestampKey = "buildkit-current-timestamp"

// Usage is the daemon's disk usage.
type Usage interface {
	Usage(ctx context.Context, req *control.DiskUsageRequest) ([]*control.UsageRecord, error)
	Prune(ctx context.Context, req *control.PruneRequest, removed func(*control.UsageRecord) error) error
}

// History is the record of builds.
type History interface {
	Listen(ctx context.Context, req *control.BuildHistoryRequest, send func(*control.BuildHistoryEvent) error) error
	Update(ctx context.Context, req *control.UpdateBuildHistoryRequest) error
	// Replay sends the progress of a build that is over; known is false if there
	// is no record of it.
	Replay(ctx context.Context, ref string, send func(*control.StatusResponse) error) (known bool, err error)
}

// Config is what a Server stands on.
type Config struct {
	Builder  *builder.Builder
	Sessions *session.Manager
	Usage    Usage
	History  History
	// Workers are the machines that run steps.
	Workers func(ctx context.Context, filters []string) ([]*types.WorkerRecord, error)
	Version *types.BuildkitVersion
}

// Server implements control.ControlServer.
type Server struct {
	control.UnimplementedControlServer
	Config
}

// New returns a Server.
func New(c Config) *Server { return &Server{Config: c} }

// Register serves the API on srv.
func (s *Server) Register(srv grpc.ServiceRegistrar) {
	control.RegisterControlServer(srv, s)
	filesyncv1.RegisterLenderServer(srv, &lender{sessions: s.Sessions})
}

// Solve implements control.ControlServer.
func (s *Server) Solve(ctx context.Context, req *control.SolveRequest) (*control.SolveResponse, error) {
	return s.Builder.Solve(withTrace(ctx), req)
}

// Status implements control.ControlServer.
func (s *Server) Status(req *control.StatusRequest, srv control.Control_StatusServer) error {
	if err := sendTime(srv); err != nil {
		return err
	}
	if known, err := s.History.Replay(srv.Context(), req.Ref, srv.Send); known || err != nil {
		return err
	}
	return s.Builder.Follow(srv.Context(), req.Ref, srv.Send)
}

// Session implements control.ControlServer: the client's own services come in
// over this call, as HTTP/2 within its stream.
func (s *Server) Session(srv control.Control_SessionServer) error {
	conn, closed, meta := grpchijack.Hijack(srv)
	defer conn.Close()
	ctx, cancel := context.WithCancel(srv.Context())
	defer cancel()
	go func() { // ends with the connection
		<-closed
		cancel()
	}()
	return s.Sessions.HandleConn(ctx, conn, meta)
}

// ListWorkers implements control.ControlServer.
func (s *Server) ListWorkers(ctx context.Context, req *control.ListWorkersRequest) (*control.ListWorkersResponse, error) {
	ws, err := s.Workers(ctx, req.Filter)
	return &control.ListWorkersResponse{Record: ws}, err
}

// Info implements control.ControlServer.
func (s *Server) Info(context.Context, *control.InfoRequest) (*control.InfoResponse, error) {
	return &control.InfoResponse{BuildkitVersion: s.Version}, nil
}

// DiskUsage implements control.ControlServer.
func (s *Server) DiskUsage(ctx context.Context, req *control.DiskUsageRequest) (*control.DiskUsageResponse, error) {
	rs, err := s.Usage.Usage(ctx, req)
	return &control.DiskUsageResponse{Record: rs}, err
}

// Prune implements control.ControlServer.
func (s *Server) Prune(req *control.PruneRequest, srv control.Control_PruneServer) error {
	return s.Usage.Prune(srv.Context(), req, srv.Send)
}

// ListenBuildHistory implements control.ControlServer.
func (s *Server) ListenBuildHistory(req *control.BuildHistoryRequest, srv control.Control_ListenBuildHistoryServer) error {
	if err := sendTime(srv); err != nil {
		return err
	}
	return s.History.Listen(srv.Context(), req, srv.Send)
}

// UpdateBuildHistory implements control.ControlServer.
func (s *Server) UpdateBuildHistory(ctx context.Context, req *control.UpdateBuildHistoryRequest) (*control.UpdateBuildHistoryResponse, error) {
	return &control.UpdateBuildHistoryResponse{}, s.History.Update(ctx, req)
}

func sendTime(srv grpc.ServerStream) error {
	return srv.SendHeader(metadata.Pairs(timestampKey, time.Now().Format(time.RFC3339Nano)))
}

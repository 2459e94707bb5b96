package explainapi

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/buildd/buildd/builder/history"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	control "github.com/moby/buildkit/api/services/control"
)

// History is the part of history.Store that is used.
type History interface {
	Find(build string) (*control.BuildHistoryRecord, error)
	Steps(ref string) ([]*explainv1.Step, error)
}

// Server implements explainv1.ExplainServer.
type Server struct {
	explainv1.UnimplementedExplainServer
	history History
}

// New returns a Server.
func New(h History) *Server { return &Server{history: h} }

// Register serves the API on srv.
func (s *Server) Register(srv grpc.ServiceRegistrar) { explainv1.RegisterExplainServer(srv, s) }

// Why implements explainv1.ExplainServer.
func (s *Server) Why(_ context.Context, req *explainv1.WhyRequest) (*explainv1.WhyResponse, error) {
	rec, err := s.history.Find(req.Build)
	if err != nil {
		return nil, withCode(err)
	}
	steps, err := s.history.Steps(rec.Ref)
	if err != nil {
		return nil, withCode(err)
	}
	if steps, err = choose(steps, req.Step); err != nil {
		return nil, err
	}
	return &explainv1.WhyResponse{
		Build: rec.Ref, CreatedNs: rec.CreatedAt.AsTime().UnixNano(), CompletedNs: rec.CompletedAt.AsTime().UnixNano(),
		Error: rec.Error.GetMessage(), Steps: steps,
	}, nil
}

func withCode(err error) error {
	_, ambiguous := errors.AsType[*history.AmbiguousError](err)
	switch {
	case ambiguous:
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, history.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, history.ErrRunning):
		return status.Error(codes.FailedPrecondition, err.Error())
	default:
		return err
	}
}

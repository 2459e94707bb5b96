package control

import (
	"errors"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/buildd/buildd/worker/session"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// lender implements filesyncv1.LenderServer.
type lender struct {
	filesyncv1.UnimplementedLenderServer
	sessions *session.Manager
}

// Lend implements filesyncv1.LenderServer.
func (l *lender) Lend(s session.LentStream) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	id := filesyncv1.SessionOf(md)
	if id == "" {
		return status.Error(codes.InvalidArgument, "lend a stream: want the session in the metadata")
	}
	err := l.sessions.Lend(id, s)
	if errors.Is(err, session.ErrTooManyStreams) {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return err
}

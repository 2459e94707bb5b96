package filesyncv1

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// sessionKey is the header with the session that a stream is lent to.
const sessionKey = "session"

// SessionOf returns the session that a stream is lent to; "" if it does not say.
func SessionOf(md metadata.MD) string {
	if ids := md.Get(sessionKey); len(ids) > 0 {
		return ids[0]
	}
	return ""
}

// pieces is one side of a lent stream.
type pieces interface {
	Send(*Piece) error
	Recv() (*Piece, error)
}

// Call is the daemon's side of a call over a lent stream. One goroutine may send
// while another receives.
type Call struct {
	s pieces
}

// NewCall begins a call of method, the full name with slashes.
func NewCall(s pieces, method string, md metadata.MD) (*Call, error) {
	b := &Begin{Method: method}
	for key, values := range md {
		b.Headers = append(b.Headers, &Header{Key: key, Values: values})
	}
	if err := s.Send(&Piece{Begin: b}); err != nil {
		return nil, fmt.Errorf("call %s: %w", method, err)
	}
	return &Call{s: s}, nil
}

// Send sends data, which must not be written to afterwards.
func (c *Call) Send(data []byte) error { return c.s.Send(&Piece{Data: data}) }

// CloseSend says that everything was sent.
func (c *Call) CloseSend() error { return c.s.Send(&Piece{End: &End{}}) }

// Recv returns the next data. It is io.EOF when the call has ended well, and the
// client's status if it did not.
func (c *Call) Recv() ([]byte, error) {
	p, err := c.s.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF // the client says how a call ended
	case err != nil:
		return nil, err
	case p.End == nil:
		return p.Data, nil
	case p.End.Code == int32(codes.OK):
		return nil, io.EOF
	default:
		return nil, status.Error(codes.Code(p.End.Code), p.End.Message) //nolint:gosec // no code is no number either
	}
}

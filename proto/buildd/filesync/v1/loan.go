package filesyncv1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/buildkit/session/filesync"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Handlers are what a client answers over the streams that it lends; nil is no
// such service.
type Handlers struct {
	Files  filesync.FileSyncServer
	Output filesync.FileSendServer // of outputs that are one file
}

// Loan is a client's readiness to answer calls over streams that it lends.
type Loan struct {
	daemon   LenderClient
	handlers Handlers
	cancel   context.CancelFunc
	group    *errgroup.Group
}

// Lend lends the daemon behind cc streams for a session until ctx ends or End is called. When it
// returns, the daemon has the first of them. The error is Unimplemented of a daemon that
// does not take any.
func Lend(ctx context.Context, cc grpc.ClientConnInterface, session string, h Handlers) (*Loan, error) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, sessionKey, session))
	l := &Loan{daemon: NewLenderClient(cc), handlers: h, cancel: cancel, group: new(errgroup.Group)}
	if err := l.lend(ctx); err != nil {
		l.End()
		return nil, err
	}
	return l, nil
}

// End takes all streams back. Calls that go on fail.
func (l *Loan) End() {
	l.cancel()
	_ = l.group.Wait() // the daemon knows how its calls ended
}

// lend lends one stream. The next one follows as soon as it is used.
func (l *Loan) lend(ctx context.Context) error {
	s, err := l.daemon.Lend(ctx)
	if err != nil {
		return err
	}
	if md, err := s.Header(); err != nil {
		return err
	} else if md == nil { // it ended
		_, err := s.Recv()
		return err
	}
	l.group.Go(func() error {
		p, err := s.Recv()
		if err != nil {
			return err
		}
		l.group.Go(func() error { return l.lend(ctx) })
		return answer(s, l.handlers.serve(newAnswer(ctx, s, p.GetBegin()), p.GetBegin().GetMethod()))
	})
	return nil
}

// answer tells the daemon how a call ended and waits until it knows.
func answer(s grpc.BidiStreamingClient[Piece, Piece], err error) error {
	st := status.Convert(err)
	if err := s.Send(&Piece{End: &End{Code: int32(st.Code()), Message: st.Message()}}); err != nil { //nolint:gosec // a gRPC code
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

func (h Handlers) serve(a *answering, method string) error {
	switch {
	case method == FileSync_DiffCopy_FullMethodName && h.Files != nil:
		p := &packets{
			ServerStream: a,
			out:          NewWriter(func(p *Packets) error { return a.send(p.Data) }),
			in: NewReader(func() (*Packets, error) {
				b, err := a.recv()
				return &Packets{Data: b}, err
			}),
		}
		err := h.Files.DiffCopy(p)
		if cerr := p.out.Close(); err == nil {
			err = cerr
		}
		return err
	case method == filesync.FileSend_DiffCopy_FullMethodName && h.Output != nil:
		return h.Output.DiffCopy(&bytesStream{a})
	default:
		return status.Errorf(codes.Unimplemented, "method %q is not known", method)
	}
}

// answering is the client's side of a call. It has what the handlers need of a
// server's stream.
type answering struct {
	ctx context.Context
	s   pieces
}

var errNoMessages = errors.New("a lent stream carries data only")

func newAnswer(ctx context.Context, s pieces, b *Begin) *answering {
	md := metadata.MD{}
	for _, h := range b.GetHeaders() {
		md.Append(strings.ToLower(h.GetKey()), h.GetValues()...)
	}
	return &answering{ctx: metadata.NewIncomingContext(ctx, md), s: s}
}

func (a *answering) Context() context.Context     { return a.ctx }
func (a *answering) SetHeader(metadata.MD) error  { return nil }
func (a *answering) SendHeader(metadata.MD) error { return nil }
func (a *answering) SetTrailer(metadata.MD)       {}
func (a *answering) SendMsg(any) error            { return errNoMessages }
func (a *answering) RecvMsg(any) error            { return errNoMessages }

func (a *answering) send(data []byte) error { return a.s.Send(&Piece{Data: data}) }

// recv returns the next data, io.EOF when the daemon has sent everything.
func (a *answering) recv() ([]byte, error) {
	p, err := a.s.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF // the daemon gave the call up
	case err != nil:
		return nil, err
	case p.End != nil:
		return nil, io.EOF
	default:
		return p.Data, nil
	}
}

// bytesStream is a stream of BuildKit's messages.
type bytesStream struct {
	*answering
}

func (b *bytesStream) Send(m *filesync.BytesMessage) error { return b.send(m.Data) }

func (b *bytesStream) Recv() (*filesync.BytesMessage, error) {
	m := new(filesync.BytesMessage)
	return m, b.RecvMsg(m)
}

func (b *bytesStream) RecvMsg(m any) error {
	to, ok := m.(*filesync.BytesMessage)
	if !ok {
		return fmt.Errorf("receive %T: want bytes", m)
	}
	data, err := b.recv()
	to.Data = data
	return err
}

package session

import (
	"context"
	"errors"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	bksession "github.com/moby/buildkit/session"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/metadata"
)

// Packets is a stream of fsutil's packets in few messages (buildd.filesync.v1).
// Several goroutines may send, and one receive.
type Packets struct {
	out *filesyncv1.Writer
	in  *filesyncv1.Reader
}

// OpenDir calls buildd.filesync.v1.FileSync/DiffCopy of a client that has it, with the
// metadata md: over a stream that the client lends, or else in its session. done
// lets go of the stream, when ctx has ended.
func OpenDir(ctx context.Context, caller bksession.Caller, md metadata.MD) (_ *Packets, done func(), _ error) {
	c, ended, err := call(ctx, caller, filesyncv1.FileSync_DiffCopy_FullMethodName, md)
	if errors.Is(err, errNothingLent) {
		s, err := filesyncv1.NewFileSyncClient(caller.Conn()).DiffCopy(metadata.NewOutgoingContext(ctx, md))
		if err != nil {
			return nil, nil, err
		}
		p := &Packets{out: filesyncv1.NewWriter(s.Send), in: filesyncv1.NewReader(s.Recv)}
		return p, func() { _ = p.out.Close() }, nil
	}
	if err != nil {
		return nil, nil, err
	}
	p := &Packets{
		out: filesyncv1.NewWriter(func(m *filesyncv1.Packets) error { return c.Send(m.Data) }),
		in: filesyncv1.NewReader(func() (*filesyncv1.Packets, error) {
			data, err := c.Recv()
			return &filesyncv1.Packets{Data: data}, err
		}),
	}
	return p, func() {
		ended()
		_ = p.out.Close()
	}, nil
}

// Send sends a packet, which may be used again afterwards.
func (p *Packets) Send(m *types.Packet) error { return p.out.Write(m) }

// Recv returns the next packet.
func (p *Packets) Recv() (*types.Packet, error) {
	m := new(types.Packet)
	return m, p.in.Read(m)
}

package filesyncv1

import (
	"fmt"

	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
)

// server serves what a server of BuildKit's protocol gives out.
type server struct {
	UnimplementedFileSyncServer
	files filesync.FileSyncServer
}

// Register adds the service to s. files knows the directories.
func Register(s *grpc.Server, files filesync.FileSyncServer) {
	RegisterFileSyncServer(s, &server{files: files})
}

// DiffCopy implements FileSyncServer.
func (f *server) DiffCopy(s grpc.BidiStreamingServer[Packets, Packets]) error {
	p := &packets{ServerStream: s, out: NewWriter(s.Send), in: NewReader(s.Recv)}
	err := f.files.DiffCopy(p)
	if cerr := p.out.Close(); err == nil {
		err = cerr
	}
	return err
}

// packets is a stream of single packets over one of batches.
type packets struct {
	grpc.ServerStream
	out *Writer
	in  *Reader
}

func (p *packets) Send(m *types.Packet) error { return p.out.Write(m) }

func (p *packets) Recv() (*types.Packet, error) {
	m := new(types.Packet)
	return m, p.in.Read(m)
}

func (p *packets) SendMsg(m any) error {
	packet, ok := m.(*types.Packet)
	if !ok {
		return fmt.Errorf("send %T: want a packet", m)
	}
	return p.out.Write(packet)
}

func (p *packets) RecvMsg(m any) error {
	packet, ok := m.(*types.Packet)
	if !ok {
		return fmt.Errorf("receive %T: want a packet", m)
	}
	return p.in.Read(packet)
}

package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// lendingDaemon serves what takes lent streams, and counts them.
type lendingDaemon struct {
	filesyncv1.UnimplementedLenderServer
	m *session.Manager

	ended chan struct{} // gets one for each stream that has ended

	mu   sync.Mutex // guards what follows
	lent int
}

func (d *lendingDaemon) Lend(s session.LentStream) error {
	d.mu.Lock()
	d.lent++
	d.mu.Unlock()
	md, _ := metadata.FromIncomingContext(s.Context())
	defer func() { d.ended <- struct{}{} }()
	return d.m.Lend(filesyncv1.SessionOf(md), s)
}

func (d *lendingDaemon) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lent
}

func startLending(t *testing.T) (*lendingDaemon, *grpc.ClientConn) {
	t.Helper()
	d := &lendingDaemon{m: newManager(t), ended: make(chan struct{}, 1000)}
	addr := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	filesyncv1.RegisterLenderServer(srv, d)
	var ends sync.WaitGroup
	ends.Go(func() {
		if err := srv.Serve(l); err != nil {
			t.Error(err)
		}
	})
	cc, err := grpc.NewClient("unix://"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		srv.Stop()
		ends.Wait()
	})
	return d, cc
}

// place is an output of a client; what was written to it is whole if it was
// closed after the last byte came.
type place struct {
	bytes.Buffer
	meta map[string]string
	fail error // of Write
}

func (p *place) Close() error { return nil }

func (p *place) Write(b []byte) (int, error) {
	if p.fail != nil {
		return 0, p.fail
	}
	return p.Buffer.Write(b)
}

func (p *place) target(id int) *filesync.SyncTarget {
	return filesync.NewFSSyncTarget(filesync.WithFSSync(id, func(meta map[string]string) (io.WriteCloser, error) {
		p.meta = meta
		return p, nil
	}))
}

func lend(t *testing.T, cc *grpc.ClientConn, id string, h filesyncv1.Handlers) *filesyncv1.Loan {
	t.Helper()
	loan, err := filesyncv1.Lend(t.Context(), cc, id, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loan.End)
	return loan
}

func sendFile(t *testing.T, m *session.Manager, id string, write func(io.Writer) error) error {
	t.Helper()
	c := m.Client(func() []string { return []string{id} })
	return session.On(t.Context(), c, id, func(ctx context.Context, _ string, caller bksession.Caller) error {
		return session.SendFile(ctx, caller, 3, map[string]string{"k": "v"}, write)
	})
}

func TestSendFileOverLentStreams(t *testing.T) {
	d, cc := startLending(t)
	var over, within place
	id := sessiontest.Connect(t, d.m, "", within.target(3))
	lend(t, cc, id, filesyncv1.Handlers{Output: over.target(3)})
	var want bytes.Buffer
	for n := range 3 {
		over.Reset()
		want.Reset()
		err := sendFile(t, d.m, id, func(w io.Writer) error {
			for i := range 3000 {
				piece := bytes.Repeat([]byte{byte(n + i)}, i)
				want.Write(piece)
				if _, err := w.Write(piece); err != nil {
					return err
				}
				clear(piece) // it is the caller's again
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(over.Bytes(), want.Bytes()) {
			t.Errorf("call %d: %d bytes came, not the %d that were sent", n, over.Len(), want.Len())
		}
	}
	if over.meta["k"] != "v" || within.Len() > 0 {
		t.Errorf("metadata %v, %d bytes within the session", over.meta, within.Len())
	}
}

// TestSendFileFallsBack ends the loan: the session takes over.
func TestSendFileFallsBack(t *testing.T) {
	d, cc := startLending(t)
	var over, within place
	id := sessiontest.Connect(t, d.m, "", within.target(3))
	lend(t, cc, id, filesyncv1.Handlers{Output: over.target(3)}).End()
	<-d.ended
	if err := sendFile(t, d.m, id, func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err != nil {
		t.Fatal(err)
	}
	if within.String() != "x" || over.Len() > 0 {
		t.Errorf("%q came within the session, %q over the stream", within.String(), over.String())
	}
}

func TestSendFileFailures(t *testing.T) {
	d, cc := startLending(t)
	full := place{fail: errors.New("disk full")}
	id := sessiontest.Connect(t, d.m, "", full.target(3))
	lend(t, cc, id, filesyncv1.Handlers{Output: full.target(3)})
	// It ends although there is no end of what is sent.
	err := sendFile(t, d.m, id, func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return err
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("an output that breaks: %v", err)
	}
	if err := sendFile(t, d.m, id, func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("an output that breaks at the last byte: %v", err)
	}
}

// TestSendFileThatBreaks tells the client that what it has is not whole.
func TestSendFileThatBreaks(t *testing.T) {
	d, cc := startLending(t)
	ended := make(chan error, 1)
	var got place
	output := &watched{FileSendServer: got.target(3), ended: ended}
	id := sessiontest.Connect(t, d.m, "", got.target(3))
	lend(t, cc, id, filesyncv1.Handlers{Output: output})
	broken := errors.New("layer is gone")
	if err := sendFile(t, d.m, id, func(w io.Writer) error {
		if _, err := w.Write([]byte("half")); err != nil {
			return err
		}
		return broken
	}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the client takes half of a file for all of it")
	}
}

type watched struct {
	filesync.FileSendServer
	ended chan error
}

func (w *watched) DiffCopy(s filesync.FileSend_DiffCopyServer) error {
	err := w.FileSendServer.DiffCopy(s)
	w.ended <- err
	return err
}

// echo answers each packet with itself, and begins with the name it was asked for.
type echo struct {
	filesync.UnimplementedFileSyncServer
}

func (echo) DiffCopy(s filesync.FileSync_DiffCopyServer) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	if md.Get("dir-name")[0] == "none" {
		return status.Error(codes.NotFound, "no such directory")
	}
	p := &types.Packet{Type: types.PACKET_STAT, Stat: &types.Stat{Path: md.Get("dir-name")[0]}}
	for {
		if err := s.SendMsg(p); err != nil {
			return err
		}
		p = new(types.Packet)
		if err := s.RecvMsg(p); err != nil || p.Type == types.PACKET_FIN {
			return err
		}
	}
}

func TestOpenDirOverLentStreams(t *testing.T) {
	d, cc := startLending(t)
	id := sessiontest.Connect(t, d.m, "")
	lend(t, cc, id, filesyncv1.Handlers{Files: echo{}})
	caller, err := d.m.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Several at once: the client lends another as soon as one is used.
	for range 5 {
		p, done, err := session.OpenDir(ctx, caller, metadata.Pairs("dir-name", "context"))
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		if got, err := p.Recv(); err != nil || got.Stat.Path != "context" {
			t.Fatalf("%v, %v", got, err)
		}
		for i := range uint32(100) {
			if err := p.Send(&types.Packet{Type: types.PACKET_REQ, ID: i}); err != nil {
				t.Fatal(err)
			}
			if got, err := p.Recv(); err != nil || got.ID != i {
				t.Fatalf("%v, %v", got, err)
			}
		}
	}
	if n := d.count(); n < 5 || n > 6 {
		t.Errorf("%d streams were lent for 5 calls", n)
	}
	p, done, err := session.OpenDir(ctx, caller, metadata.Pairs("dir-name", "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if _, err := p.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("a directory that is not there: %v", err)
	}
	cancel()
	if _, err := p.Recv(); err == nil {
		t.Error("a call outlives its context")
	}
}

func TestTooManyStreams(t *testing.T) {
	d, cc := startLending(t)
	id := sessiontest.Connect(t, d.m, "")
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		var loan *filesyncv1.Loan
		if loan, err = filesyncv1.Lend(t.Context(), cc, id, filesyncv1.Handlers{}); err == nil {
			defer loan.End()
		}
	}
	if err == nil || !strings.Contains(err.Error(), session.ErrTooManyStreams.Error()) {
		t.Errorf("after %d streams: %v", n, err)
	}
}

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/buildd/buildd/worker/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/metadata"
)

// stream is the client's end of fsutil's protocol: it sends PACKET_STAT for each
// file in order and an empty one at the end, and answers each PACKET_REQ with
// PACKET_DATA, an empty one at the end of each file. PACKET_FIN of both sides
// ends it.
type stream interface {
	Send(*types.Packet) error
	Recv() (*types.Packet, error)
}

// lockedStream lets several goroutines send, which gRPC's streams do not.
type lockedStream struct {
	stream
	mu sync.Mutex
}

func (s *lockedStream) Send(p *types.Packet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(p)
}

// open begins to receive. What it returns beside the stream lets go of it, when
// the stream's context has ended.
func (t *transfer) open(ctx context.Context, caller bksession.Caller) (stream, func(), error) {
	if !caller.Supports(bksession.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy")) {
		return nil, nil, t.notFound(errors.New("it gives out no directories"))
	}
	md := metadata.MD{}
	setHeader(md, "dir-name", []string{t.req.name})
	setHeader(md, "include-patterns", t.req.includes)
	setHeader(md, "exclude-patterns", t.req.excludes)
	setHeader(md, "followpaths", t.req.follow)
	if caller.Supports(bksession.MethodURL(filesyncv1.FileSync_ServiceDesc.ServiceName, "diffcopy")) {
		b, done, err := session.OpenDir(ctx, caller, md)
		if err != nil {
			return nil, nil, fmt.Errorf("receive local directory %q: %w", t.req.name, err)
		}
		return b, done, nil
	}
	ctx = metadata.NewOutgoingContext(ctx, md)
	s, err := filesync.NewFileSyncClient(caller.Conn()).DiffCopy(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("receive local directory %q: %w", t.req.name, err)
	}
	return &lockedStream{stream: s}, func() {}, nil
}

// setHeader writes values as BuildKit's clients expect them: escaped if one has
// other characters than ASCII.
func setHeader(md metadata.MD, key string, values []string) {
	if values == nil {
		return
	}
	values = slices.Clone(values)
	if slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, func(r rune) bool { return r > 127 }) }) {
		for i, v := range values {
			values[i] = url.QueryEscape(v)
		}
		md.Set(key+"-encoded", "1")
	}
	md[key] = values
}

func (t *transfer) notFound(err error) error {
	return fmt.Errorf("local directory %q %w: the client does not give it out, pass --local %s=DIR (%w)", t.req.name, session.ErrNotFound, t.req.name, err)
}

// tell lets the client show why the transfer ends, if it is listening.
func tell(s stream, why error) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = s.Send(&types.Packet{Type: types.PACKET_ERR, Data: []byte(why.Error())})
	}()
	select {
	case <-sent:
	case <-time.After(tellTimeout):
	}
}

// sendError hides the EOF of a stream that broke: why it did is what Recv says.
func sendError(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/worker/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

const (
	// tellTimeout is how long a client that does not listen is waited for.
	tellTimeout = time.Second
	// farewellTimeout is how long a client may take to end a transfer that is
	// complete.
	farewellTimeout = 5 * time.Second
)

// transfer receives one directory. Its receiving goroutine owns all fields but
// the stage's; they are read by others only after run has returned.
type transfer struct {
	c     Config
	bases *bases
	req   request
	keep  *patternmatcher.PatternMatcher // nil: no exceptions

	list   []item
	byPath map[string]int // into list
	wanted int            // files that are to come
	stage  *stage

	order    fsutil.Validator
	parents  []*types.Stat // directories above the current path that were not added (metadata only)
	metadata []byte
}

// item is one file of the list.
type item struct {
	entry digest.Entry
	// from is where the file lies in a base; "" if it was received.
	from string
	// copied says that from has another time.
	copied bool
	// file is the received one.
	file *received
}

func newTransfer(c Config, b *bases, r request) (*transfer, error) {
	t := &transfer{c: c, bases: b, req: r, byPath: map[string]int{}, stage: newStage(c)}
	if len(r.exceptions) > 0 {
		var err error
		if t.keep, err = patternmatcher.New(r.exceptions); err != nil {
			return nil, fmt.Errorf("local directory %q: patterns %q: %w", r.name, r.exceptions, err)
		}
	}
	return t, nil
}

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

// run receives the list and all bytes.
func (t *transfer) run(ctx context.Context, caller bksession.Caller, m *meter) error {
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := t.open(ctx, caller)
	if err != nil {
		return err
	}
	err = t.talk(ctx, cancel, &lockedStream{stream: s}, m)
	if err == nil {
		return nil
	}
	if parent.Err() != nil {
		return fmt.Errorf("receive local directory %q: %w", t.req.name, context.Cause(parent))
	}
	if code := grpcerrors.Code(err); code == codes.NotFound || code == codes.Unimplemented {
		return t.notFound(err)
	}
	return fmt.Errorf("receive local directory %q: %w", t.req.name, err)
}

func (t *transfer) notFound(err error) error {
	return fmt.Errorf("local directory %q %w: the client does not give it out, pass --local %s=DIR (%w)", t.req.name, session.ErrNotFound, t.req.name, err)
}

func (t *transfer) open(ctx context.Context, caller bksession.Caller) (stream, error) {
	if !caller.Supports(bksession.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy")) {
		return nil, t.notFound(errors.New("it gives out no directories"))
	}
	md := metadata.MD{}
	setHeader(md, "dir-name", []string{t.req.name})
	setHeader(md, "include-patterns", t.req.includes)
	setHeader(md, "exclude-patterns", t.req.excludes)
	setHeader(md, "followpaths", t.req.follow)
	s, err := filesync.NewFileSyncClient(caller.Conn()).DiffCopy(metadata.NewOutgoingContext(ctx, md))
	if err != nil {
		return nil, fmt.Errorf("receive local directory %q: %w", t.req.name, err)
	}
	return s, nil
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

// talk receives until everything is here, while another goroutine asks for
// files: the client stops reading when nobody reads what it sends. cancel ends
// the stream.
func (t *transfer) talk(ctx context.Context, cancel func(), s stream, m *meter) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stop := context.AfterFunc(ctx, func() {
		tell(s, context.Cause(ctx))
		cancel()
	})
	defer stop()
	var g errgroup.Group
	run := func(f func() error) {
		g.Go(func() error {
			err := f()
			if err != nil {
				fail(err)
			}
			return err
		})
	}
	asked := newQueue()
	t.stage.start(ctx, fail, &g)
	run(func() error {
		defer t.stage.finish()
		defer asked.close()
		return t.listen(ctx, s, asked, m)
	})
	run(func() error { return t.ask(ctx, s, asked) })
	g.Wait() // the first error is the context's cause, what follows from it is not
	if err := context.Cause(ctx); err != nil {
		return err
	}
	// Everything is here; how the client takes its leave does not matter.
	late := time.AfterFunc(farewellTimeout, cancel)
	defer late.Stop()
	for {
		if _, err := s.Recv(); err != nil {
			return nil
		}
	}
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

// ask sends requests, and the farewell when all have been answered.
func (t *transfer) ask(ctx context.Context, s stream, asked *queue) error {
	for {
		id, ok := asked.next(ctx)
		if !ok {
			break
		}
		if err := s.Send(&types.Packet{Type: types.PACKET_REQ, ID: id}); err != nil {
			return sendError(err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return sendError(s.Send(&types.Packet{Type: types.PACKET_FIN}))
}

// sendError hides the EOF of a stream that broke: why it did is what Recv says.
func sendError(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (t *transfer) listen(ctx context.Context, s stream, asked *queue, m *meter) error {
	var id uint32 // of the next file: its number in the list
	listed := false
	for !listed || t.wanted > 0 {
		p, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the client ended the transfer early")
		}
		if err != nil {
			return err
		}
		m.add(p.Size())
		switch p.Type {
		case types.PACKET_STAT:
			if listed {
				return errors.New("the client sent a file after the end of its list")
			}
			if p.Stat == nil {
				listed = true
				continue
			}
			if err := t.add(p.Stat, id, asked); err != nil {
				return err
			}
			id++
		case types.PACKET_DATA:
			end, err := t.stage.data(ctx, p.ID, p.Data)
			if err != nil {
				return err
			}
			if end {
				t.wanted--
			}
		case types.PACKET_ERR:
			return fmt.Errorf("the client says: %s", p.Data)
		default:
			return fmt.Errorf("the client sent a packet of type %v", p.Type)
		}
	}
	return nil
}

// add takes a file of the list.
func (t *transfer) add(st *types.Stat, id uint32, asked *queue) error {
	if st.Path == "." || strings.ContainsRune(st.Path, 0) {
		return fmt.Errorf("the client sent the path %q", st.Path)
	}
	if t.req.metadataOnly {
		if st.Path == metadataName {
			return nil
		}
		t.describe(st)
	}
	// In order, clean, relative, beneath a directory of the list: so no path
	// leads through a symbolic link, and none is there twice.
	if err := t.order.HandleChange(fsutil.ChangeKindAdd, st.Path, &fsutil.StatInfo{Stat: st}, nil); err != nil {
		return fmt.Errorf("the client sent a bad path: %w", err)
	}
	if t.req.metadataOnly {
		for len(t.parents) > 0 && t.parents[len(t.parents)-1].Path != path.Dir(st.Path) {
			t.parents = t.parents[:len(t.parents)-1]
		}
		if wanted, err := t.excepted(st.Path); err != nil || !wanted {
			if st.IsDir() {
				t.parents = append(t.parents, st)
			}
			return err
		}
		for _, dir := range t.parents {
			if _, ok := t.byPath[dir.Path]; !ok {
				if err := t.take(dir, 0, asked); err != nil {
					return err
				}
			}
		}
	}
	return t.take(st, id, asked)
}

func (t *transfer) excepted(p string) (bool, error) {
	if t.keep == nil {
		return false, nil
	}
	return t.keep.MatchesOrParentMatches(p)
}

// describe appends to the list of metadata, as fsutil frames it: the length in
// four bytes, little-endian, and the message.
func (t *transfer) describe(st *types.Stat) {
	b, err := st.Marshal()
	if err != nil { // it was just unmarshalled
		return
	}
	t.metadata = binary.LittleEndian.AppendUint32(t.metadata, uint32(len(b)))
	t.metadata = append(t.metadata, b...)
}

// take decides where the file comes from.
func (t *transfer) take(st *types.Stat, id uint32, asked *queue) error {
	e, err := entryOf(st)
	if err != nil {
		return err
	}
	it := item{entry: e}
	switch {
	case !e.IsRegular():
	case e.Hardlink != "":
		if it, err = t.link(e); err != nil {
			return err
		}
	default:
		if t.bases.find(&it) {
			break
		}
		t.wanted++
		it.file = t.stage.expect(id, e)
		asked.put(id)
	}
	t.byPath[e.Path] = len(t.list)
	t.list = append(t.list, it)
	return nil
}

// link takes a hard link. What the client says of its owner and mode does not
// count, because that is the linked file's.
func (t *transfer) link(e digest.Entry) (item, error) {
	i, ok := t.byPath[e.Hardlink]
	if !ok || !t.list[i].entry.IsRegular() || t.list[i].entry.Hardlink != "" {
		return item{}, fmt.Errorf("the client sent %q as a hard link to %q, which is no file before it", e.Path, e.Hardlink)
	}
	name, to := e.Path, e.Hardlink
	e = t.list[i].entry
	e.Path, e.Hardlink, e.Xattrs = name, to, maps.Clone(e.Xattrs)
	return item{entry: e}, nil
}

// queue is an unbounded queue of file numbers.
type queue struct {
	mu     sync.Mutex // guards ids and closed
	ids    []uint32
	closed bool
	wake   chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) put(id uint32) {
	q.mu.Lock()
	q.ids = append(q.ids, id)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for a number; false if there will be none.
func (q *queue) next(ctx context.Context) (uint32, bool) {
	for {
		q.mu.Lock()
		if len(q.ids) > 0 {
			id := q.ids[0]
			q.ids = q.ids[1:]
			q.mu.Unlock()
			return id, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return 0, false
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-q.wake:
		}
	}
}

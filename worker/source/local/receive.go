package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"
	"time"

	"github.com/buildd/buildd/cache/digest"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
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

// run receives the list and all bytes.
func (t *transfer) run(ctx context.Context, caller bksession.Caller, m *meter) error {
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	s, release, err := t.open(ctx, caller)
	if err != nil {
		cancel()
		return err
	}
	defer release()
	defer cancel() // before release
	err = t.talk(ctx, cancel, s, m)
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
		m.add(p.SizeVT())
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

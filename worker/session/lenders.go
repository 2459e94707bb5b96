package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	bksession "github.com/moby/buildkit/session"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const (
	// maxLent bounds the streams of one session.
	maxLent = 16
	// lendTimeout is how long a call waits for a client that has lent streams
	// before, until it uses the session.
	lendTimeout = time.Second
)

// ErrTooManyStreams is returned to a client that lends more than it should.
var ErrTooManyStreams = fmt.Errorf("a session may lend %d streams", maxLent)

// LentStream is the daemon's side of a stream that a client has lent.
type LentStream = grpc.BidiStreamingServer[filesyncv1.Piece, filesyncv1.Piece]

// lenders are the streams that clients have lent, by session.
type lenders struct {
	mu sync.Mutex // guards what follows
	by map[string]*lender
}

// lender is a session that lends streams.
type lender struct {
	n     int        // streams, guarded by lenders.mu
	spare chan *lent // those that wait for a call
}

type lent struct {
	s    LentStream
	back chan struct{} // closed when the call has ended
}

// Lend takes a stream of session id's client and returns when the call that it
// was used for has ended, or the client takes it back.
func (m *Manager) Lend(id string, s LentStream) error {
	from, err := m.lenders.add(id)
	if err != nil {
		return err
	}
	defer m.lenders.remove(id)
	if err := s.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	l := &lent{s: s, back: make(chan struct{})}
	ctx := s.Context()
	select {
	case from.spare <- l:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-l.back:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *lenders) add(id string) (*lender, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.by[id]
	if from == nil {
		from = &lender{spare: make(chan *lent)}
		l.by[id] = from
	}
	if from.n == maxLent {
		return nil, ErrTooManyStreams
	}
	from.n++
	return from, nil
}

func (l *lenders) remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.by[id]
	if from.n--; from.n == 0 {
		delete(l.by, id)
	}
}

// borrow returns a stream of session id; nil if its client has none to lend.
func (l *lenders) borrow(ctx context.Context, id string) *lent {
	l.mu.Lock()
	from := l.by[id]
	l.mu.Unlock()
	if from == nil {
		return nil
	}
	t := time.NewTimer(lendTimeout)
	defer t.Stop()
	select {
	case s := <-from.spare:
		return s
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// lendingCaller is a client with a session and streams that it lends.
type lendingCaller struct {
	bksession.Caller
	id      string
	lenders *lenders
}

var errNothingLent = errors.New("the client has lent no stream")

// call begins a call over a stream that c's client has lent, or returns
// errNothingLent. It lasts until ctx ends at the latest; done is to be called when
// nothing is sent or received any more.
func call(ctx context.Context, c bksession.Caller, method string, md metadata.MD) (_ *filesyncv1.Call, done func(), _ error) {
	from, ok := c.(*lendingCaller)
	if !ok {
		return nil, nil, errNothingLent
	}
	l := from.lenders.borrow(ctx, from.id)
	if l == nil {
		return nil, nil, errNothingLent
	}
	done = sync.OnceFunc(func() { close(l.back) })
	out, err := filesyncv1.NewCall(l.s, method, md)
	if err != nil {
		done()
		return nil, nil, errors.Join(errNothingLent, err)
	}
	context.AfterFunc(ctx, done)
	return out, done, nil
}

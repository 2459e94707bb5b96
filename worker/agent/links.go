package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/buildkit/session/sshforward"

	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
)

// links are the connections to SSH agents of one step, on either side of the
// stream that carries their frames.
type links struct {
	send func(*workerv1.Frame) error

	mu   sync.Mutex // guards what follows, and the flags of each link
	last uint32
	m    map[uint32]*link
}

// link is one connection.
type link struct {
	id     uint32
	in     chan []byte   // what the other side sent; closed at its end
	broken chan struct{} // closed with err
	err    error
	ended  bool // in or broken is closed
}

const (
	// maxLinks is how many connections a step may have at a time.
	maxLinks = 256
	// maxUnread is how many frames of a connection may wait: agents speak in small
	// messages, each of which is answered.
	maxUnread = 256
)

var errUnread = errors.New("the connection does not read what it is sent")

func newLinks(send func(*workerv1.Frame) error) *links {
	return &links{send: send, m: map[uint32]*link{}}
}

// open makes a connection to an agent on the other side.
func (ls *links) open(agent string) (*link, error) {
	ls.mu.Lock()
	ls.last++
	id := ls.last
	ls.mu.Unlock()
	l, err := ls.add(id)
	if err != nil {
		return nil, err
	}
	if err := ls.send(&workerv1.Frame{Connection: id, Agent: agent}); err != nil {
		ls.drop(l)
		return nil, err
	}
	return l, nil
}

// add takes a connection in.
func (ls *links) add(id uint32) (*link, error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.m[id] != nil {
		return nil, fmt.Errorf("connection %d is open already", id)
	}
	if len(ls.m) >= maxLinks {
		return nil, fmt.Errorf("there are %d connections to SSH agents already", maxLinks)
	}
	l := &link{id: id, in: make(chan []byte, maxUnread), broken: make(chan struct{})}
	ls.m[id] = l
	return l, nil
}

func (ls *links) drop(l *link) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.m, l.id)
	ls.breakLocked(l, errEnded)
}

func (ls *links) breakLocked(l *link, err error) {
	if !l.ended {
		l.ended, l.err = true, err
		close(l.broken)
	}
}

// deliver hands a frame to its connection. One that has ended gets nothing.
func (ls *links) deliver(f *workerv1.Frame) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.m[f.GetConnection()]
	if l == nil || l.ended {
		return
	}
	if len(f.Data) > 0 {
		select {
		case l.in <- f.Data:
		default:
			ls.breakLocked(l, errUnread)
			return
		}
	}
	switch {
	case f.Error != "":
		ls.breakLocked(l, errors.New(f.Error))
	case f.Closed:
		l.ended = true
		close(l.in)
	}
}

// inbound passes on what the other side sends until that ends.
func (ls *links) inbound(ctx context.Context, l *link, stream sshforward.Stream) error {
	for {
		select {
		case data, ok := <-l.in:
			if !ok {
				return nil
			}
			if err := stream.SendMsg(&sshforward.BytesMessage{Data: data}); err != nil {
				return err
			}
		case <-l.broken:
			return l.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// outbound passes on what this side sends until that ends, and says so.
func (ls *links) outbound(l *link, stream sshforward.Stream) {
	for {
		var m sshforward.BytesMessage
		err := stream.RecvMsg(&m)
		f := &workerv1.Frame{Connection: l.id, Data: bytes.Clone(m.Data)}
		switch {
		case errors.Is(err, io.EOF):
			f.Data, f.Closed = nil, true
		case err != nil:
			f.Data, f.Closed, f.Error = nil, true, clip(err.Error())
		}
		if serr := ls.send(f); serr != nil || err != nil {
			return
		}
	}
}

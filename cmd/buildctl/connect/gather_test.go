package connect

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/proto/gather"
)

// slowConn counts writes, each of which waits for permission.
type slowConn struct {
	net.Conn
	permit chan struct{}
	fail   error

	mu     sync.Mutex // guards what follows
	got    bytes.Buffer
	writes int
	closed bool
}

func (c *slowConn) Write(b []byte) (int, error) {
	<-c.permit
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return 0, c.fail
	}
	c.writes++
	return c.got.Write(b)
}

func (c *slowConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func TestGatherConnGathers(t *testing.T) {
	c := &slowConn{permit: make(chan struct{})}
	g := newGatherConn(c, nil)
	var want bytes.Buffer
	for i := range 1000 { // the first is taken at once, the others wait together
		piece := bytes.Repeat([]byte{byte(i)}, 100)
		want.Write(piece)
		if n, err := g.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("write %d: %d, %v", i, n, err)
		}
		piece[0]++ // it is the caller's again
	}
	close(c.permit)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes came, not the %d that were written", c.got.Len(), want.Len())
	}
	if c.writes > 3 || !c.closed {
		t.Errorf("%d writes, closed: %v, want at most 3 and true", c.writes, c.closed)
	}
	if _, err := g.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after close: %v", err)
	}
}

func TestGatherConnWaits(t *testing.T) {
	c := &slowConn{permit: make(chan struct{})}
	g := newGatherConn(c, nil)
	wrote := make(chan int)
	go func() {
		defer close(wrote)
		for range 4 {
			n, err := g.Write(make([]byte, gather.Limit))
			if err != nil {
				t.Error(err)
			}
			wrote <- n
		}
	}()
	<-wrote // on its way, or waiting
	<-wrote
	select {
	case <-wrote:
		t.Fatal("a third buffer was taken while nothing was sent")
	case <-time.After(50 * time.Millisecond):
	}
	close(c.permit)
	for range wrote {
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if c.got.Len() != 4*gather.Limit {
		t.Errorf("%d bytes came, want %d", c.got.Len(), 4*gather.Limit)
	}
}

func TestGatherConnFails(t *testing.T) {
	c := &slowConn{permit: make(chan struct{}), fail: io.ErrClosedPipe}
	close(c.permit)
	g := newGatherConn(c, nil)
	var err error
	for deadline := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = g.Write([]byte("x"))
	}
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write: %v, want that of the connection", err)
	}
	if err := g.Close(); err != nil || !c.closed {
		t.Errorf("close: %v, closed: %v", err, c.closed)
	}
}

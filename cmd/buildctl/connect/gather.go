package connect

import (
	"net"
	"sync"
	"time"
)

const (
	// gathered is how many bytes are held back at most. A message of so many and
	// its header fits the buffer of 256 KiB that gRPC takes for it.
	gathered = 240 << 10
	// flushFor is how long a connection that is closed waits for a peer that
	// does not read.
	flushFor = 5 * time.Second
)

// gatherConn gathers what is written while something is being sent. Each Write to
// the connection of a session is a gRPC message, and HTTP/2, which is spoken over
// it, writes each frame of a file in two or three pieces.
type gatherConn struct {
	net.Conn
	done chan struct{}

	mu     sync.Mutex // guards what follows
	change *sync.Cond // of any of it
	buf    []byte
	closed bool
	err    error // of Conn.Write; final
}

func newGatherConn(c net.Conn) *gatherConn {
	g := &gatherConn{Conn: c, done: make(chan struct{})}
	g.change = sync.NewCond(&g.mu)
	go g.run()
	return g
}

func (g *gatherConn) run() {
	defer close(g.done)
	var spare []byte // the buffer that is not being written to
	for {
		g.mu.Lock()
		for len(g.buf) == 0 && !g.closed {
			g.change.Wait()
		}
		out := g.buf
		g.buf = spare[:0]
		g.mu.Unlock()
		if len(out) == 0 {
			return
		}
		g.change.Broadcast()
		if _, err := g.Conn.Write(out); err != nil {
			g.mu.Lock()
			g.err = err
			g.mu.Unlock()
			g.change.Broadcast()
			return
		}
		spare = out
	}
}

// Write returns before b is sent, unless too much waits. The error may be that of
// an earlier Write.
func (g *gatherConn) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.buf) > 0 && len(g.buf)+len(b) > gathered && g.err == nil && !g.closed {
		g.change.Wait()
	}
	switch {
	case g.err != nil:
		return 0, g.err
	case g.closed:
		return 0, net.ErrClosed
	}
	g.buf = append(g.buf, b...)
	g.change.Broadcast()
	return len(b), nil
}

// Close sends what waits.
func (g *gatherConn) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.change.Broadcast()
	select {
	case <-g.done:
	case <-time.After(flushFor):
	}
	return g.Conn.Close()
}

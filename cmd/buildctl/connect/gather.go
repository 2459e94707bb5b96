package connect

import (
	"net"
	"time"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/buildd/buildd/proto/gather"
)

// flushFor is how long a connection that is closed waits for a peer that does
// not read, or an output that takes nothing.
const flushFor = 5 * time.Second

// gatherConn gathers what is written while something is being sent. Each Write to
// the connection of a session is a gRPC message, and HTTP/2, which is spoken over
// it, writes each frame of a file in two or three pieces.
type gatherConn struct {
	net.Conn
	out  *gather.Writer
	loan *filesyncv1.Loan // of the session; nil if it lends nothing
}

func newGatherConn(c net.Conn, loan *filesyncv1.Loan) *gatherConn {
	return &gatherConn{Conn: c, loan: loan, out: gather.NewWriter(func(b []byte) error {
		_, err := c.Write(b)
		return err
	})}
}

// Write returns before b is sent, unless too much waits. The error may be that of
// an earlier Write.
func (g *gatherConn) Write(b []byte) (int, error) { return g.out.Write(b) }

// Close sends what waits and ends the session's loan.
func (g *gatherConn) Close() error {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = g.out.Close() // a Write has told it, or nobody wants to know
		if g.loan != nil {
			g.loan.End()
		}
	}()
	select {
	case <-sent:
	case <-time.After(flushFor):
	}
	return g.Conn.Close()
}

package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	bksession "github.com/moby/buildkit/session"
)

// connectTimeout is how long a session that a build named may take to connect.
// Clients send the build and open the session at the same time.
const connectTimeout = 5 * time.Second

// ErrNoSession is returned, possibly wrapped, when no client can be asked.
var ErrNoSession = errors.New("no client session")

// Client is the set of sessions that lend themselves to a step.
type Client interface {
	// Any runs f on one session after another until f succeeds. The context
	// given to f also ends when that session does. The error is the last one, or
	// ErrNoSession if there was no session to ask.
	Any(ctx context.Context, f func(ctx context.Context, id string, c bksession.Caller) error) error
}

// ByID is what a Client has if it can reach a session that is none of its own,
// but was named in a build's definition (local.session, oci.session).
type ByID interface {
	One(ctx context.Context, id string, f func(ctx context.Context, id string, c bksession.Caller) error) error
}

// Manager holds the sessions that are connected.
type Manager struct {
	m       *bksession.Manager
	lenders lenders
}

// NewManager returns a Manager without sessions.
func NewManager() (*Manager, error) {
	m, err := bksession.NewManager()
	if err != nil {
		return nil, fmt.Errorf("make session manager: %w", err)
	}
	return &Manager{m: m, lenders: lenders{by: map[string]*lender{}}}, nil
}

// HandleConn serves one session over conn until either side ends it. meta is
// the metadata of the gRPC call that opened it.
func (m *Manager) HandleConn(ctx context.Context, conn net.Conn, meta map[string][]string) error {
	return m.m.HandleConn(ctx, conn, meta)
}

// Get returns the session id, waiting a few seconds for it to connect.
func (m *Manager) Get(ctx context.Context, id string) (bksession.Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := m.m.Get(ctx, id, false)
	if err != nil {
		return nil, fmt.Errorf("%w: session %q did not connect within %s: %w", ErrNoSession, id, connectTimeout, err)
	}
	return &lendingCaller{Caller: c, id: id, lenders: &m.lenders}, nil
}

// SharedKey returns what a client calls the directory that it builds, so that the
// same one is known again; "" if it says nothing, or is not connected.
func (m *Manager) SharedKey(ctx context.Context, id string) string {
	c, err := m.m.Get(ctx, id, true)
	if err != nil || c == nil {
		return ""
	}
	return c.SharedKey()
}

// Client returns the set of sessions that ids lists whenever it is asked.
func (m *Manager) Client(ids func() []string) Client {
	return &client{m: m, ids: ids}
}

type client struct {
	m   *Manager
	ids func() []string
}

func (c *client) Any(ctx context.Context, f func(context.Context, string, bksession.Caller) error) error {
	var last error
	for _, id := range c.ids() {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if last = c.One(ctx, id, f); last == nil {
			return nil
		}
	}
	if last == nil {
		return fmt.Errorf("%w: no client waits for this step", ErrNoSession)
	}
	return last
}

func (c *client) One(ctx context.Context, id string, f func(context.Context, string, bksession.Caller) error) error {
	caller, err := c.m.Get(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees what Caller.Context hangs on the session
	return f(caller.Context(ctx), id, caller)
}

// On runs f on session id if that is not empty, else on any session of c.
func On(ctx context.Context, c Client, id string, f func(ctx context.Context, id string, c bksession.Caller) error) error {
	if c == nil {
		return fmt.Errorf("%w: this build was started without one", ErrNoSession)
	}
	if id == "" {
		return c.Any(ctx, f)
	}
	if b, ok := c.(ByID); ok {
		return b.One(ctx, id, f)
	}
	return c.Any(ctx, func(ctx context.Context, have string, caller bksession.Caller) error {
		if have != id {
			return fmt.Errorf("%w: session %q is not connected", ErrNoSession, id)
		}
		return f(ctx, have, caller)
	})
}

// Package sessiontest connects BuildKit's own session clients to a
// session.Manager within one process, for tests.
package sessiontest

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/buildd/buildd/worker/session"
	bksession "github.com/moby/buildkit/session"
)

// Connect opens a session that offers what a does and returns its ID. It is
// closed when the test ends.
func Connect(t testing.TB, m *session.Manager, sharedKey string, a ...bksession.Attachable) string {
	t.Helper()
	s, err := bksession.NewSession(t.Context(), sharedKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range a {
		s.Allow(a)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var ends sync.WaitGroup
	dial := func(_ context.Context, _ string, meta map[string][]string) (net.Conn, error) {
		client, server := net.Pipe()
		ends.Go(func() { m.HandleConn(ctx, server, meta) })
		return client, nil
	}
	ends.Go(func() { s.Run(ctx, dial) })
	t.Cleanup(func() {
		cancel()
		s.Close()
		ends.Wait()
	})
	if _, err := m.Get(t.Context(), s.ID()); err != nil {
		t.Fatal(err)
	}
	return s.ID()
}

// Client returns a client of one new session that offers what a does.
func Client(t testing.TB, a ...bksession.Attachable) session.Client {
	t.Helper()
	m, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	id := Connect(t, m, "test", a...)
	return m.Client(func() []string { return []string{id} })
}

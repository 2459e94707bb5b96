// Package sessiontest connects BuildKit's own session clients to a
// session.Manager within one process, for tests.
package sessiontest

import (
	"context"
	"testing"
	"time"

	"github.com/buildd/buildd/worker/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/testutil"
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
	done := make(chan error, 1)
	go func() {
		done <- s.Run(context.WithoutCancel(t.Context()), bksession.Dialer(testutil.TestStream(testutil.Handler(m.HandleConn))))
	}()
	t.Cleanup(func() {
		s.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("session did not end")
		}
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

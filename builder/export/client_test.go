package export

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/testutil"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// client is a session of BuildKit's own code.
func client(t *testing.T, attach ...bksession.Attachable) session.Client {
	t.Helper()
	m, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	s, err := bksession.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attach {
		s.Allow(a)
	}
	ran := make(chan error, 1)
	go func() {
		ran <- s.Run(context.WithoutCancel(t.Context()), bksession.Dialer(testutil.TestStream(m.HandleConn)))
	}()
	t.Cleanup(func() {
		s.Close()
		<-ran
	})
	return m.Client(func() []string { return []string{s.ID()} })
}

// sink takes what an exporter sends as a file, and its metadata.
type sink struct {
	bytes.Buffer
	meta   map[string]string
	refuse bool
	closed bool
}

func (s *sink) Close() error { s.closed = true; return nil }

func (s *sink) target(id int) bksession.Attachable { return targets(map[int]*sink{id: s}) }

// targets takes what exporters send, by their IDs.
func targets(sinks map[int]*sink) bksession.Attachable {
	all := filesync.NewFSSyncTarget()
	for id, s := range sinks {
		all.Add(filesync.WithFSSync(id, func(meta map[string]string) (io.WriteCloser, error) {
			s.meta = meta
			if s.refuse {
				return nil, nil
			}
			return s, nil
		}))
	}
	return all
}

// memImages is an image store.
type memImages struct {
	mu sync.Mutex
	m  map[string]ocispecs.Descriptor // guarded by mu
}

func (s *memImages) Get(_ context.Context, name string) (ocispecs.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.m[name]
	if !ok {
		return d, cache.ErrNotFound
	}
	return d, nil
}

func (s *memImages) Put(_ context.Context, name string, d ocispecs.Descriptor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]ocispecs.Descriptor{}
	}
	s.m[name] = d
	return nil
}

// steps records progress.
type steps struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (s *steps) progress(id string) func(error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, id)
	return func(error) {}
}

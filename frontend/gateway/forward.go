package gateway

import (
	"context"
	"sync"
	"time"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// buildIDKey is the gRPC metadata by which BuildKit's client says which build a
// gateway call belongs to.
const buildIDKey = "buildkit-controlapi-buildid"

// registerTimeout is how long a call waits for its build: clients send the first
// call without waiting for the Solve that makes it known.
const registerTimeout = 3 * time.Second

// Forwarder serves the gateway of all builds whose frontend runs in the client.
type Forwarder struct {
	mu       sync.Mutex // guards sessions and changed
	sessions map[string]*Session
	changed  chan struct{}
}

// NewForwarder returns a Forwarder without sessions.
func NewForwarder() *Forwarder {
	return &Forwarder{sessions: map[string]*Session{}, changed: make(chan struct{})}
}

// Add makes a build's session reachable until the function returned is called.
func (f *Forwarder) Add(buildID string, s *Session) (remove func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions[buildID] = s
	close(f.changed)
	f.changed = make(chan struct{})
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.sessions[buildID] == s {
			delete(f.sessions, buildID)
		}
	}
}

// Register serves the gateway on srv.
func (f *Forwarder) Register(srv grpc.ServiceRegistrar) {
	gwpb.RegisterLLBBridgeServer(srv, &forwarded{f: f})
}

func (f *Forwarder) find(ctx context.Context) (*Session, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	ids := md.Get(buildIDKey)
	if len(ids) == 0 || ids[0] == "" {
		return nil, status.Errorf(codes.InvalidArgument, "a gateway call must name its build in the metadata %s", buildIDKey)
	}
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	for {
		f.mu.Lock()
		s, changed := f.sessions[ids[0]], f.changed
		f.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.Errorf(codes.NotFound, "no build %q is running", ids[0])
		}
	}
}

package gateway

import (
	"context"
	"crypto/rand"
	"sync"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// definer is a reference that knows the definition that it is the result of.
type definer interface{ Definition() *pb.Definition }

// Session is one frontend's conversation: the references that it was given, the
// containers that it started, and at the end its result. It implements
// gwpb.LLBBridgeServer.
type Session struct {
	gwpb.UnimplementedLLBBridgeServer
	client gwclient.Client
	inputs map[string]*pb.Definition

	mu         sync.Mutex // guards refs and containers
	refs       map[string]gwclient.Reference
	containers map[string]gwclient.Container

	once sync.Once // guards outcome
	done chan struct{}
	res  *gwclient.Result
	err  error
}

// NewSession returns the conversation with a frontend that c serves. inputs are
// the definitions that the request came with.
func NewSession(c gwclient.Client, inputs map[string]*pb.Definition) *Session {
	return &Session{
		client: c, inputs: inputs, refs: map[string]gwclient.Reference{}, containers: map[string]gwclient.Container{},
		done: make(chan struct{}),
	}
}

// Wait returns what the frontend returned.
func (s *Session) Wait(ctx context.Context) (*gwclient.Result, error) {
	select {
	case <-s.done:
		return s.res, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Done is closed when the frontend has returned.
func (s *Session) Done() <-chan struct{} { return s.done }

// Fail ends the conversation with an error unless the frontend has returned.
func (s *Session) Fail(err error) { s.finish(nil, err) }

func (s *Session) finish(res *gwclient.Result, err error) {
	s.once.Do(func() {
		s.res, s.err = res, err
		close(s.done)
	})
}

// Close releases the containers that the frontend left behind.
func (s *Session) Close(ctx context.Context) {
	s.mu.Lock()
	left := s.containers
	s.containers = map[string]gwclient.Container{}
	s.mu.Unlock()
	for _, c := range left {
		_ = c.Release(ctx) // nobody is left to be told
	}
}

// keep gives a reference an ID that the frontend knows it by.
func (s *Session) keep(r gwclient.Reference) *gwpb.Ref {
	if r == nil {
		return &gwpb.Ref{}
	}
	out := &gwpb.Ref{Id: rand.Text()}
	if d, ok := r.(definer); ok {
		out.Def = d.Definition()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs[out.Id] = r
	return out
}

// ref returns the reference of an ID; nil for the empty ID, which stands for the
// empty file system.
func (s *Session) ref(id string) (gwclient.Reference, error) {
	if id == "" {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refs[id]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "reference %q is not known to this build", id)
	}
	return r, nil
}

// mustRef is ref for calls that make no sense without files.
func (s *Session) mustRef(id string) (gwclient.Reference, error) {
	r, err := s.ref(id)
	if err == nil && r == nil {
		err = status.Error(codes.InvalidArgument, "the reference is empty: there are no files in it")
	}
	return r, err
}

// Ping implements gwpb.LLBBridgeServer.
func (s *Session) Ping(context.Context, *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	return &gwpb.PongResponse{
		FrontendAPICaps: gwpb.Caps.All(), LLBCaps: pb.Caps.All(), Workers: workers(s.client.BuildOpts().Workers),
	}, nil
}

// Inputs implements gwpb.LLBBridgeServer.
func (s *Session) Inputs(context.Context, *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	return &gwpb.InputsResponse{Definitions: s.inputs}, nil
}

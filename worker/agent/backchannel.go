package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
)

// backchannel gives a step that runs here the secrets and SSH agents of clients
// elsewhere. To the step it is one session of one client; what the session is
// asked goes as questions and frames over the stream of the call.
type backchannel struct {
	push  func(*workerv1.RunEvent) error
	links *links

	mu      sync.Mutex // guards what follows
	last    uint32     // number of the last question
	waiting map[uint32]chan *workerv1.Answer
	session *inMemory // made when the step asks for the first time
	closed  bool
}

func newBackchannel(push func(*workerv1.RunEvent) error) *backchannel {
	b := &backchannel{push: push, waiting: map[uint32]chan *workerv1.Answer{}}
	b.links = newLinks(func(f *workerv1.Frame) error {
		return push(&workerv1.RunEvent{Message: &workerv1.RunEvent_Frame{Frame: f}})
	})
	return b
}

// Any implements session.Client.
func (c *call) Any(ctx context.Context, f func(ctx context.Context, id string, caller bksession.Caller) error) error {
	s, err := c.back.open()
	if err != nil {
		return err
	}
	return f(ctx, "daemon", s)
}

func (b *backchannel) open() (*inMemory, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errEnded
	}
	if b.session != nil {
		return b.session, nil
	}
	s, err := newInMemory(func(r grpc.ServiceRegistrar) {
		secrets.RegisterSecretsServer(r, secretServer{b: b})
		sshforward.RegisterSSHServer(r, agentServer{b: b})
	})
	if err != nil {
		return nil, fmt.Errorf("open session with the daemon: %w", err)
	}
	b.session = s
	return s, nil
}

// close ends the session; nothing is pushed after it.
func (b *backchannel) close() {
	b.mu.Lock()
	s := b.session
	b.session, b.closed = nil, true
	b.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// ask sends a question and waits for its answer.
func (b *backchannel) ask(ctx context.Context, q *workerv1.Question) (*workerv1.Answer, error) {
	c := make(chan *workerv1.Answer, 1)
	b.mu.Lock()
	b.last++
	q.Number = b.last
	b.waiting[q.Number] = c
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.waiting, q.Number)
		b.mu.Unlock()
	}()
	if err := b.push(&workerv1.RunEvent{Message: &workerv1.RunEvent_Question{Question: q}}); err != nil {
		return nil, err
	}
	select {
	case a := <-c:
		switch {
		case a.Missing:
			return nil, status.Error(codes.NotFound, a.Error)
		case a.Error != "":
			return nil, errors.New(a.Error)
		}
		return a, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// answer hands on an answer; one that nobody waits for is dropped.
func (b *backchannel) answer(a *workerv1.Answer) {
	b.mu.Lock()
	c := b.waiting[a.GetNumber()]
	delete(b.waiting, a.GetNumber())
	b.mu.Unlock()
	if c != nil {
		c <- a
	}
}

type secretServer struct {
	secrets.UnimplementedSecretsServer
	b *backchannel
}

func (s secretServer) GetSecret(ctx context.Context, r *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	a, err := s.b.ask(ctx, &workerv1.Question{About: &workerv1.Question_Secret{Secret: r.ID}})
	if err != nil {
		return nil, err
	}
	return &secrets.GetSecretResponse{Data: a.Value}, nil
}

type agentServer struct {
	sshforward.UnimplementedSSHServer
	b *backchannel
}

func (s agentServer) CheckAgent(ctx context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	_, err := s.b.ask(ctx, &workerv1.Question{About: &workerv1.Question_Agent{Agent: r.ID}})
	return &sshforward.CheckAgentResponse{}, err
}

func (s agentServer) ForwardAgent(stream sshforward.SSH_ForwardAgentServer) error {
	id := sshforward.DefaultID
	md, _ := metadata.FromIncomingContext(stream.Context())
	if v := md[sshforward.KeySSHID]; len(v) > 0 && v[0] != "" {
		id = v[0]
	}
	l, err := s.b.links.open(id)
	if err != nil {
		return err
	}
	defer s.b.links.drop(l)
	go s.b.links.outbound(l, stream) // ends with the stream, which is when this returns
	return s.b.links.inbound(stream.Context(), l, stream)
}

// inMemory is a gRPC connection to a server in this process. It implements
// BuildKit's session.Caller.
type inMemory struct {
	conn     *grpc.ClientConn
	srv      *grpc.Server
	listener *pipeListener
	serving  sync.WaitGroup
}

func newInMemory(register func(grpc.ServiceRegistrar)) (*inMemory, error) {
	s := &inMemory{srv: grpc.NewServer(grpc.WaitForHandlers(true)), listener: &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}}
	register(s.srv)
	var err error
	s.conn, err = grpc.NewClient("passthrough:///daemon", grpc.WithContextDialer(s.listener.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	s.serving.Go(func() {
		_ = s.srv.Serve(s.listener) // it ends when close stops it
	})
	return s, nil
}

func (s *inMemory) close() {
	s.conn.Close()
	s.srv.Stop()
	s.listener.Close()
	s.serving.Wait()
}

func (s *inMemory) Context(ctx context.Context) context.Context { return ctx }
func (s *inMemory) Supports(string) bool                        { return true }
func (s *inMemory) Conn() *grpc.ClientConn                      { return s.conn }
func (s *inMemory) SharedKey() string                           { return "" }

// pipeListener accepts what dial has made.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) dial(ctx context.Context, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

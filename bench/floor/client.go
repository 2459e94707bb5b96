package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/buildid"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// nothing is a daemon to which every build is done when it is asked for: what is
// left is what the client and the protocol cost.
type nothing struct {
	control.UnimplementedControlServer
	gateway.UnimplementedLLBBridgeServer

	sessions *session.Manager

	mu    sync.Mutex
	ended map[string]chan struct{} // by build, for clients that call the frontend themselves
}

func (n *nothing) end(build string) chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended[build] == nil {
		n.ended[build] = make(chan struct{})
	}
	return n.ended[build]
}

// controller is the Control service; both services have a method Solve.
type controller struct{ *nothing }

func (c controller) Solve(ctx context.Context, r *control.SolveRequest) (*control.SolveResponse, error) {
	// every build asks its client for something
	caller, err := c.sessions.Get(ctx, r.Session, false)
	if err != nil {
		return nil, err
	}
	if _, err := healthpb.NewHealthClient(caller.Conn()).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		return nil, err
	}
	if r.Frontend == "" {
		select {
		case <-c.end(r.Ref):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &control.SolveResponse{}, nil
}

func (n *nothing) Ping(context.Context, *gateway.PingRequest) (*gateway.PongResponse, error) {
	return &gateway.PongResponse{FrontendAPICaps: gateway.Caps.All(), LLBCaps: pb.Caps.All()}, nil
}

func (n *nothing) Solve(context.Context, *gateway.SolveRequest) (*gateway.SolveResponse, error) {
	return &gateway.SolveResponse{Result: &gateway.Result{Result: &gateway.Result_Ref{Ref: &gateway.Ref{}}}}, nil
}

func (n *nothing) Return(ctx context.Context, _ *gateway.ReturnRequest) (*gateway.ReturnResponse, error) {
	close(n.end(buildid.FromIncomingContext(ctx)))
	return &gateway.ReturnResponse{}, nil
}

func (*nothing) Status(*control.StatusRequest, grpc.ServerStreamingServer[control.StatusResponse]) error {
	return nil
}

func (n *nothing) Session(stream grpc.BidiStreamingServer[control.BytesMessage, control.BytesMessage]) error {
	conn, closed, opts := grpchijack.Hijack(stream)
	defer conn.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		<-closed
		cancel()
	}()
	return n.sessions.HandleConn(ctx, conn, opts)
}

func (*nothing) ListWorkers(context.Context, *control.ListWorkersRequest) (*control.ListWorkersResponse, error) {
	return &control.ListWorkersResponse{}, nil
}

func (*nothing) Info(context.Context, *control.InfoRequest) (*control.InfoResponse, error) {
	return &control.InfoResponse{}, nil
}

// serve serves nothing on a socket until stop is called.
func serve(p place) (addr string, stop func(), err error) {
	path := filepath.Join(p.dir, "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", nil, err
	}
	s := grpc.NewServer()
	sessions, err := session.NewManager()
	if err != nil {
		return "", nil, err
	}
	n := &nothing{sessions: sessions, ended: map[string]chan struct{}{}}
	control.RegisterControlServer(s, controller{n})
	gateway.RegisterLLBBridgeServer(s, n)
	go s.Serve(l) //nolint:errcheck // ends with the program
	return "unix://" + path, s.Stop, nil
}

// client runs buildctl against a daemon that does nothing.
func client(p place) (time.Duration, error) {
	addr, stop, err := serve(p)
	if err != nil {
		return 0, err
	}
	defer stop()
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(exe), "stock", "buildctl"), "--addr", addr, "build", "--progress=rawjson",
		"--frontend=dockerfile.v0", "--local", "context="+p.dir, "--local", "dockerfile="+p.dir)
	cmd.Env = []string{"HOME=" + p.dir}
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("buildctl: %w\n%s", err, out)
	}
	return time.Since(start), nil
}

// crowd is 50 clients of a daemon that does nothing.
func crowd(p place) (time.Duration, error) {
	addr, stop, err := serve(p)
	if err != nil {
		return 0, err
	}
	defer stop()
	start := time.Now()
	var eg errgroup.Group
	for range 50 {
		eg.Go(func() error { return ask(addr, p.dir) })
	}
	err = eg.Wait()
	return time.Since(start), err
}

func ask(addr, dir string) error {
	ctx := context.Background()
	c, err := bkclient.New(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		return err
	}
	status := make(chan *bkclient.SolveStatus)
	go func() {
		for range status { //nolint:revive // until it is closed
		}
	}()
	_, err = c.Solve(ctx, nil, bkclient.SolveOpt{
		Frontend: "dockerfile.v0", LocalMounts: map[string]fsutil.FS{"context": fs, "dockerfile": fs},
	}, status)
	return err
}

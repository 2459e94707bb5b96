package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/flight"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
)

// peer is a worker as a Remote sees it.
type peer struct {
	addr  string
	conn  *grpc.ClientConn
	api   workerv1.WorkerClient
	trees *tree.Store
	blobs *blob.Store
	log   *slog.Logger
	// puts are the layers and blobs that are being sent, by ID or digest.
	puts flight.Group[string, struct{}, struct{}]

	mu    sync.Mutex             // guards what follows
	info  *workerv1.InfoResponse // nil until it said hello
	rests time.Time              // until then it is left out
	last  error                  // why it could not be reached
	mine  int                    // steps of ours that it runs
}

// rest is how long a worker is left out that could not be reached.
const rest = 10 * time.Second

// Keepalive of connections in use: a machine that vanished is noticed within
// twice this time. Servers have to allow it.
const keepaliveTime = 15 * time.Second

// ServerOptions are what a gRPC server needs beside its credentials to serve a
// Server well.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		// Steps must have ended before the stores that they use are closed.
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTime}),
	}
}

func newPeer(addr string, c RemoteConfig) (*peer, error) {
	target, err := targetOf(addr)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(c.Credentials), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTime}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 3 * time.Second, Backoff: backoff.Config{
			BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second,
		}}))
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", addr, err)
	}
	return &peer{
		addr: addr, conn: conn, api: workerv1.NewWorkerClient(conn), trees: c.Trees, blobs: c.Blobs, log: c.Log,
	}, nil
}

func targetOf(addr string) (string, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return "", fmt.Errorf("worker address %q: %w", addr, err)
	}
	switch {
	case u.Scheme == "tcp" && u.Hostname() != "" && u.Port() != "" && u.Path == "":
		return "dns:///" + u.Host, nil
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		return "unix://" + u.Path, nil
	default:
		return "", fmt.Errorf("worker address %q: want tcp://HOST:PORT or unix:///PATH", addr)
	}
}

// resting tells whether the worker could not be reached lately.
func (p *peer) resting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.rests)
}

// fell notes that the worker could not be reached.
func (p *peer) fell(err error) {
	p.mu.Lock()
	said := p.last != nil
	p.info, p.last, p.rests = nil, err, time.Now().Add(rest)
	p.mu.Unlock()
	if !said {
		p.log.Warn("a worker cannot be reached, it is left out until it can", "worker", p.addr, "error", unreachable(err))
	}
}

// trouble is why the worker could not be reached.
func (p *peer) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lost *lostError
	if errors.As(p.last, &lost) || p.last == nil {
		return p.last
	}
	return fmt.Errorf("worker %s: %w", p.addr, unreachable(p.last))
}

// plain is an error without gRPC's words around it.
func plain(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := strings.TrimPrefix(st.Message(), "latest balancer error: ")
	if quoted, ok := strings.CutPrefix(text, "connection error: desc = "); ok {
		if inner, err := strconv.Unquote(quoted); err == nil {
			text = strings.TrimPrefix(strings.TrimPrefix(inner, "transport: "), "Error while dialing: ")
		}
	}
	return errors.New(text)
}

// unreachable is why a worker cannot be reached, in plain words.
func unreachable(err error) error {
	err = plain(err)
	// What one sees of a server that wants TLS, or another certificate, depends on
	// who is quicker.
	for _, sign := range []string{"server preface", "broken pipe", "connection reset"} {
		if strings.Contains(err.Error(), sign) {
			return fmt.Errorf("it ended the connection before the first call: does it want TLS, or another certificate? (%w)", err)
		}
	}
	return err
}

// hello asks a worker what it is, unless that is known; wait waits for the
// connection.
func (p *peer) hello(ctx context.Context, wait bool) (*workerv1.InfoResponse, error) {
	p.mu.Lock()
	info := p.info
	p.mu.Unlock()
	if info != nil {
		return info, nil
	}
	info, err := p.api.Info(ctx, &workerv1.InfoRequest{}, grpc.WaitForReady(wait))
	if err != nil {
		return nil, err
	}
	if info.Api != api {
		return nil, fmt.Errorf("it speaks version %d of the API, this daemon version %d", info.Api, api)
	}
	p.mu.Lock()
	back := p.last != nil
	p.info, p.last, p.rests = info, nil, time.Time{}
	p.mu.Unlock()
	if back {
		p.log.Info("a worker can be reached again", "worker", p.addr)
	}
	return info, nil
}

// offer asks the worker what it has of the step's inputs.
func (p *peer) offer(ctx context.Context, s *step, wait bool) (offer, error) {
	if wait {
		p.conn.ResetConnectBackoff()
	}
	info, err := p.hello(ctx, wait)
	if err != nil {
		return offer{}, err
	}
	r, err := p.api.HoldLayers(ctx, &workerv1.HoldLayersRequest{Layers: s.layers}, grpc.WaitForReady(wait))
	if err != nil {
		return offer{}, err
	}
	p.mu.Lock()
	running := max(p.mine, int(r.GetLoad().GetRunning())) // some of ours it may not know of yet
	p.mu.Unlock()
	slots := max(1, int(r.GetLoad().GetSlots()))
	o := offer{peer: p, foreign: !s.runsOn(info.Platforms), full: running >= slots, relative: float64(running) / float64(slots)}
	for _, id := range r.Layers {
		o.missing += s.sizes[id]
	}
	for _, d := range r.Blobs {
		o.missing += s.sizes[d]
	}
	return o, nil
}

// runsOn tells whether one of the platforms is the step's.
func (s *step) runsOn(list []string) bool {
	if s.platform == nil {
		return true
	}
	return slices.ContainsFunc(list, func(text string) bool {
		have, err := platforms.Parse(text)
		return err == nil && platforms.Only(have).Match(*s.platform)
	})
}

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/worker/op"
)

// RemoteConfig says where steps are sent.
type RemoteConfig struct {
	// Workers are addresses: tcp://HOST:PORT or unix://PATH.
	Workers []string
	// Credentials default to none at all.
	Credentials credentials.TransportCredentials
	Trees       *tree.Store
	Blobs       *blob.Store
	// Patience is how long to wait for a worker if none can be reached. Default:
	// 5 seconds, in which one that is started anew is back.
	Patience time.Duration
	Log      *slog.Logger
}

func (c *RemoteConfig) applyDefaults() error {
	if len(c.Workers) == 0 || c.Trees == nil || c.Blobs == nil {
		return errors.New("remote workers need addresses, trees and blobs")
	}
	if c.Credentials == nil {
		c.Credentials = insecure.NewCredentials()
	}
	c.Patience = cmp.Or(c.Patience, 5*time.Second)
	c.Log = cmp.Or(c.Log, slog.Default())
	return nil
}

// Remote runs steps on other machines. It is safe for concurrent use.
//
// A step goes to the worker that has most of its inputs' bytes, among those with
// equally much to the one with the least to do. A worker that breaks off a step
// is left out for a while; the step goes to another one if nothing had been
// heard of it, else it fails.
//
// Merge, diff and passthrough are done here: they rearrange layers, and would
// only have these sent about.
type Remote struct {
	cfg   RemoteConfig
	peers []*peer
	local *op.Worker
}

// NewRemote prepares connections; it does not wait for workers to answer.
func NewRemote(c RemoteConfig) (*Remote, error) {
	if err := c.applyDefaults(); err != nil {
		return nil, err
	}
	r := &Remote{cfg: c, local: &op.Worker{Config: op.Config{Trees: c.Trees}}}
	for _, addr := range c.Workers {
		p, err := newPeer(addr, c)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.peers = append(r.peers, p)
	}
	return r, nil
}

// Close ends the connections, and with them the steps that still run.
func (r *Remote) Close() error {
	var errs []error
	for _, p := range r.peers {
		errs = append(errs, p.conn.Close())
	}
	return errors.Join(errs...)
}

// helloTime is how long Workers waits for an answer: those who start at the same
// time as the daemon get a chance.
const helloTime = 2 * time.Second

// Workers asks all workers what they are, and returns what those say that can be
// reached, in the order of the configuration.
func (r *Remote) Workers(ctx context.Context) []*workerv1.InfoResponse {
	infos := make([]*workerv1.InfoResponse, len(r.peers))
	var wg sync.WaitGroup
	for i, p := range r.peers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, helloTime)
			defer cancel()
			if info, err := p.hello(ctx, true); err == nil {
				infos[i] = info
			} else {
				p.fell(err)
			}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(infos, func(i *workerv1.InfoResponse) bool { return i == nil })
}

// Forget empties cache mounts on all workers that can be reached. Those of others
// stay: steps do not rely on what they find in a cache mount.
func (r *Remote) Forget(ctx context.Context, ids ...string) error {
	calls, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range r.peers {
		if p.resting() {
			continue
		}
		wg.Go(func() {
			if _, err := p.api.ForgetCaches(calls, &workerv1.ForgetCachesRequest{Ids: ids}); err != nil && ctx.Err() == nil {
				p.fell(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Run implements worker.Steps.
func (r *Remote) Run(ctx context.Context, q op.Request) ([]cache.Tree, error) {
	if err := op.Validate(q.Op); err != nil {
		return nil, err
	}
	switch q.Op.Op.(type) {
	case *pb.Op_Merge:
		return r.local.Merge(ctx, q)
	case *pb.Op_Diff:
		return r.local.Diff(ctx, q)
	case *pb.Op_Passthrough:
		return r.local.Passthrough(ctx, q)
	}
	s, err := r.newStep(q)
	if err != nil {
		return nil, err
	}
	defer s.lease.Release()
	return r.place(ctx, s)
}

// place runs a step on one worker after another until it has run.
func (r *Remote) place(ctx context.Context, s *step) ([]cache.Tree, error) {
	tried := map[*peer]bool{}
	var errs []error
	for {
		p, err := r.choose(ctx, s, tried)
		if err != nil {
			return nil, join(append(errs, err)...)
		}
		out, err := p.run(ctx, s)
		if err == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var lost *lostError
		if !errors.As(err, &lost) {
			return nil, err
		}
		if lost.down {
			p.fell(lost)
		}
		if s.heard() {
			return nil, fmt.Errorf("%w; the step had begun, so it was not run again elsewhere: build again", err)
		}
		r.cfg.Log.Warn("a worker could not run a step, another one is tried", "worker", p.addr, "step", s.Name, "error", err)
		errs = append(errs, err)
		tried[p] = true
	}
}

var (
	errNoWorker = errors.New("no worker can be reached that could run the step")
	errNoOther  = errors.New("no other worker is left to run the step")
)

// join is errors.Join on one line, as a build shows one for an error.
func join(errs ...error) error {
	var out error
	for _, err := range errs {
		switch {
		case err == nil:
		case out == nil:
			out = err
		default:
			out = fmt.Errorf("%w; %w", out, err)
		}
	}
	return out
}

// choose returns the best worker of those that answer.
func (r *Remote) choose(ctx context.Context, s *step, tried map[*peer]bool) (*peer, error) {
	var fresh, all []*peer
	for _, p := range r.peers {
		if tried[p] {
			continue
		}
		all = append(all, p)
		if !p.resting() {
			fresh = append(fresh, p)
		}
	}
	if len(all) == 0 {
		return nil, errNoOther
	}
	offers := ask(ctx, s, fresh, askTimeout, false)
	if len(offers) == 0 { // now patience is better than speed
		offers = ask(ctx, s, all, r.cfg.Patience, true)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(offers) == 0 {
		var errs []error
		for _, p := range all {
			errs = append(errs, p.trouble())
		}
		return nil, fmt.Errorf("%w: %w", errNoWorker, join(errs...))
	}
	return slices.MinFunc(offers, compareOffers).peer, nil
}

// askTimeout bounds how long a worker may take to say what it has.
const askTimeout = 5 * time.Second

// offer is what makes a worker better or worse for a step than another one.
type offer struct {
	peer     *peer
	foreign  bool  // it does not run the step's platform
	full     bool  // the step would have to wait
	missing  int64 // bytes that would have to be sent
	relative float64
}

func compareOffers(a, b offer) int {
	yes := func(v bool) int {
		if v {
			return 1
		}
		return 0
	}
	return cmp.Or(yes(a.foreign)-yes(b.foreign), yes(a.full)-yes(b.full), cmp.Compare(a.missing, b.missing), cmp.Compare(a.relative, b.relative))
}

// ask lets workers say what they have of the step's inputs and to do. Those that
// do not answer are left out.
func ask(step context.Context, s *step, peers []*peer, limit time.Duration, wait bool) []offer {
	ctx, cancel := context.WithTimeout(step, limit)
	defer cancel()
	var mu sync.Mutex // guards offers
	var offers []offer
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			o, err := p.offer(ctx, s, wait)
			if err != nil {
				if step.Err() == nil {
					p.fell(err)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			offers = append(offers, o)
		})
	}
	wg.Wait()
	slices.SortFunc(offers, func(a, b offer) int { return cmp.Compare(a.peer.addr, b.peer.addr) }) // equally good: always the same
	return offers
}

// lostError says that a worker did not bring a step to its end, for reasons that
// are not the step's.
type lostError struct {
	addr string
	err  error
	down bool // the worker is to be left out for a while
}

func (e *lostError) Error() string { return fmt.Sprintf("worker %s: %v", e.addr, e.err) }
func (e *lostError) Unwrap() error { return e.err }

// lost interprets what a call returned.
func (p *peer) lost(err error) error {
	var known *lostError
	if err == nil || errors.As(err, &known) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("worker %s: %w", p.addr, err)
	}
	switch st.Code() {
	case codes.InvalidArgument:
		return fmt.Errorf("worker %s refused: %w", p.addr, plain(err))
	case codes.ResourceExhausted, codes.FailedPrecondition, codes.NotFound, codes.PermissionDenied:
		return &lostError{addr: p.addr, err: plain(err)}
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return &lostError{addr: p.addr, err: fmt.Errorf("the connection broke: %w", plain(err)), down: true}
	default:
		return &lostError{addr: p.addr, err: plain(err), down: true}
	}
}

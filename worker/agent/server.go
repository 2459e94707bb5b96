package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/worker/op"
)

// Steps runs ops; an op.Worker does.
type Steps interface {
	Run(ctx context.Context, r op.Request) ([]cache.Tree, error)
}

// Caches keeps cache mounts; a mount.Caches does.
type Caches interface {
	Forget(ctx context.Context, ids ...string) error
}

// ServerConfig is what a Server works with.
type ServerConfig struct {
	Steps Steps
	Trees *tree.Store
	Blobs *blob.Store
	// Dir is a directory on the file system of both stores, for Info.
	Dir string
	// ID, Version, Platforms and Labels are shown by Info.
	ID, Version string
	Platforms   []string
	Labels      map[string]string
	// Slots is how many steps run at a time. Default: four per CPU, as most steps
	// wait for disk or network half of the time, but memory is not endless.
	Slots int
	// LeaseTime is how long layers are kept after they were used last, if there
	// is space. Default: two days, so that what was built yesterday is quick today.
	LeaseTime time.Duration
	// Caches are the cache mounts of Steps; nil for none.
	Caches Caches
	// Allow refuses, with an error, steps that want more than this machine gives to
	// clients. nil allows all that Steps can do.
	Allow func(o *pb.Op) error
	// Ended is called after every step: a garbage collector may have work. It
	// knows what to keep if it has the Server as a gc.Extra.
	Ended func()
	Log   *slog.Logger
}

func (c *ServerConfig) applyDefaults() error {
	if c.Steps == nil || c.Trees == nil || c.Blobs == nil || c.Dir == "" {
		return errors.New("worker needs steps, trees, blobs and a directory")
	}
	c.Slots = cmp.Or(c.Slots, 4*runtime.NumCPU())
	c.LeaseTime = cmp.Or(c.LeaseTime, 48*time.Hour)
	c.Log = cmp.Or(c.Log, slog.Default())
	if c.Ended == nil {
		c.Ended = func() {}
	}
	if c.Allow == nil {
		c.Allow = func(*pb.Op) error { return nil }
	}
	return nil
}

// Server serves buildd.worker.v1. It is safe for concurrent use.
type Server struct {
	workerv1.UnimplementedWorkerServer
	cfg     ServerConfig
	leases  *leases
	slots   chan struct{} // one element per step that runs
	running atomic.Int32  // steps that run or wait for a slot
}

// NewServer returns a server that keeps what the store has already for the time
// of a lease.
func NewServer(c ServerConfig) (*Server, error) {
	if err := c.applyDefaults(); err != nil {
		return nil, err
	}
	s := &Server{cfg: c, leases: newLeases(c.Trees, c.LeaseTime), slots: make(chan struct{}, c.Slots)}
	s.leases.adopt()
	return s, nil
}

// Maintain makes durable what the store was given, now and then, until ctx ends.
func (s *Server) Maintain(ctx context.Context) error {
	t := time.NewTicker(syncEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := s.cfg.Trees.Sync(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("make layers durable", "error", err)
		}
	}
}

// syncEvery is how much work a worker loses at most if the machine fails. Nobody
// waits for it: what a worker lost it is sent again.
const syncEvery = time.Minute

// Register adds the service to a gRPC server, which should take messages of
// MaxMessage bytes.
func (s *Server) Register(r grpc.ServiceRegistrar) { workerv1.RegisterWorkerServer(r, s) }

// Info implements the service.
func (s *Server) Info(context.Context, *workerv1.InfoRequest) (*workerv1.InfoResponse, error) {
	free, err := freeBytes(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	return &workerv1.InfoResponse{
		Id: s.cfg.ID, Version: s.cfg.Version, Api: api, Platforms: s.cfg.Platforms, Labels: s.cfg.Labels, Load: s.load(),
		FreeBytes: uint64(free), LeaseSeconds: uint32(s.cfg.LeaseTime / time.Second),
	}, nil
}

func (s *Server) load() *workerv1.Load {
	return &workerv1.Load{Slots: uint32(s.cfg.Slots), Running: uint32(max(0, s.running.Load()))}
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("find out free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// HoldLayers implements the service.
func (s *Server) HoldLayers(ctx context.Context, r *workerv1.HoldLayersRequest) (*workerv1.HoldLayersResponse, error) {
	out := &workerv1.HoldLayersResponse{Load: s.load()}
	hold := func(tree.Header) (bool, error) { return true, nil }
	if r.Lease != "" {
		lease, done, err := s.leases.use(r.Lease)
		if err != nil {
			return nil, statusOf(err)
		}
		defer done()
		hold = func(h tree.Header) (bool, error) { return s.hold(lease, h) }
	}
	for _, l := range r.Layers {
		h, err := headerOf(l)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		held, err := hold(h)
		if err != nil {
			return nil, statusOf(err)
		}
		info, err := s.cfg.Trees.Layer(h.ID)
		switch here := held && err == nil; {
		case here && info.Ready:
		case h.Image == nil:
			out.Layers = append(out.Layers, string(h.ID))
		case !s.cfg.Blobs.Has(ctx, h.Image.Desc.Digest):
			out.Blobs = append(out.Blobs, h.Image.Desc.Digest.String())
		}
	}
	return out, nil
}

// maxCaches bounds the ids of one ForgetCaches.
const maxCaches = 10_000

// ForgetCaches implements the service.
func (s *Server) ForgetCaches(ctx context.Context, r *workerv1.ForgetCachesRequest) (*workerv1.ForgetCachesResponse, error) {
	if len(r.Ids) > maxCaches {
		return nil, status.Errorf(codes.InvalidArgument, "%d cache mounts: at most %d can be forgotten at a time", len(r.Ids), maxCaches)
	}
	if s.cfg.Caches != nil {
		if err := s.cfg.Caches.Forget(ctx, r.Ids...); err != nil {
			return nil, statusOf(err)
		}
	}
	return &workerv1.ForgetCachesResponse{}, nil
}

// hold adds a layer to a lease, one of an image even if it was not known. It
// returns false if the layer is not here.
func (s *Server) hold(lease *lease, h tree.Header) (bool, error) {
	var t cache.Tree
	var err error
	if h.Image != nil {
		t, err = s.cfg.Trees.AddLayer(h)
	} else {
		t, err = s.cfg.Trees.Known(h)
	}
	if err == nil {
		err = lease.add(t)
	}
	if errors.Is(err, cache.ErrNotFound) && h.Image == nil {
		return false, nil
	}
	return err == nil, err
}

// statusOf gives an error of the stores the code that proto/worker.proto
// promises.
func statusOf(err error) error {
	if err == nil || status.Code(err) != codes.Unknown {
		return err
	}
	code := codes.Unknown
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, cache.ErrNotFound), errors.Is(err, tree.ErrNotReady):
		code = codes.FailedPrecondition
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, errTooManyLeases):
		code = codes.ResourceExhausted
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EROFS):
		code = codes.Internal
	}
	return status.Error(code, err.Error())
}

package export

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/worker/registry"
	"github.com/containerd/containerd/v2/core/remotes"
	godigest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// streamFrom is how many bytes a blob has when its upload begins: with fewer it
// is done sooner than a registry answers, and the push may find that the registry
// has it.
const streamFrom = 4 << 20

// pushingLayers is what progress calls the upload of layers, whenever it begins.
const pushingLayers = "pushing layers"

// uploader is a resolver that can have blobs uploaded before their digests are
// known.
type uploader interface {
	Uploader(ctx context.Context, ref string) (*registry.Uploader, error)
}

// streams uploads the layers that an export makes while they are being made.
//
// It is there to save time only: what it did not bring to the registry, for
// whatever reason, the push does, which begins with a layer when the layer's
// stream has ended. Nothing names what it uploads before the push does. It lives
// from Export to Finalize and must be stopped.
type streams struct {
	to     *registry.Uploader
	r      Request
	ctx    context.Context // of the uploads; longer than that of Export
	cancel context.CancelCauseFunc
	g      errgroup.Group
	slots  chan struct{}

	mu      sync.Mutex // guards what follows
	stopped bool
	all     []*stream
	// done ends the part of the export that progress shows; nil before it begins.
	done func(error)
}

// stream is one layer on its way.
type stream struct {
	blob  *blob.Growing
	ended chan struct{}
}

var (
	errPushed    = errors.New("the push is over")
	errDiscarded = errors.New("the build failed elsewhere")
)

// newStreams returns nil if r's registry cannot be reached in this way.
func newStreams(ctx context.Context, resolver remotes.Resolver, ref string, r Request) *streams {
	u, ok := resolver.(uploader)
	if !ok {
		return nil
	}
	to, err := u.Uploader(ctx, ref)
	if err != nil {
		return nil // the push says why
	}
	s := &streams{to: to, r: r, slots: make(chan struct{}, parallelBlobs)}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

// during ends the uploads if ctx ends before release is called.
func (s *streams) during(ctx context.Context) (release func() bool) {
	if s == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
}

// follow uploads b if it becomes large enough. It does not wait.
func (s *streams) follow(b *blob.Growing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	// So that the upload can open it even if the blob is made before.
	hold, err := b.Open(s.ctx)
	if err != nil {
		return
	}
	st := &stream{blob: b, ended: make(chan struct{})}
	s.all = append(s.all, st)
	s.g.Go(func() error {
		defer close(st.ended)
		defer hold.Close()
		s.upload(b)
		return nil
	})
}

func (s *streams) upload(b *blob.Growing) {
	if err := b.Reach(s.ctx, streamFrom); err != nil {
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return
	}
	s.begin()
	if err := s.to.Upload(s.ctx, b); err != nil {
		slog.DebugContext(s.ctx, "a layer is pushed when it is complete", "error", err)
	}
}

// begin shows that layers are being pushed.
func (s *streams) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil && !s.stopped {
		s.done = s.r.part(pushingLayers)
	}
}

// push runs f, which pushes all layers, as the part of the export that may have
// begun with streams.
func (s *streams) push(r Request, f func() error) error {
	if s == nil {
		return r.step(pushingLayers, f)
	}
	s.begin()
	err := f()
	s.stop(err)
	return err
}

// await waits for the stream of the blob d, if there is one. All blobs are
// complete.
func (s *streams) await(ctx context.Context, d godigest.Digest) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	all := s.all
	s.mu.Unlock()
	for _, st := range all {
		if desc, err := st.blob.End(ctx); err != nil || desc.Digest != d {
			continue // one that failed was made again
		}
		select {
		case <-st.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// stop ends all uploads and waits for them. err is how pushing layers ended.
func (s *streams) stop(err error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	done := s.done
	s.done, s.stopped = nil, true
	s.mu.Unlock()
	s.cancel(errPushed)
	_ = s.g.Wait()
	if done != nil {
		done(err)
	}
}

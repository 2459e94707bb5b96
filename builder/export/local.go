package export

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/worker/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
)

// local sends the files to a directory of the client. Clients make files their
// user's own, so owners are sent as they are.
type local struct {
	files *rootfs
	o     fileOptions
}

func newLocal(f *rootfs, attrs map[string]string) (Exporter, error) {
	o, err := parseFileOptions(attrs)
	if err != nil {
		return nil, err
	}
	return &local{files: f, o: o}, nil
}

func (l *local) Type() string                    { return TypeLocal }
func (l *local) Name() string                    { return "exporting to client directory" }
func (l *local) Compression() *layer.Compression { return nil }

func (l *local) Export(ctx context.Context, in Input, r Request) (*Result, error) {
	parts := make([]fsutil.FS, len(in.Platforms))
	split, own := l.o.splits(in), owners{}
	for i, p := range in.Platforms {
		fs, err := l.files.open(ctx, in, p, l.o, r)
		if err == nil && !split && len(in.Platforms) > 1 {
			err = own.claim(ctx, p.ID, fs)
		}
		if err == nil && split {
			fs, err = fsutil.SubDirFS([]fsutil.Dir{inDir(in, p, l.o, fs)})
		}
		if err != nil {
			return nil, fmt.Errorf("platform %s: %w", p.ID, err)
		}
		parts[i] = fs
	}
	if l.o.mirror {
		// The client can only know what to remove if it gets everything at once.
		return &Result{}, l.send(ctx, "copying files", mergedFS(parts), r, filesync.WithExporterMultiPlatformTransfer())
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range in.Platforms {
		g.Go(func() error {
			id := "copying files"
			if split {
				id += " " + p.ID
			}
			return l.send(ctx, id, parts[i], r)
		})
	}
	return &Result{}, g.Wait()
}

func (l *local) send(ctx context.Context, id string, fs fsutil.FS, r Request, opts ...filesync.CopyToCallerOpt) error {
	return r.step(id, func() error {
		return r.onClient(ctx, func(ctx context.Context, c bksession.Caller) error {
			return session.SendDir(ctx, c, r.ID, fs, r.counter(id), opts...)
		})
	})
}

// counter passes on how many bytes were sent, at most ten times a second.
func (r Request) counter(id string) func(int, bool) {
	if r.Bytes == nil {
		return nil
	}
	var mu sync.Mutex
	var last time.Time // guarded by mu
	return func(n int, done bool) {
		mu.Lock()
		now := time.Now()
		due := done || now.Sub(last) >= 100*time.Millisecond
		if due {
			last = now
		}
		mu.Unlock()
		if due {
			r.Bytes(id, int64(n))
		}
	}
}

package blob

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"sync"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Growing is a blob that is being written. Whoever follows it reads the file
// behind its writer, which never waits for a reader: a slow one costs neither
// time nor memory.
//
// What is read has no digest yet. It becomes a blob when the making ends well,
// and must be worth nothing to who reads it if it does not.
type Growing struct {
	f *os.File

	mu sync.Mutex // guards what follows
	// open counts who has f open: the making, and each reader.
	open int
	size int64
	// desc is set when the blob is complete, err when it will never be.
	desc *ocispecs.Descriptor
	err  error
	wake chan struct{} // closed and replaced when something changes
}

var errUnfinished = errors.New("the blob was not finished")

func newGrowing(f *os.File) *Growing {
	return &Growing{f: f, open: 1, wake: make(chan struct{})}
}

func (g *Growing) wakeLocked() {
	close(g.wake)
	g.wake = make(chan struct{})
}

func (g *Growing) grow(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.size += int64(n)
	g.wakeLocked()
}

// complete says that the blob has all of its bytes.
func (g *Growing) complete(desc ocispecs.Descriptor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.desc = &desc
	g.wakeLocked()
}

// end says that the making is over; a blob that is not complete now has failed.
func (g *Growing) end(err error) {
	g.mu.Lock()
	if g.desc == nil {
		g.err = errors.Join(errUnfinished, err)
		g.wakeLocked()
	}
	g.mu.Unlock()
	g.release()
}

func (g *Growing) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open--; g.open == 0 {
		g.f.Close()
	}
}

// await waits until there are bytes behind offset off, and returns how many
// there are from the blob's beginning; io.EOF if there will be none.
func (g *Growing) await(ctx context.Context, off int64, closed <-chan struct{}) (int64, error) {
	for {
		g.mu.Lock()
		size, complete, err, wake := g.size, g.desc != nil, g.err, g.wake
		g.mu.Unlock()
		switch {
		case err != nil:
			return size, err
		case size > off:
			return size, nil
		case complete:
			return size, io.EOF
		}
		select {
		case <-wake:
		case <-closed:
			return size, os.ErrClosed
		case <-ctx.Done():
			return size, context.Cause(ctx)
		}
	}
}

// Reach waits until the blob has n bytes. It is io.EOF if the blob is complete
// and has not more.
func (g *Growing) Reach(ctx context.Context, n int64) error {
	_, err := g.await(ctx, n-1, nil)
	return err
}

// End waits until the blob is complete and returns its descriptor, which has no
// media type. The blob may not be in the store yet. When ctx has ended it tells
// what is known now.
func (g *Growing) End(ctx context.Context) (ocispecs.Descriptor, error) {
	if _, err := g.await(ctx, math.MaxInt64, nil); !errors.Is(err, io.EOF) {
		return ocispecs.Descriptor{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return *g.desc, nil
}

// Open returns a reader of the blob from its beginning; os.ErrClosed if the making
// has ended and no other reader is open. It is io.EOF where the complete blob ends, and an
// error as soon as the making fails, ctx ends or the reader is closed.
func (g *Growing) Open(ctx context.Context) (io.ReadCloser, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == 0 {
		return nil, os.ErrClosed
	}
	g.open++
	return &growingReader{ctx: ctx, g: g, closed: make(chan struct{})}, nil
}

type growingReader struct {
	ctx    context.Context // of the whole reading; Read has none
	g      *Growing
	off    int64
	once   sync.Once
	closed chan struct{}

	mu sync.Mutex // held while f is read, so that Close does not close it meanwhile
}

func (r *growingReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	size, err := r.g.await(r.ctx, r.off, r.closed)
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.closed:
		return 0, os.ErrClosed
	default:
	}
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	if err != nil {
		return 0, err
	}
	n, err := r.g.f.ReadAt(p[:min(int64(len(p)), size-r.off)], r.off)
	r.off += int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // somebody else has cut the file
	}
	return n, err
}

// growingPiece is what WriteTo reads at a time: large enough that few calls are
// made per byte, small enough to stay in a core's cache.
const growingPiece = 256 << 10

// WriteTo makes io.Copy, such as that of an HTTP request's body, use pieces
// larger than its own.
func (r *growingReader) WriteTo(w io.Writer) (total int64, err error) {
	p := make([]byte, growingPiece)
	for {
		n, err := r.Read(p)
		if n > 0 {
			m, werr := w.Write(p[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Close may be called more than once, and while another goroutine reads.
func (r *growingReader) Close() error {
	r.once.Do(func() {
		close(r.closed)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.g.release()
	})
	return nil
}

package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is a content.Store in a directory. Blobs are durable when their writer's
// Commit, or Ingest, returns. It keeps no labels.
type Store struct {
	content.Store
	dir string

	mu sync.Mutex // guards what follows
	// seen is when a blob was last asked for; entries go with the next Sweep
	// after they stopped mattering.
	seen map[digest.Digest]time.Time
	held map[digest.Digest]int
}

// Open opens the store in dir, which no other process may use, and removes what
// writers that a crash ended have left.
func Open(dir string) (*Store, error) {
	if err := os.RemoveAll(filepath.Join(dir, "ingest")); err != nil {
		return nil, fmt.Errorf("remove unfinished blobs: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs"), 0o700); err != nil {
		return nil, fmt.Errorf("create blob store: %w", err)
	}
	cs, err := local.NewStore(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	return &Store{Store: cs, dir: dir, seen: map[digest.Digest]time.Time{}, held: map[digest.Digest]int{}}, nil
}

// Has tells whether the blob is here. If it is, it stays for the time that Sweep
// is told to spare.
func (s *Store) Has(ctx context.Context, d digest.Digest) bool {
	_, err := s.Info(ctx, d)
	return err == nil
}

// Info is content.Store's; it counts as use of the blob.
func (s *Store) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	s.touch(d)
	return s.Store.Info(ctx, d)
}

// ReaderAt is content.Store's; it counts as use of the blob. An open reader
// survives the removal of its blob.
func (s *Store) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	s.touch(desc.Digest)
	return s.Store.ReaderAt(ctx, desc)
}

// touch comes before the look at the disk: then a Sweep either sees it, or has
// removed the blob and the look finds nothing.
func (s *Store) touch(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[d] = time.Now()
}

// Hold keeps Sweep from removing blobs, here already or still to come, until
// release is called.
func (s *Store) Hold(ds ...digest.Digest) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range ds {
		s.held[d]++
	}
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range ds {
			if s.held[d]--; s.held[d] <= 0 {
				delete(s.held, d)
			}
		}
	})
}

// Ingest stores what r yields as the blob that desc names. If the bytes do not
// have that digest, or are not desc.Size many (a size below 0 is not checked),
// nothing is stored. A blob that is here already is left as it is, and r unread.
func (s *Store) Ingest(ctx context.Context, desc ocispecs.Descriptor, r io.Reader) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ingest blob %s: %w", desc.Digest, err)
		}
	}()
	if err := desc.Digest.Validate(); err != nil {
		return err
	}
	if s.Has(ctx, desc.Digest) {
		return nil
	}
	return s.Write(ctx, desc, func(w io.Writer) error {
		if desc.Size >= 0 {
			r = io.LimitReader(r, desc.Size+1)
		}
		n, err := io.CopyBuffer(onlyWriter{w}, &ctxReader{ctx, r}, make([]byte, 1<<20))
		switch {
		case err != nil:
			return err
		case desc.Size >= 0 && n > desc.Size:
			return fmt.Errorf("more than the %d bytes that its descriptor says", desc.Size)
		case desc.Size >= 0 && n < desc.Size:
			return fmt.Errorf("%d bytes, its descriptor says %d: %w", n, desc.Size, io.ErrUnexpectedEOF)
		}
		return nil
	})
}

// Write stores what fn writes if it returns nil and the bytes have the digest
// desc.Digest, where desc has one. It leaves nothing behind otherwise.
func (s *Store) Write(ctx context.Context, desc ocispecs.Descriptor, fn func(io.Writer) error) error {
	_, err := s.write(ctx, desc, nil, fn)
	return err
}

// Create stores what fn writes, whatever digest that has, and describes it. The
// descriptor has no media type.
func (s *Store) Create(ctx context.Context, fn func(io.Writer) error) (ocispecs.Descriptor, error) {
	return s.write(ctx, ocispecs.Descriptor{}, nil, fn)
}

// CreateFollowed is Create for a blob that others read while fn writes it: follow
// gets it before fn is called, and must not wait. It is not called if the file
// cannot be opened for reading, too.
func (s *Store) CreateFollowed(ctx context.Context, follow func(*Growing), fn func(io.Writer) error) (ocispecs.Descriptor, error) {
	return s.write(ctx, ocispecs.Descriptor{}, follow, fn)
}

func (s *Store) write(ctx context.Context, desc ocispecs.Descriptor, follow func(*Growing), fn func(io.Writer) error) (_ ocispecs.Descriptor, err error) {
	ref := "write-" + rand.Text()
	w, err := s.Store.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispecs.Descriptor{Digest: desc.Digest}))
	if errdefs.IsAlreadyExists(err) {
		s.touch(desc.Digest)
		return desc, nil
	}
	if err != nil {
		// The directory of the ingest may be there already, as on a full disk.
		_ = s.Abort(context.WithoutCancel(ctx), ref)
		return desc, err
	}
	defer func() {
		w.Close()
		if err != nil {
			// After a successful Commit there is nothing to abort.
			if aerr := s.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
				err = errors.Join(err, aerr)
			}
		}
	}()
	count := &counter{w: w}
	if g := s.growing(ref, follow); g != nil {
		count.growing = g
		defer func() { g.end(err) }()
		follow(g)
	}
	if err := fn(count); err != nil {
		return desc, err
	}
	if err := ctx.Err(); err != nil {
		return desc, context.Cause(ctx)
	}
	got := ocispecs.Descriptor{Digest: w.Digest(), Size: count.n}
	s.touch(got.Digest)
	if desc.Digest != "" && got.Digest != desc.Digest {
		return desc, fmt.Errorf("content has digest %s", got.Digest)
	}
	if count.growing != nil {
		// Followers need not wait until the disk has it.
		count.growing.complete(got)
	}
	if err := w.Commit(ctx, 0, got.Digest); err != nil {
		if !errdefs.IsAlreadyExists(err) {
			return desc, err
		}
		if aerr := s.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			return desc, aerr
		}
	}
	s.touch(got.Digest)
	return got, nil
}

// Walk calls fn for every blob, with filters as containerd's content store has
// them. Blobs that come or go meanwhile may be seen or not.
func (s *Store) Walk(ctx context.Context, fn content.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return err
	}
	return s.each(ctx, func(d digest.Digest) error {
		info, err := s.Store.Info(ctx, d) // not ours, which counts as use
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filter.Match(content.AdaptInfo(info)) {
			return nil
		}
		return fn(info)
	})
}

func (s *Store) each(ctx context.Context, fn func(digest.Digest) error) error {
	root := filepath.Join(s.dir, "blobs")
	algs, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	for _, alg := range algs {
		names, err := os.ReadDir(filepath.Join(root, alg.Name()))
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			d := digest.NewDigestFromEncoded(digest.Algorithm(alg.Name()), name.Name())
			if d.Validate() != nil {
				continue
			}
			if err := fn(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// Swept is what a Sweep removed.
type Swept struct {
	Blobs int
	Bytes int64
}

// Sweep removes the blobs that keep does not want, but for held ones and those
// that were written or asked for within spare.
func (s *Store) Sweep(ctx context.Context, spare time.Duration, keep func(digest.Digest) bool) (Swept, error) {
	var swept Swept
	cutoff := time.Now().Add(-spare)
	err := s.each(ctx, func(d digest.Digest) error {
		if keep(d) {
			return nil
		}
		n, err := s.removeUnused(ctx, d, cutoff)
		if err != nil || n < 0 {
			return err
		}
		swept.Blobs++
		swept.Bytes += n
		return nil
	})
	s.mu.Lock()
	for d, t := range s.seen {
		if t.Before(cutoff) {
			delete(s.seen, d)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return swept, fmt.Errorf("sweep blobs: %w", err)
	}
	return swept, nil
}

// removeUnused removes a blob unless it is held or was used after cutoff, and
// returns its size, -1 if it stays. The lock is held over the unlink so that no
// Has can come between the look and it.
func (s *Store) removeUnused(ctx context.Context, d digest.Digest, cutoff time.Time) (int64, error) {
	info, err := s.Store.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[d] > 0 || s.seen[d].After(cutoff) || info.CreatedAt.After(cutoff) {
		return -1, nil
	}
	if err := s.Store.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
		return -1, err
	}
	return info.Size, nil
}

// growing opens what is written under ref for who follows it; nil for nobody. The
// blob is made all the same if that fails.
func (s *Store) growing(ref string, follow func(*Growing)) *Growing {
	if follow == nil {
		return nil
	}
	// This is where containerd's store has it.
	f, err := os.Open(filepath.Join(s.dir, "ingest", digest.FromString(ref).Encoded(), "data"))
	if err != nil {
		return nil
	}
	return newGrowing(f)
}

// counter counts what is written.
type counter struct {
	w       io.Writer
	n       int64
	growing *Growing // nil if nobody follows
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.growing != nil {
		c.growing.grow(n)
	}
	return n, err
}

// onlyWriter hides ReadFrom, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

var _ content.Store = (*Store)(nil)

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob opens desc as the first of the images refs has it. Reading goes on after
// a connection broke. The bytes are not verified.
func (h *Hosts) Blob(ctx context.Context, c session.Client, desc ocispecs.Descriptor, refs []string) (content.ReaderAt, error) {
	r := h.Resolver(c, ResolverOptions{})
	var errs []error
	for _, ref := range refs {
		f, err := r.Fetcher(ctx, ref)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b := &blobReader{ctx: ctx, f: f, desc: desc, ref: ref}
		if err := b.probe(); err != nil {
			errs = append(errs, err)
			continue
		}
		return b, nil
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("blob %s: %w: no image is known that has it", desc.Digest, ErrNotFound)
	}
	return nil, fmt.Errorf("blob %s: %w", desc.Digest, errors.Join(errs...))
}

// OpenBlob opens desc as f has it, for reading as with Blob.
func OpenBlob(ctx context.Context, f remotes.Fetcher, ref string, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	b := &blobReader{ctx: ctx, f: f, desc: desc, ref: ref}
	if err := b.probe(); err != nil {
		return nil, err
	}
	return b, nil
}

// FetchAll reads a small blob, such as a manifest, into memory.
func FetchAll(ctx context.Context, f remotes.Fetcher, ref string, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("fetch %s of %s: %d bytes are more than the limit of %d", desc.Digest, ref, desc.Size, limit)
	}
	var out []byte
	err := Retry(ctx, func(ctx context.Context) error {
		rc, err := f.Fetch(ctx, desc)
		if err != nil {
			return err
		}
		defer rc.Close()
		out, err = io.ReadAll(io.LimitReader(rc, limit+1))
		return err
	})
	if err != nil {
		return nil, explain(ctx, "fetch", ref, err)
	}
	if int64(len(out)) > limit {
		return nil, fmt.Errorf("fetch %s of %s: more than %d bytes", desc.Digest, ref, limit)
	}
	return out, nil
}

// blobReader reads one blob, best from front to back.
type blobReader struct {
	ctx  context.Context // of the whole reading; ReadAt has none
	f    remotes.Fetcher
	desc ocispecs.Descriptor
	ref  string

	mu  sync.Mutex // guards rc and off; held during I/O because a stream has one reader
	rc  io.ReadCloser
	off int64
}

func (b *blobReader) Size() int64 { return b.desc.Size }

// probe opens the stream, so that a registry without the blob is found out
// before reading starts.
func (b *blobReader) probe() error {
	if b.desc.Size <= 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.openLocked(0); err != nil {
		return explain(b.ctx, "fetch", b.ref, err)
	}
	// containerd connects with the first Read, be it of no bytes.
	if _, err := b.rc.Read(nil); err != nil && !errors.Is(err, io.EOF) {
		b.closeLocked()
		return explain(b.ctx, "fetch", b.ref, err)
	}
	return nil
}

func (b *blobReader) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, back := 0, newBackoff()
	for n < len(p) {
		if off+int64(n) >= b.desc.Size {
			return n, io.EOF
		}
		m, err := b.readLocked(p[n:], off+int64(n))
		n += m
		if m > 0 {
			back = newBackoff()
		}
		if err == nil || errors.Is(err, io.EOF) && off+int64(n) == b.desc.Size {
			continue
		}
		b.closeLocked()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return n, fmt.Errorf("fetch %s of %s: it ends after %d of %d bytes: %w", b.desc.Digest, b.ref, off+int64(n), b.desc.Size, io.ErrUnexpectedEOF)
		}
		if b.ctx.Err() != nil || !passes(err) || !back.wait(b.ctx, 0) {
			return n, explain(b.ctx, "fetch", b.ref, err)
		}
	}
	return n, nil
}

func (b *blobReader) readLocked(p []byte, off int64) (int, error) {
	if b.rc == nil || b.off != off {
		if err := b.openLocked(off); err != nil {
			return 0, err
		}
	}
	n, err := b.rc.Read(p)
	b.off += int64(n)
	return n, err
}

func (b *blobReader) openLocked(off int64) error {
	if b.rc == nil {
		rc, err := b.f.Fetch(b.ctx, b.desc)
		if err != nil {
			return err
		}
		b.rc = rc
		b.off = 0
	}
	if off == b.off {
		return nil
	}
	s, ok := b.rc.(io.Seeker)
	if !ok {
		b.closeLocked()
		return fmt.Errorf("read %s at %d: the stream cannot be wound", b.desc.Digest, off)
	}
	if _, err := s.Seek(off, io.SeekStart); err != nil {
		return err
	}
	b.off = off
	return nil
}

func (b *blobReader) closeLocked() {
	if b.rc != nil {
		b.rc.Close()
		b.rc = nil
	}
}

// Close ends the stream.
func (b *blobReader) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closeLocked()
	return nil
}

// Open opens the blob d of the image ref's repository, whose size is not known
// beforehand. The bytes are not verified.
func (h *Hosts) Open(ctx context.Context, c session.Client, ref string, d digest.Digest) (io.ReadCloser, error) {
	f, err := h.Resolver(c, ResolverOptions{}).Fetcher(ctx, ref)
	if err != nil {
		return nil, err
	}
	by, ok := f.(remotes.FetcherByDigest)
	if !ok {
		return nil, fmt.Errorf("fetch %s of %s: the registry's client cannot fetch by digest", d, ref)
	}
	rc, _, err := by.FetchByDigest(ctx, d)
	if err != nil {
		return nil, explain(ctx, "fetch", ref, err)
	}
	return rc, nil
}

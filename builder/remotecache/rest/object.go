package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
)

// Open opens an object of a known size for reading, best from front to back. get
// makes the request for it; the range to read is added here. The first bytes are
// asked for at once, so that an object that is not there is found out now.
func (c *Client) Open(ctx context.Context, size int64, get func(ctx context.Context) (*http.Request, error)) (content.ReaderAt, error) {
	o := &object{c: c, ctx: ctx, size: size, get: get}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.openLocked(0); err != nil {
		return nil, err
	}
	return o, nil
}

type object struct {
	c    *Client
	ctx  context.Context // of the whole reading; ReadAt has none
	size int64
	get  func(ctx context.Context) (*http.Request, error)

	mu   sync.Mutex // guards body and off; held during I/O because a stream has one reader
	body io.ReadCloser
	off  int64
}

func (o *object) Size() int64 { return o.size }

// ReadAt implements content.ReaderAt. A connection that broke is made again once
// per call that got nothing.
func (o *object) ReadAt(p []byte, off int64) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for failed := false; n < len(p); {
		if off+int64(n) >= o.size {
			return n, io.EOF
		}
		m, err := o.readLocked(p[n:], off+int64(n))
		n += m
		if m > 0 {
			failed = false
		}
		if err == nil {
			continue
		}
		o.closeLocked()
		if errors.Is(err, io.EOF) && off+int64(n) == o.size {
			continue
		}
		if failed || o.ctx.Err() != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, fmt.Errorf("after %d of %d bytes: %w", off+int64(n), o.size, err)
		}
		failed = true
	}
	return n, nil
}

func (o *object) readLocked(p []byte, off int64) (int, error) {
	if o.body == nil || o.off != off {
		o.closeLocked()
		if err := o.openLocked(off); err != nil {
			return 0, err
		}
	}
	n, err := o.body.Read(p)
	o.off += int64(n)
	return n, err
}

func (o *object) openLocked(off int64) error {
	resp, err := o.c.Do(o.ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := o.get(ctx)
		if err == nil && off > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
		}
		return req, err
	})
	if err != nil {
		return err
	}
	if off > 0 && resp.StatusCode != http.StatusPartialContent {
		resp.Body.Close()
		return fmt.Errorf("GET %s: the server ignores ranges", o.c.show(resp.Request.URL))
	}
	o.body, o.off = resp.Body, off
	return nil
}

func (o *object) closeLocked() {
	if o.body != nil {
		o.body.Close()
		o.body = nil
	}
}

// Close ends the reading.
func (o *object) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeLocked()
	return nil
}

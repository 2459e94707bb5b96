package azblob

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/builder/remotecache/rest"
	"github.com/containerd/containerd/v2/core/content"
	"golang.org/x/sync/errgroup"
)

const (
	defaultBlock = 16 << 20
	// maxBlocks is how many blocks a blob has at most.
	maxBlocks = 50_000
	// parallelBlocks is how many blocks of a blob are put at once.
	parallelBlocks = 4
)

// Config says which container it is.
type Config struct {
	// Account is the URL of the account, such as https://NAME.blob.core.windows.net.
	Account, Container string
	// Authorize signs a request or adds a token to it.
	Authorize func(ctx context.Context, r *http.Request) error
	// Block is the size of the blocks in which large blobs are put. Default: 16 MiB.
	Block int64
}

// Container is one container. It is safe for concurrent use.
type Container struct {
	c    Config
	base *url.URL
	rest *rest.Client

	mu    sync.Mutex // guards known; held during I/O, so that one makes it for all
	known bool
}

// New returns the container that c names. Nothing is asked yet.
func New(c Config) (*Container, error) {
	c.Block = cmp.Or(c.Block, defaultBlock)
	u, err := url.Parse(c.Account)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("account URL %q: want one such as https://ACCOUNT.blob.core.windows.net", c.Account)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + c.Container
	return &Container{c: c, base: u, rest: &rest.Client{Sign: func(ctx context.Context, r *http.Request) error {
		r.Header.Set(headerVersion, apiVersion)
		return c.Authorize(ctx, r)
	}}}, nil
}

func (c *Container) url(key string, query url.Values) string {
	u := *c.base
	if key != "" {
		u.Path += "/" + key
	}
	q := u.Query() // of an account URL that has a shared access signature
	for k, v := range query {
		q[k] = v
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func request(method, to string, body []byte, set func(http.Header)) func(context.Context) (*http.Request, error) {
	return func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
		if err == nil && set != nil {
			set(req.Header)
		}
		return req, err
	}
}

// create makes the container unless it is there.
func (c *Container) create(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return nil
	}
	to := c.url("", url.Values{"restype": {"container"}})
	err := c.do(ctx, request(http.MethodHead, to, nil, nil))
	if se, ok := errors.AsType[*rest.StatusError](err); ok && se.Status == http.StatusNotFound {
		err = c.do(ctx, request(http.MethodPut, to, nil, nil))
		if se, ok := errors.AsType[*rest.StatusError](err); ok && se.Status == http.StatusConflict {
			err = nil // somebody else has made it
		}
	}
	c.known = err == nil
	return err
}

func (c *Container) do(ctx context.Context, make func(context.Context) (*http.Request, error)) error {
	resp, err := c.rest.Do(ctx, make)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Get reads a small blob.
func (c *Container) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	data, _, err := c.rest.Read(ctx, limit, request(http.MethodGet, c.url(key, nil), nil, nil))
	return data, err
}

// Open opens a blob of a known size.
func (c *Container) Open(ctx context.Context, key string, size int64) (content.ReaderAt, error) {
	return c.rest.Open(ctx, size, request(http.MethodGet, c.url(key, nil), nil, nil))
}

// Stat tells when a blob was changed last and how large it is. One that is not
// there is cache.ErrNotFound.
func (c *Container) Stat(ctx context.Context, key string) (time.Time, int64, error) {
	resp, err := c.rest.Do(ctx, request(http.MethodHead, c.url(key, nil), nil, nil))
	if err != nil {
		return time.Time{}, 0, err
	}
	resp.Body.Close()
	modified, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		modified = time.Now()
	}
	return modified, resp.ContentLength, nil
}

// Put writes a blob, in blocks if it is large, and the container if there is none.
func (c *Container) Put(ctx context.Context, key string, r io.ReaderAt, size int64) error {
	if err := c.create(ctx); err != nil {
		return err
	}
	return put(ctx, c.rest, r, size, c.c.Block, func(query url.Values) string { return c.url(key, query) })
}

// Touch makes a blob as new, so that it does not expire.
func (c *Container) Touch(ctx context.Context, key string, _ int64) error {
	now := time.Now().UTC().Format(time.RFC3339)
	return c.do(ctx, request(http.MethodPut, c.url(key, url.Values{"comp": {"metadata"}}), nil, func(h http.Header) {
		h.Set("X-Ms-Meta-Updatedat", now)
	}))
}

// PutURL writes a blob to a URL that is signed already.
func PutURL(ctx context.Context, c *rest.Client, signed string, r io.ReaderAt, size int64) error {
	base, err := url.Parse(signed)
	if err != nil {
		return errors.New("read the URL to upload to: it is no URL")
	}
	return put(ctx, c, r, size, defaultBlock, func(query url.Values) string {
		u := *base
		q := u.Query()
		for k, v := range query {
			q[k] = v
		}
		u.RawQuery = q.Encode()
		return u.String()
	})
}

// put writes a block blob; to returns its URL with a query.
func put(ctx context.Context, c *rest.Client, r io.ReaderAt, size, block int64, to func(url.Values) string) error {
	if size <= block {
		return send(ctx, c, to(nil), io.NewSectionReader(r, 0, size), func(h http.Header) { h.Set("X-Ms-Blob-Type", "BlockBlob") })
	}
	block = max(block, (size+maxBlocks-1)/maxBlocks)
	ids := make([]string, (size+block-1)/block)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelBlocks)
	for i := range ids {
		ids[i] = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%08d", i))
		g.Go(func() error {
			off := int64(i) * block
			body := io.NewSectionReader(r, off, min(block, size-off))
			return send(gctx, c, to(url.Values{"comp": {"block"}, "blockid": {ids[i]}}), body, nil)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	list, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"BlockList"`
		Latest  []string
	}{Latest: ids})
	if err != nil {
		return fmt.Errorf("list blocks: %w", err)
	}
	return send(ctx, c, to(url.Values{"comp": {"blocklist"}}), io.NewSectionReader(bytes.NewReader(list), 0, int64(len(list))), nil)
}

func send(ctx context.Context, c *rest.Client, to string, body *io.SectionReader, set func(http.Header)) error {
	resp, err := c.Do(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, to, io.NewSectionReader(body, 0, body.Size()))
		if err != nil {
			return nil, err
		}
		if req.ContentLength = body.Size(); body.Size() == 0 {
			req.Body = http.NoBody
		}
		if set != nil {
			set(req.Header)
		}
		return req, nil
	})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

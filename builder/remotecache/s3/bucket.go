package s3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/buildd/buildd/builder/remotecache/rest"
	"github.com/containerd/containerd/v2/core/content"
	"golang.org/x/sync/errgroup"
)

// Sizes that S3 asks for: a part has at least 5 MiB, an object at most 10,000
// parts, and one request copies or puts at most 5 GiB.
const (
	defaultPart = 16 << 20
	maxParts    = 10_000
	maxCopy     = 5 << 30
	maxAnswer   = 1 << 20
)

// Config says which bucket it is.
type Config struct {
	Bucket, Region string
	// Endpoint is the URL of a service that is compatible with S3; "" is AWS's.
	Endpoint string
	// PathStyle puts the bucket's name into the path, not the host name.
	PathStyle bool
	// Attempts is how often a request is sent at most; 0 is the client's default.
	Attempts int
	// Credentials returns those that are valid now.
	Credentials func(ctx context.Context) (Credentials, error)
	// Part is the size of the parts in which large objects are put. Default: 16 MiB.
	Part int64
}

// Bucket is one bucket. It is safe for concurrent use.
type Bucket struct {
	c    Config
	base *url.URL
	rest *rest.Client
}

// New returns the bucket that c names. Nothing is asked yet.
func New(c Config) (*Bucket, error) {
	c.Part = cmp.Or(c.Part, defaultPart)
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = "https://s3." + c.Region + ".amazonaws.com"
		if strings.HasPrefix(c.Region, "cn-") {
			endpoint += ".cn"
		}
		c.PathStyle = c.PathStyle || strings.Contains(c.Bucket, ".") // no certificate covers it
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("endpoint %q: want a URL such as https://HOST:PORT", endpoint)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	if c.PathStyle {
		u.Path += "/" + c.Bucket
	} else {
		u.Host = c.Bucket + "." + u.Host
	}
	b := &Bucket{c: c, base: u}
	b.rest = &rest.Client{Attempts: c.Attempts, Sign: b.sign}
	return b, nil
}

func (b *Bucket) sign(ctx context.Context, r *http.Request) error {
	c, err := b.c.Credentials(ctx)
	if err != nil {
		return err
	}
	Sign(r, c, b.c.Region, "s3", time.Now())
	return nil
}

// request makes a request for an object; body may be nil.
func (b *Bucket) request(method, key string, query url.Values, body []byte) func(context.Context) (*http.Request, error) {
	return func(ctx context.Context) (*http.Request, error) {
		req, err := b.newRequest(ctx, method, key, query, bytes.NewReader(body))
		if err == nil && len(body) > 0 {
			req.Header.Set(headerContent, hexSum(body))
			sum := md5.Sum(body)
			req.Header.Set("Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
		}
		return req, err
	}
}

func (b *Bucket) newRequest(ctx context.Context, method, key string, query url.Values, body io.Reader) (*http.Request, error) {
	u := *b.base
	u.Path += "/" + key
	u.RawPath = escape(u.Path, true)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", key, err)
	}
	return req, nil
}

// Get reads a small object.
func (b *Bucket) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	data, _, err := b.rest.Read(ctx, limit, b.request(http.MethodGet, key, nil, nil))
	return data, err
}

// Open opens an object of a known size.
func (b *Bucket) Open(ctx context.Context, key string, size int64) (content.ReaderAt, error) {
	return b.rest.Open(ctx, size, b.request(http.MethodGet, key, nil, nil))
}

// Stat tells when an object was changed last and how large it is. One that is not
// there is cache.ErrNotFound.
func (b *Bucket) Stat(ctx context.Context, key string) (time.Time, int64, error) {
	resp, err := b.rest.Do(ctx, b.request(http.MethodHead, key, nil, nil))
	if err != nil {
		return time.Time{}, 0, err
	}
	resp.Body.Close()
	modified, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		modified = time.Now() // it is there, and nobody says since when
	}
	return modified, resp.ContentLength, nil
}

// Put writes an object, a large one in parts, several at once.
func (b *Bucket) Put(ctx context.Context, key string, r io.ReaderAt, size int64) error {
	if size > b.c.Part {
		return b.putParts(ctx, key, size, func(ctx context.Context, upload string, n int, off, size int64) (string, error) {
			resp, err := b.rest.Do(ctx, b.put(key, partQuery(upload, n), io.NewSectionReader(r, off, size)))
			if err != nil {
				return "", err
			}
			resp.Body.Close()
			return resp.Header.Get("Etag"), nil
		}, b.partSize(size))
	}
	resp, err := b.rest.Do(ctx, b.put(key, nil, io.NewSectionReader(r, 0, size)))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// put reads the body twice: its digest is signed.
func (b *Bucket) put(key string, query url.Values, body *io.SectionReader) func(context.Context) (*http.Request, error) {
	return func(ctx context.Context) (*http.Request, error) {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(body, 0, body.Size())); err != nil {
			return nil, fmt.Errorf("read what is to be uploaded: %w", err)
		}
		req, err := b.newRequest(ctx, http.MethodPut, key, query, io.NewSectionReader(body, 0, body.Size()))
		if err != nil {
			return nil, err
		}
		if req.ContentLength = body.Size(); body.Size() == 0 {
			req.Body = http.NoBody
		}
		req.Header.Set(headerContent, hex.EncodeToString(h.Sum(nil)))
		return req, nil
	}
}

// partSize is large enough for an object to have no more parts than it may.
func (b *Bucket) partSize(size int64) int64 {
	return max(b.c.Part, (size+maxParts-1)/maxParts)
}

// Touch makes an object as new, so that it does not expire.
func (b *Bucket) Touch(ctx context.Context, key string, size int64) error {
	source := func(r *http.Request) {
		r.Header.Set("X-Amz-Copy-Source", escape(b.c.Bucket+"/"+key, true))
	}
	if size < maxCopy {
		make := b.request(http.MethodPut, key, nil, nil)
		return b.ask(ctx, func(ctx context.Context) (*http.Request, error) {
			req, err := make(ctx)
			if err == nil {
				source(req)
				req.Header.Set("X-Amz-Metadata-Directive", "REPLACE")
				req.Header.Set("X-Amz-Meta-Updated-At", time.Now().UTC().Format(time.RFC3339))
			}
			return req, err
		}, &struct{ ETag string }{})
	}
	return b.putParts(ctx, key, size, func(ctx context.Context, upload string, n int, off, size int64) (string, error) {
		make := b.request(http.MethodPut, key, partQuery(upload, n), nil)
		var out struct{ ETag string }
		err := b.ask(ctx, func(ctx context.Context) (*http.Request, error) {
			req, err := make(ctx)
			if err == nil {
				source(req)
				req.Header.Set("X-Amz-Copy-Source-Range", fmt.Sprintf("bytes=%d-%d", off, off+size-1))
			}
			return req, err
		}, &out)
		return out.ETag, err
	}, maxCopy)
}

func partQuery(upload string, n int) url.Values {
	return url.Values{"partNumber": {strconv.Itoa(n)}, "uploadId": {upload}}
}

type part struct {
	PartNumber int
	ETag       string
}

// parallelParts is how many parts of an object are put at once.
const parallelParts = 4

// putParts makes an object of parts.
func (b *Bucket) putParts(ctx context.Context, key string, size int64, put func(ctx context.Context, upload string, n int, off, size int64) (etag string, err error), each int64) (err error) {
	var begun struct{ UploadId string }
	if err := b.ask(ctx, b.request(http.MethodPost, key, url.Values{"uploads": {""}}, nil), &begun); err != nil {
		return err
	}
	this := url.Values{"uploadId": {begun.UploadId}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.abort(ctx, key, this))
		}
	}()
	parts := make([]part, (size+each-1)/each)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelParts)
	for i := range parts {
		g.Go(func() error {
			off := int64(i) * each
			etag, err := put(gctx, begun.UploadId, i+1, off, min(each, size-off))
			parts[i] = part{i + 1, etag}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	body, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []part
	}{Part: parts})
	if err != nil {
		return fmt.Errorf("complete upload of %q: %w", key, err)
	}
	return b.ask(ctx, b.request(http.MethodPost, key, this, body), &struct{ ETag string }{})
}

// abort removes the parts of an upload that failed, which cost money else.
func (b *Bucket) abort(ctx context.Context, key string, upload url.Values) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	resp, err := b.rest.Do(ctx, b.request(http.MethodDelete, key, upload, nil))
	if err != nil {
		return fmt.Errorf("abort upload: %w", err)
	}
	return resp.Body.Close()
}

// ask does a request whose answer is XML. S3 may begin a successful answer and
// then have an error to tell.
func (b *Bucket) ask(ctx context.Context, make func(context.Context) (*http.Request, error), out any) error {
	data, _, err := b.rest.Read(ctx, maxAnswer, make)
	if err != nil {
		return err
	}
	var failed struct {
		XMLName       xml.Name
		Code, Message string
	}
	if err := xml.Unmarshal(data, &failed); err != nil {
		return fmt.Errorf("read answer of %s: %w", b.base.Host, err)
	}
	if failed.XMLName.Local == "Error" {
		return fmt.Errorf("%s answers %s: %s", b.base.Host, failed.Code, failed.Message)
	}
	if err := xml.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read answer of %s: %w", b.base.Host, err)
	}
	return nil
}

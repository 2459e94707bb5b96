package gha

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/buildd/buildd/builder/remotecache/azblob"
	"github.com/buildd/buildd/builder/remotecache/rest"
	"github.com/buildd/buildd/cache"
	"github.com/containerd/containerd/v2/core/content"
)

const (
	service   = "/twirp/github.actions.results.api.v1.CacheService/"
	maxAnswer = 64 << 10
)

// version is of the entries' form. It is that of BuildKit's client: blobs are
// shared with it.
var version = func() string {
	h := sha256.Sum256([]byte("|go-actionscache-1.0"))
	return hex.EncodeToString(h[:])
}()

// ErrExists is returned for a key that has an entry, or that somebody is about to
// give one.
var ErrExists = errors.New("the entry exists already")

// Client is a job's access to the service. It is safe for concurrent use.
type Client struct {
	base   string
	scopes []Scope
	rest   *rest.Client // with the token
	blobs  *rest.Client // without
}

// New returns a client for the service at base.
func New(base, token string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("attribute url_v2: %q is no URL: want the value of $ACTIONS_RESULTS_URL", base)
	}
	s, err := scopes(token, time.Now())
	if err != nil {
		return nil, err
	}
	return &Client{
		base: strings.TrimSuffix(base, "/"), scopes: s, blobs: &rest.Client{},
		rest: &rest.Client{Secrets: []string{token}, Sign: func(_ context.Context, r *http.Request) error {
			r.Header.Set("Authorization", "Bearer "+token)
			return nil
		}},
	}, nil
}

// Readable are the scopes whose entries can be read; the first one is looked in
// first.
func (c *Client) Readable() (out []string) {
	for _, s := range c.scopes {
		out = append(out, s.Scope)
	}
	return out
}

// Writable is the scope that is written to; "" if the job may only read.
func (c *Client) Writable() (scope string) {
	for _, s := range c.scopes {
		if s.Permission&2 != 0 {
			scope = s.Scope
		}
	}
	return scope
}

// call calls a method of the service.
func (c *Client) call(ctx context.Context, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	data, _, err := c.rest.Read(ctx, maxAnswer, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+service+method, bytes.NewReader(body))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return req, err
	})
	if se, ok := errors.AsType[*rest.StatusError](err); ok {
		var e struct {
			Code string `json:"code"`
		}
		if json.Unmarshal([]byte(se.Body), &e) == nil && (e.Code == "already_exists" || se.Status == http.StatusConflict) {
			return fmt.Errorf("%s: %w", method, ErrExists)
		}
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s: read answer: %w", method, err)
	}
	return nil
}

// Entry is an entry that can be read for some minutes.
type Entry struct {
	Key string
	url string
	c   *Client
}

// Load finds the entry of a key, or the latest one whose key begins with it. One
// that is not there is cache.ErrNotFound.
func (c *Client) Load(ctx context.Context, key string) (*Entry, error) {
	in := map[string]any{"key": key, "restore_keys": []string{key}, "version": version}
	var out struct {
		OK  bool   `json:"ok"`
		URL string `json:"signed_download_url"`
		Key string `json:"matched_key"`
	}
	if err := c.call(ctx, "GetCacheEntryDownloadURL", in, &out); err != nil {
		return nil, fmt.Errorf("find cache entry %s: %w", key, err)
	}
	if !out.OK || !strings.HasPrefix(out.Key, key) {
		return nil, fmt.Errorf("find cache entry %s: %w", key, cache.ErrNotFound)
	}
	return &Entry{Key: out.Key, url: out.URL, c: c}, nil
}

func (e *Entry) get(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url, nil)
	if err != nil {
		return nil, errors.New("the service's URL to download from is no URL")
	}
	return req, nil
}

// Read reads a small entry.
func (e *Entry) Read(ctx context.Context, limit int64) ([]byte, error) {
	b, _, err := e.c.blobs.Read(ctx, limit, e.get)
	return b, err
}

// Open opens an entry of a known size.
func (e *Entry) Open(ctx context.Context, size int64) (content.ReaderAt, error) {
	return e.c.blobs.Open(ctx, size, e.get)
}

type status struct {
	OK      bool   `json:"ok"`
	Message string `json:"message"`
}

func (s status) check(what, key string) error {
	if s.OK {
		return nil
	}
	return fmt.Errorf("%s cache entry %s: the service refuses: %s", what, key, s.Message)
}

// Save makes an entry. It returns ErrExists, wrapped, if the key has one.
func (c *Client) Save(ctx context.Context, key string, r io.ReaderAt, size int64) error {
	var made struct {
		status
		URL string `json:"signed_upload_url"`
	}
	if err := c.call(ctx, "CreateCacheEntry", map[string]any{"key": key, "version": version}, &made); err != nil {
		return fmt.Errorf("create cache entry %s: %w", key, err)
	}
	if err := made.check("create", key); err != nil {
		return err
	}
	if err := azblob.PutURL(ctx, c.blobs, made.URL, r, size); err != nil {
		return fmt.Errorf("upload cache entry %s: %w", key, err)
	}
	var done status
	in := map[string]any{"key": key, "version": version, "size_bytes": size}
	if err := c.call(ctx, "FinalizeCacheEntryUpload", in, &done); err != nil {
		return fmt.Errorf("finish cache entry %s: %w", key, err)
	}
	return done.check("finish", key)
}

// How long another job is waited for that seems to write the same mutable entry,
// and how often it is looked at.
const (
	blockedFor  = 15 * time.Second
	blockedStep = 2 * time.Second
	// maxDead is how many numbers of dead jobs are passed over.
	maxDead = 32
)

// SaveMutable makes the entry that Latest finds for a key.
func (c *Client) SaveMutable(ctx context.Context, key string, data []byte) error {
	for begin := time.Now(); ; {
		n, err := c.number(ctx, key)
		if err != nil {
			return err
		}
		err = c.saveNumber(ctx, key, n+1, data)
		// Whoever was to fill a number may have died over it: then take the next.
		for i := 2; errors.Is(err, ErrExists) && time.Since(begin) > blockedFor && i < maxDead; i++ {
			err = c.saveNumber(ctx, key, n+i, data)
		}
		if !errors.Is(err, ErrExists) || time.Since(begin) > 2*blockedFor {
			return err
		}
		timer := time.NewTimer(blockedStep)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

func (c *Client) saveNumber(ctx context.Context, key string, n int, data []byte) error {
	return c.Save(ctx, fmt.Sprintf("%s#%d", key, n), bytes.NewReader(data), int64(len(data)))
}

// number returns the number of a mutable key's latest entry, 0 for none.
func (c *Client) number(ctx context.Context, key string) (int, error) {
	e, err := c.Latest(ctx, key)
	if errors.Is(err, cache.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(e.Key, key+"#"))
	if err != nil {
		return 0, fmt.Errorf("cache entry %q has no number", e.Key)
	}
	return n, nil
}

// Latest finds what SaveMutable made last for a key.
func (c *Client) Latest(ctx context.Context, key string) (*Entry, error) {
	return c.Load(ctx, key+"#")
}

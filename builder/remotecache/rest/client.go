package rest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
)

const (
	defaultAttempts = 5
	firstWait       = 200 * time.Millisecond
	maxWait         = 10 * time.Second
	// maxError bounds what is read of an answer that says what is wrong.
	maxError = 4 << 10
)

// Client sends requests. The zero Client is ready for use.
type Client struct {
	// HTTP is one with time limits for connecting and for the first byte if nil.
	HTTP *http.Client
	// Attempts is how often a request is sent at most. Default: 5.
	Attempts int
	// Sign is called for each attempt, before it is sent; nil signs nothing.
	Sign func(ctx context.Context, r *http.Request) error
	// Secrets are left out of the URLs in errors.
	Secrets []string
}

// shared has limits for all but the body, which may take as long as it takes.
var shared = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:   20 * time.Second,
	ResponseHeaderTimeout: 2 * time.Minute,
	ForceAttemptHTTP2:     true,
	MaxIdleConnsPerHost:   16,
	IdleConnTimeout:       90 * time.Second,
	DisableCompression:    true, // blobs are what they are
}}

// StatusError is an answer that is no success.
type StatusError struct {
	Method, URL string
	Status      int
	Body        string // what there is of it
}

func (e *StatusError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s: %d %s: %s", e.Method, e.URL, e.Status, http.StatusText(e.Status), strings.TrimSpace(e.Body)), ": ")
}

// Is makes an object that is not there cache.ErrNotFound.
func (e *StatusError) Is(target error) bool {
	return target == cache.ErrNotFound && e.Status == http.StatusNotFound
}

// Do sends the request that make makes, again if that fails in a way that is
// likely to pass. An answer that is no success is a *StatusError. The caller
// closes the body.
func (c *Client) Do(ctx context.Context, make func(ctx context.Context) (*http.Request, error)) (*http.Response, error) {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		resp, err := c.try(ctx, make)
		if err == nil || ctx.Err() != nil || attempt >= cmp.Or(c.Attempts, defaultAttempts) {
			return resp, err
		}
		again, atLeast := passes(err)
		if !again {
			return nil, err
		}
		timer := time.NewTimer(max(wait, atLeast))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		wait = min(wait*2, maxWait)
	}
}

func (c *Client) try(ctx context.Context, make func(ctx context.Context) (*http.Request, error)) (*http.Response, error) {
	req, err := make(ctx)
	if err != nil {
		return nil, err
	}
	if c.Sign != nil {
		if err := c.Sign(ctx, req); err != nil {
			return nil, err
		}
	}
	resp, err := cmp.Or(c.HTTP, shared).Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // its text has the whole URL
		}
		return nil, fmt.Errorf("%s %s: %w", req.Method, c.show(req.URL), err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // what there is of it
	return nil, &retryError{
		StatusError: &StatusError{Method: req.Method, URL: c.show(req.URL), Status: resp.StatusCode, Body: c.hide(string(body))},
		after:       retryAfter(resp.Header.Get("Retry-After")),
	}
}

// show is a URL without its query, in which signatures stand.
func (c *Client) show(u *url.URL) string {
	return c.hide((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}

func (c *Client) hide(s string) string {
	for _, secret := range c.Secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return s
}

// retryError is a StatusError with what the server says about when to come back.
type retryError struct {
	*StatusError
	after time.Duration
}

func (e *retryError) Unwrap() error { return e.StatusError }

func retryAfter(v string) time.Duration {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Minute)
}

// passes tells whether an error may not be there the next time.
func passes(err error) (again bool, after time.Duration) {
	if e, ok := errors.AsType[*retryError](err); ok {
		switch e.Status {
		case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true, e.after
		}
		return false, 0
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return false, 0
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true, 0
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), 0
}

// Read does a request and reads an answer of at most limit bytes.
func (c *Client) Read(ctx context.Context, limit int64, make func(ctx context.Context) (*http.Request, error)) ([]byte, http.Header, error) {
	resp, err := c.Do(ctx, make)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", resp.Request.Method, c.show(resp.Request.URL), err)
	}
	if int64(len(b)) > limit {
		return nil, nil, fmt.Errorf("%s %s: the answer has more than %d bytes", resp.Request.Method, c.show(resp.Request.URL), limit)
	}
	return b, resp.Header, nil
}

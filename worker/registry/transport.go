package registry

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

func newTransport(tc *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 60 * time.Second}).DialContext,
		TLSClientConfig:       tc,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 5 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		MaxIdleConns:          30,
		MaxIdleConnsPerHost:   8, // layers come in parallel
		IdleConnTimeout:       2 * time.Minute,
		// HTTP/2's flow control holds up pushes (golang/go#14077).
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
}

// retryTransport repeats requests without a body when the failure is likely to
// pass: the server says so, or the connection broke.
type retryTransport struct{ next http.RoundTripper }

func (t *retryTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Body != nil && r.Body != http.NoBody {
		return t.next.RoundTrip(r)
	}
	b := newBackoff()
	for {
		resp, err := t.next.RoundTrip(r)
		if err != nil && !isTransient(err) || err == nil && !isBusy(resp.StatusCode) {
			return resp, err
		}
		if !b.wait(r.Context(), retryAfter(resp)) {
			return resp, err
		}
		if resp != nil {
			io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // keeps the connection usable
			resp.Body.Close()
		}
	}
}

func isBusy(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
}

// retryAfter returns what the server asks for, 0 if nothing.
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil {
		return 0
	}
	d, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
	if err != nil || d < 0 {
		return 0
	}
	return d
}

// isTransient tells whether a connection broke in a way that a new one may not.
// A host that refuses connections or has no name is not expected to change.
func isTransient(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(errText(err), "server closed idle connection")
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// plainFallback talks HTTPS, and HTTP to hosts that turn out not to.
type plainFallback struct {
	next http.RoundTripper

	mu    sync.Mutex // guards plain
	plain map[string]bool
}

func (t *plainFallback) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	plain := t.plain[r.URL.Host]
	t.mu.Unlock()
	if !plain {
		resp, err := t.next.RoundTrip(r)
		if !speaksPlain(err, r.URL.Host) {
			return resp, err
		}
		t.mu.Lock()
		if t.plain == nil {
			t.plain = map[string]bool{}
		}
		t.plain[r.URL.Host] = true
		t.mu.Unlock()
	}
	again := r.Clone(r.Context())
	again.URL.Scheme = "http"
	if !plain && r.Body != nil && r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		again.Body = body
	}
	return t.next.RoundTrip(again)
}

// speaksPlain tells whether err is what HTTPS ends with at an HTTP server.
func speaksPlain(err error, host string) bool {
	var te tls.RecordHeaderError
	if errors.As(err, &te) && string(te.RecordHeader[:]) == "HTTP/" {
		return true
	}
	if strings.Contains(errText(err), "TLS handshake timeout") || strings.Contains(errText(err), "server gave HTTP response to HTTPS client") {
		return true
	}
	// Nobody listens on port 443: maybe on port 80.
	_, port, _ := net.SplitHostPort(host)
	return port == "" && (errors.Is(err, syscall.ECONNREFUSED) || os.IsTimeout(err))
}

// RetryTransport makes rt repeat requests without a body when the failure is
// likely to pass.
func RetryTransport(rt http.RoundTripper) http.RoundTripper { return &retryTransport{next: rt} }

package rest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/containerd/containerd/v2/core/content"
)

func get(to string) func(context.Context) (*http.Request, error) {
	return func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	}
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestTriesAgain(t *testing.T) {
	for status, want := range map[int]int32{503: 3, 429: 3, 500: 3, 403: 1, 404: 1} {
		var n, signed atomic.Int32
		to := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) < 3 {
				http.Error(w, "not now", status)
			}
		})
		c := Client{Sign: func(context.Context, *http.Request) error { signed.Add(1); return nil }}
		_, _, err := c.Read(t.Context(), 10, get(to+"/x"))
		if n.Load() != want || signed.Load() != want {
			t.Errorf("%d: sent %d times, signed %d times", status, n.Load(), signed.Load())
		}
		if want == 3 {
			if err != nil {
				t.Errorf("%d: %v", status, err)
			}
			continue
		}
		e, ok := errors.AsType[*StatusError](err)
		if !ok || e.Status != status || !strings.Contains(err.Error(), "not now") {
			t.Errorf("%d: %v", status, err)
		}
		if errors.Is(err, cache.ErrNotFound) != (status == 404) {
			t.Errorf("%d: %v is not found, or is", status, err)
		}
	}
}

func TestGivesUp(t *testing.T) {
	var n atomic.Int32
	to := serve(t, func(w http.ResponseWriter, r *http.Request) { n.Add(1); w.WriteHeader(503) })
	c := Client{Attempts: 2}
	if _, _, err := c.Read(t.Context(), 10, get(to)); err == nil || n.Load() != 2 {
		t.Errorf("%d attempts, %v", n.Load(), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := (&Client{}).Read(ctx, 10, get(to)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	to := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "bad token secret", http.StatusForbidden) })
	c := Client{Secrets: []string{"secret"}}
	for _, u := range []string{to + "/p?sig=secret", "http://127.0.0.1:1/p?sig=secret"} {
		c.Attempts = 1
		_, _, err := c.Read(t.Context(), 10, get(u))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Error(err)
		}
	}
}

func TestLimit(t *testing.T) {
	to := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "0123456789") })
	if b, _, err := (&Client{}).Read(t.Context(), 10, get(to)); err != nil || len(b) != 10 {
		t.Errorf("%q, %v", b, err)
	}
	if _, _, err := (&Client{}).Read(t.Context(), 9, get(to)); err == nil {
		t.Error("no error")
	}
}

// An object is read to its end although the connection breaks now and then.
func TestObject(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 20_000)
	var n atomic.Int32
	to := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) < 4 {
			w = breaking{w, 50_000}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	ra, err := (&Client{}).Open(t.Context(), int64(len(data)), get(to))
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	got, err := io.ReadAll(content.NewReader(ra))
	if err != nil || !bytes.Equal(got, data) || n.Load() < 4 {
		t.Errorf("%d bytes, %d requests, %v", len(got), n.Load(), err)
	}
	p := make([]byte, 5)
	if m, err := ra.ReadAt(p, 12); m != 5 || err != nil || string(p) != "23456" {
		t.Errorf("%q, %v", p, err)
	}
	if m, err := ra.ReadAt(p, int64(len(data))-2); m != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", m, err)
	}
}

// breaking ends a connection after some bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b breaking) Write(p []byte) (int, error) {
	b.ResponseWriter.Write(p[:min(len(p), b.left)])
	panic(http.ErrAbortHandler)
}

func TestObjectThatIsShort(t *testing.T) {
	to := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("short"))
	})
	ra, err := (&Client{Attempts: 1}).Open(t.Context(), 100, get(to))
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	if b, err := io.ReadAll(content.NewReader(ra)); err == nil {
		t.Errorf("read %q", b)
	}
	if _, err := (&Client{}).Open(t.Context(), 1, get(serve(t, http.NotFound))); !errors.Is(err, cache.ErrNotFound) {
		t.Error(err)
	}
	deaf := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "0123456789") })
	ra, err = (&Client{}).Open(t.Context(), 10, get(deaf))
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	if _, err := ra.ReadAt(make([]byte, 2), 5); err == nil {
		t.Error("a server that ignores ranges was believed")
	}
}

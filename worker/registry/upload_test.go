package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/worker/registry/registrytest"
	"github.com/buildd/buildd/worker/session"
	"github.com/opencontainers/go-digest"
)

// uploads is a registry that takes streamed uploads only, and can be told to
// answer something else.
type uploads struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request) bool // before all else

	mu    sync.Mutex // guards what follows
	calls []string   // METHOD PATH
	open  map[string][]byte
	blobs map[string][]byte
	began chan struct{} // closed with the first PATCH
}

func newUploads(t *testing.T) *uploads {
	t.Helper()
	u := &uploads{open: map[string][]byte{}, blobs: map[string][]byte{}, began: make(chan struct{})}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(u.Close)
	return u
}

func (u *uploads) serve(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.calls = append(u.calls, r.Method+" "+r.URL.Path)
	if r.Method == http.MethodPatch {
		select {
		case <-u.began:
		default:
			close(u.began)
		}
	}
	u.mu.Unlock()
	if u.answer != nil && u.answer(w, r) {
		return
	}
	id := r.URL.Query().Get("id")
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	var data []byte
	if r.Method == http.MethodPatch {
		var err error
		if data, err = io.ReadAll(r.Body); err != nil {
			return
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	_, known := u.open[id]
	switch {
	case r.Method == http.MethodHead:
		if _, ok := u.blobs[name]; !ok {
			w.WriteHeader(http.StatusNotFound)
		}
	case r.Method == http.MethodPost && r.URL.Path == "/v2/team/app/blobs/uploads/":
		u.open["1"] = nil
		w.Header().Set("Location", "/elsewhere/begun?id=1")
		w.WriteHeader(http.StatusAccepted)
	case !known:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPatch && r.ContentLength == -1 && r.URL.Path == "/elsewhere/begun":
		u.open[id] = data
		w.Header().Set("Location", "sent?id=1&state=a%2Bb") // relative to the one before
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut && r.ContentLength == 0 && r.URL.Path == "/elsewhere/sent" && r.URL.Query().Get("state") == "a+b":
		d := digest.FromBytes(u.open[id]).String()
		if d != r.URL.Query().Get("digest") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		u.blobs[d] = u.open[id]
		delete(u.open, id)
		w.Header().Set("Docker-Content-Digest", d)
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodDelete:
		delete(u.open, id)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (u *uploads) count(method string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.calls {
		if strings.HasPrefix(c, method+" ") {
			n++
		}
	}
	return n
}

func uploader(t *testing.T, h *Hosts, c session.Client, ref string) *Uploader {
	t.Helper()
	u, err := h.Resolver(c, ResolverOptions{}).Uploader(t.Context(), ref)
	must(t, err)
	return u
}

// grow makes a blob of data whose second half is written when half is closed,
// and returns what following it ended with.
func grow(t *testing.T, data []byte, half <-chan struct{}, ending error, follow func(g *blob.Growing) error) (uploaded error) {
	t.Helper()
	s, err := blob.Open(t.TempDir())
	must(t, err)
	var wg sync.WaitGroup
	_, err = s.CreateFollowed(t.Context(), func(g *blob.Growing) {
		hold, err := g.Open(t.Context())
		must(t, err)
		wg.Go(func() {
			defer hold.Close()
			uploaded = follow(g)
		})
	}, func(w io.Writer) error {
		if _, err := w.Write(data[:len(data)/2]); err != nil {
			return err
		}
		select {
		case <-half:
		case <-time.After(30 * time.Second):
			t.Error("nobody reads what is there")
		}
		if ending != nil {
			return ending
		}
		_, err := w.Write(data[len(data)/2:])
		return err
	})
	if !errors.Is(err, ending) {
		t.Fatal(err)
	}
	wg.Wait()
	return uploaded
}

var always = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

func TestUploadWhileTheBlobGrows(t *testing.T) {
	r := newUploads(t)
	h := newHosts(t, Options{})
	u := uploader(t, h, nil, addr(r.URL)+"/team/app:1")
	data := bytesOf(5 << 20)
	// The second half is not made before the upload of the first has begun.
	err := grow(t, data, r.began, nil, func(g *blob.Growing) error { return u.Upload(t.Context(), g) })
	must(t, err)
	if got := r.blobs[digest.FromBytes(data).String()]; !bytes.Equal(got, data) {
		t.Errorf("the registry has %d bytes", len(got))
	}
	if len(r.open) > 0 || r.count("DELETE") > 0 {
		t.Errorf("uploads: %v, calls: %v", len(r.open), r.calls)
	}
	wantStreams(t, h, addr(r.URL), true)
}

func TestUploadToDebiansRegistry(t *testing.T) {
	host := registrytest.Start(t)
	h := newHosts(t, Options{})
	data := bytesOf(3 << 20)
	err := grow(t, data, always, nil, func(g *blob.Growing) error { return uploader(t, h, nil, host+"/up").Upload(t.Context(), g) })
	must(t, err)
	resp, err := http.Get("http://" + host + "/v2/up/blobs/" + digest.FromBytes(data).String())
	must(t, err)
	defer resp.Body.Close()
	if sum, err := digest.FromReader(resp.Body); err != nil || sum != digest.FromBytes(data) {
		t.Errorf("%s: %s, %v", resp.Status, sum, err)
	}
}

func TestUploadWithToken(t *testing.T) {
	ts := newTokenServer(t, registrytest.Start(t))
	host := addr(ts.URL)
	data := bytesOf(1 << 20)
	up := func(c session.Client) error {
		u := uploader(t, newHosts(t, Options{}), c, host+"/private/up")
		return grow(t, data, always, nil, func(g *blob.Growing) error { return u.Upload(t.Context(), g) })
	}
	if err := up(nil); err == nil {
		t.Error("uploaded without a login")
	}
	must(t, up(dockerClient(t, host, "me", "secret")))
	if last := ts.scopes[len(ts.scopes)-1]; last != "repository:private/up:pull,push" {
		t.Errorf("uploaded with a token for %q", last)
	}
}

// wantStreams tells whether a host is still asked to take uploads: unless it has
// failed to.
func wantStreams(t *testing.T, h *Hosts, host string, want bool) {
	t.Helper()
	_, err := h.Resolver(nil, ResolverOptions{}).Uploader(t.Context(), host+"/x")
	if want && err != nil || !want && !errors.Is(err, errNoStreams) {
		t.Errorf("another upload: %v", err)
	}
}

// refused is an upload that must fail, with all of what it began cancelled.
func (u *uploads) refused(t *testing.T, h *Hosts, want string) {
	t.Helper()
	up := uploader(t, h, nil, addr(u.URL)+"/team/app:1")
	err := grow(t, bytesOf(4<<20), always, nil, func(g *blob.Growing) error { return up.Upload(t.Context(), g) })
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	wantStreams(t, h, addr(u.URL), u.count("PATCH") == 0 && strings.Contains(err.Error(), "POST "))
	if len(u.open) > 0 || len(u.blobs) > 0 {
		t.Errorf("%d uploads are open, %d blobs; calls: %v", len(u.open), len(u.blobs), u.calls)
	}
}

func TestUploadIsRefused(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodPut} {
		for _, status := range []int{302, 307, 400, 403, 404, 405, 411, 416, 429, 500, 503} {
			t.Run(fmt.Sprint(method, status), func(t *testing.T) {
				r := newUploads(t)
				r.answer = func(w http.ResponseWriter, req *http.Request) bool {
					if req.Method != method {
						return false
					}
					_, _ = io.Copy(io.Discard, req.Body)
					w.Header().Set("Location", "/elsewhere/trap?id=1")
					w.WriteHeader(status)
					_, _ = w.Write(make([]byte, 1<<20)) // which nobody reads
					return true
				}
				r.refused(t, newHosts(t, Options{}), "unexpected status")
				if n := r.count(method); n != 1 {
					t.Errorf("tried %d times", n)
				}
				if want := map[bool]int{false: 1}[method == http.MethodPost]; r.count("DELETE") != want {
					t.Errorf("calls: %v", r.calls)
				}
			})
		}
	}
}

// A registry that refuses at once must not be waited for until the blob is made.
func TestUploadIsRefusedEarly(t *testing.T) {
	r := newUploads(t)
	r.answer = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPatch {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
		return req.Method == http.MethodPatch
	}
	u := uploader(t, newHosts(t, Options{}), nil, addr(r.URL)+"/team/app")
	failed := make(chan struct{})
	err := grow(t, bytesOf(4<<20), failed, nil, func(g *blob.Growing) error {
		defer close(failed)
		return u.Upload(t.Context(), g)
	})
	if err == nil || r.count("DELETE") != 1 {
		t.Errorf("got %v, calls %v", err, r.calls)
	}
}

func TestUploadTrustsNoOtherHost(t *testing.T) {
	var got []string
	var mu sync.Mutex
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Method+" "+r.URL.Path)
	}))
	defer other.Close()
	for name, l := range map[string]string{
		"host":        other.URL + "/up",
		"no scheme":   "//" + addr(other.URL) + "/up",
		"scheme":      "https://HOST/up",
		"credentials": "http://me:secret@HOST/up",
		"file":        "file:///etc/passwd",
		"garbage":     "http://[::1/%zz",
		"none":        "",
		"long":        "/" + strings.Repeat("x", maxLocation),
	} {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			if l == "" && method == http.MethodPatch {
				continue // then the first one is used again
			}
			t.Run(name+" "+method, func(t *testing.T) {
				r := newUploads(t)
				r.answer = func(w http.ResponseWriter, req *http.Request) bool {
					if req.Method != method {
						return false
					}
					_, _ = io.Copy(io.Discard, req.Body)
					w.Header().Set("Location", strings.ReplaceAll(l, "HOST", addr(r.URL)))
					w.WriteHeader(http.StatusAccepted)
					return true
				}
				r.refused(t, newHosts(t, Options{}), "upload to ")
			})
		}
	}
	if len(got) > 0 {
		t.Errorf("sent to another host: %v", got)
	}
}

// A registry says at the end that it has the blob: the rest need not be sent.
func TestUploadStopsForABlobThatIsThere(t *testing.T) {
	r := newUploads(t)
	data := bytesOf(32 << 20) // more than buffers take
	over := make(chan struct{})
	r.answer = func(w http.ResponseWriter, req *http.Request) bool {
		switch req.Method {
		case http.MethodHead:
			return true // 200
		case http.MethodPatch:
			<-over // reads nothing
			return true
		default:
			return false
		}
	}
	h := newHosts(t, Options{})
	u := uploader(t, h, nil, addr(r.URL)+"/team/app")
	err := grow(t, data, always, nil, func(g *blob.Growing) error { return u.Upload(t.Context(), g) })
	close(over)
	if !errors.Is(err, errHasBlob) || r.count("DELETE") != 1 {
		t.Errorf("got %v, calls %v", err, r.calls)
	}
	wantStreams(t, h, addr(r.URL), true)
}

func TestUploadOfABlobThatFails(t *testing.T) {
	boom := errors.New("boom")
	r := newUploads(t)
	h := newHosts(t, Options{})
	u := uploader(t, h, nil, addr(r.URL)+"/team/app")
	err := grow(t, bytesOf(4<<20), r.began, boom, func(g *blob.Growing) error { return u.Upload(t.Context(), g) })
	if !errors.Is(err, boom) || len(r.open) > 0 || len(r.blobs) > 0 || r.count("PUT") > 0 {
		t.Errorf("got %v, %d uploads are open, calls %v", err, len(r.open), r.calls)
	}
	wantStreams(t, h, addr(r.URL), true)
}

func TestUploadIsCancelled(t *testing.T) {
	stop := errors.New("stop")
	r := newUploads(t)
	h := newHosts(t, Options{})
	u := uploader(t, h, nil, addr(r.URL)+"/team/app")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan struct{})
	err := grow(t, bytesOf(4<<20), ended, nil, func(g *blob.Growing) error {
		defer close(ended)
		go func() {
			<-r.began
			cancel(stop)
		}()
		return u.Upload(ctx, g)
	})
	if err == nil || len(r.open) > 0 || r.count("DELETE") != 1 {
		t.Errorf("got %v, %d uploads are open, calls %v", err, len(r.open), r.calls)
	}
	wantStreams(t, h, addr(r.URL), true)
}

// What a registry says of the blob in the end is compared with what it was sent.
func TestUploadComparesDigests(t *testing.T) {
	r := newUploads(t)
	r.answer = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPut {
			w.Header().Set("Docker-Content-Digest", fmt.Sprintf("sha256:%x", sha256.Sum256(nil)))
			w.WriteHeader(http.StatusCreated)
		}
		return req.Method == http.MethodPut
	}
	r.refused(t, newHosts(t, Options{}), "the registry has digest")
}

// What a registry says before it has all that it was sent is worth nothing.
func TestUploadIsAnsweredTooEarly(t *testing.T) {
	r := newUploads(t)
	r.answer = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPatch {
			w.WriteHeader(http.StatusAccepted)
		}
		return req.Method == http.MethodPatch
	}
	u := uploader(t, newHosts(t, Options{}), nil, addr(r.URL)+"/team/app")
	failed := make(chan struct{})
	err := grow(t, bytesOf(4<<20), failed, nil, func(g *blob.Growing) error {
		defer close(failed)
		return u.Upload(t.Context(), g)
	})
	if err == nil || r.count("PUT") > 0 || r.count("DELETE") != 1 {
		t.Errorf("got %v, calls %v", err, r.calls)
	}
}

// HTTPS was tried first, and the registry speaks plain HTTP.
func TestUploadInsecure(t *testing.T) {
	r := newUploads(t)
	h := newHosts(t, Options{})
	u, err := h.Resolver(nil, ResolverOptions{Insecure: true}).Uploader(t.Context(), addr(r.URL)+"/team/app")
	must(t, err)
	data := bytesOf(1 << 20)
	must(t, grow(t, data, always, nil, func(g *blob.Growing) error { return u.Upload(t.Context(), g) }))
	if len(r.blobs) != 1 {
		t.Errorf("calls: %v", r.calls)
	}
}

var _ Growing = (*blob.Growing)(nil)

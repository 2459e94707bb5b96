package e2e

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pushProxy stands before a registry, notes what comes, and shows each request
// to see first, which may answer it.
type pushProxy struct {
	host string

	mu    sync.Mutex
	calls []string // METHOD PATH; guarded by mu
}

func startPushProxy(t *testing.T, registry string, see func(w http.ResponseWriter, r *http.Request) (answered bool)) *pushProxy {
	t.Helper()
	to := &url.URL{Scheme: "http", Host: registry}
	next := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }}
	p := &pushProxy{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.calls = append(p.calls, r.Method+" "+r.URL.Path)
		p.mu.Unlock()
		if !see(w, r) {
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	p.host = s.Listener.Addr().String()
	return p
}

func (p *pushProxy) count(method string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if strings.HasPrefix(c, method+" ") {
			n++
		}
	}
	return n
}

// unfinished lists the blobs that a daemon has begun to write.
func (d *daemon) unfinished() []string {
	d.t.Helper()
	found, err := filepath.Glob(filepath.Join(d.Root, "blobs/ingest/*/data"))
	if err != nil {
		d.t.Fatal(err)
	}
	return found
}

// noisy is a Dockerfile whose layer takes long to compress and compresses badly.
const noisy = "FROM busybox:latest\nRUN head -c 100000000 /dev/urandom > /noise\n"

func TestLayersArePushedWhileTheyAreCompressed(t *testing.T) {
	reg := startRegistry(t)
	d := startWithBusybox(t)
	var mu sync.Mutex
	var early, chunked bool
	p := startPushProxy(t, reg, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			mu.Lock()
			defer mu.Unlock()
			chunked = slices.Contains(r.TransferEncoding, "chunked")
			early = len(d.unfinished()) > 0
		}
		return false
	})
	ref := p.host + "/team/early:1"
	// Built and pushed in one go.
	r := d.ctl("build", "--progress=plain", "-o", "type=image,push=true,name="+ref, buildContext(t, map[string]string{"Dockerfile": noisy}))
	if p.count("PATCH") != 1 || !chunked || !early {
		t.Errorf("chunked %v, before the blob was made %v; calls: %q", chunked, early, p.calls)
	}
	for _, want := range []string{"exporting layers", "pushing layers", "pushing manifest for " + ref} {
		if !strings.Contains(r.Err, want) {
			t.Errorf("progress does not say %q:\n%s", want, r.Err)
		}
	}
	tool(t, "skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "docker://"+reg+"/team/early:1", "oci:"+filepath.Join(t.TempDir(), "pulled")+":x")
}

func TestRegistryThatTakesNoStreamsGetsTheImage(t *testing.T) {
	reg := startRegistry(t)
	d := startWithBusybox(t)
	p := startPushProxy(t, reg, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
		return r.Method == http.MethodPatch
	})
	d.ctl("build", "-o", "type=image,push=true,name="+p.host+"/team/late:1", buildContext(t, map[string]string{"Dockerfile": noisy}))
	if p.count("PATCH") != 1 || p.count("DELETE") != 1 {
		t.Errorf("calls: %q", p.calls)
	}
	tool(t, "skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "docker://"+reg+"/team/late:1", "oci:"+filepath.Join(t.TempDir(), "pulled")+":x")
}

func TestCancelledBuildCancelsItsUpload(t *testing.T) {
	reg := startRegistry(t)
	d := startWithBusybox(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := startPushProxy(t, reg, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			cancel()
			_, _ = io.Copy(io.Discard, r.Body) // until the daemon hangs up
		}
		return r.Method == http.MethodPatch
	})
	dir := buildContext(t, map[string]string{"Dockerfile": noisy})
	if r := d.try(ctx, "build", "-o", "type=image,push=true,name="+p.host+"/team/never:1", dir); r.Exit == 0 {
		t.Error("the build succeeded")
	}
	// The client is gone before the daemon has tidied up.
	for end := time.Now().Add(20 * time.Second); p.count("DELETE") == 0 || len(d.unfinished()) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left behind: %v; calls: %q", d.unfinished(), p.calls)
		}
	}
	if p.count("PUT") > 0 {
		t.Errorf("calls: %q", p.calls)
	}
	d.ctl("build", "-o", "type=image,push=true,name="+reg+"/team/again:1", dir)
}

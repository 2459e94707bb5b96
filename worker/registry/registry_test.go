package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/buildd/buildd/worker/registry/registrytest"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func newHosts(t *testing.T, o Options) *Hosts {
	t.Helper()
	h, err := NewHosts(o)
	must(t, err)
	return h
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> (i % 5))
	}
	return b
}

// push pushes an artifact of one layer, and returns the layer.
func push(t *testing.T, h *Hosts, c session.Client, ref string, layer []byte) ocispecs.Descriptor {
	t.Helper()
	ld := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}
	m, err := json.Marshal(ocispecs.Manifest{Config: ocispecs.DescriptorEmptyJSON, Layers: []ocispecs.Descriptor{ld}, MediaType: ocispecs.MediaTypeImageManifest})
	must(t, err)
	m = append([]byte(`{"schemaVersion":2,`), m[len(`{"schemaVersion":0,`):]...)
	md := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}
	p, err := h.Resolver(c, ResolverOptions{}).Pusher(t.Context(), ref)
	must(t, err)
	for _, b := range []struct {
		ocispecs.Descriptor
		data []byte
	}{{ld, layer}, {ocispecs.DescriptorEmptyJSON, []byte("{}")}, {md, m}} {
		w, err := p.Push(t.Context(), b.Descriptor)
		if errdefs.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			t.Fatalf("push %s: %v", b.MediaType, err)
		}
		must(t, content.Copy(t.Context(), w, bytes.NewReader(b.data), b.Size, b.Digest))
	}
	return ld
}

func pull(t *testing.T, h *Hosts, c session.Client, ref string, ld ocispecs.Descriptor) []byte {
	t.Helper()
	if _, _, err := h.Resolver(c, ResolverOptions{}).Resolve(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	ra, err := h.Blob(t.Context(), c, ld, []string{ref})
	must(t, err)
	defer ra.Close()
	b, err := io.ReadAll(io.NewSectionReader(ra, 0, ra.Size()))
	must(t, err)
	return b
}

func TestPushAndPull(t *testing.T) {
	host := registrytest.Start(t)
	h := newHosts(t, Options{})
	layer := bytesOf(3 << 20)
	ld := push(t, h, nil, host+"/some/name:tag", layer)
	if got := pull(t, h, nil, host+"/some/name:tag", ld); !bytes.Equal(got, layer) {
		t.Error("pulled something else")
	}
	// From anywhere within the blob, and back.
	ra, err := h.Blob(t.Context(), nil, ld, []string{host + "/none:x", host + "/some/name"})
	must(t, err)
	defer ra.Close()
	for _, off := range []int64{1 << 20, 5, int64(len(layer)) - 3} {
		p := make([]byte, 100)
		n, err := ra.ReadAt(p, off)
		if want := layer[off:min(off+100, int64(len(layer)))]; !bytes.Equal(p[:n], want) || (n < 100) != errors.Is(err, io.EOF) {
			t.Errorf("at %d: %d bytes, %v", off, n, err)
		}
	}
}

func TestErrors(t *testing.T) {
	host := registrytest.Start(t)
	h := newHosts(t, Options{})
	ld := push(t, h, nil, host+"/name:tag", []byte("layer"))
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	no := false
	h2 := newHosts(t, Options{Registries: map[string]Config{addr(plain.URL): {PlainHTTP: &no}, addr(secure.URL): {PlainHTTP: &no}}})
	for _, c := range []struct {
		h    *Hosts
		ref  string
		kind error
		want string
	}{
		{h, host + "/name:none", ErrNotFound, "check the name and the tag"},
		{h, host + "/none", ErrNotFound, "none:latest"},
		{h, "127.0.0.1:1/x", ErrUnreachable, "check the network and 127.0.0.1:1"},
		{h, "registry.invalid/x", ErrUnreachable, "registry.invalid"},
		{h2, addr(plain.URL) + "/x", ErrUnreachable, "http = true"},
		{h2, addr(secure.URL) + "/x", ErrUnreachable, "ca = "},
		{h, "h/UPPER", nil, `image reference "h/UPPER"`},
	} {
		_, _, err := c.h.Resolver(nil, ResolverOptions{}).Resolve(t.Context(), c.ref)
		if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.ref, err)
		}
	}
	ld.Digest = digest.FromString("other")
	if _, err := h.Blob(t.Context(), nil, ld, []string{host + "/name"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing blob: %v", err)
	}
	if _, err := h.Blob(t.Context(), nil, ld, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no source: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, _, err := h.Resolver(nil, ResolverOptions{}).Resolve(ctx, host+"/name:tag"); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
}

// proxy is a registry that is reached through edit, which may answer itself.
func proxy(t *testing.T, host string, edit func(w http.ResponseWriter, r *http.Request) (answered bool)) *httptest.Server {
	t.Helper()
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !edit(w, r) {
			p.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func addr(u string) string {
	_, a, _ := strings.Cut(u, "://")
	return a
}

func TestMirrors(t *testing.T) {
	mirror, origin := registrytest.Start(t), registrytest.Start(t)
	var asked []string
	var mu sync.Mutex
	log := func(name string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, name)
			return false
		}
	}
	m, o := proxy(t, mirror, log("mirror")), proxy(t, origin, log("origin"))
	h := newHosts(t, Options{Registries: map[string]Config{addr(o.URL): {Mirrors: []string{"127.0.0.1:1", addr(m.URL) + "/cache/prefix"}}}})
	direct := newHosts(t, Options{})
	onMirror := push(t, direct, nil, mirror+"/cache/prefix/both:1", []byte("mirrored"))
	push(t, direct, nil, origin+"/both:1", []byte("original"))
	onOrigin := push(t, direct, nil, origin+"/one:1", []byte("only"))

	if got := pull(t, h, nil, addr(o.URL)+"/both:1", onMirror); string(got) != "mirrored" {
		t.Errorf("pulled %q", got)
	}
	if slices.Contains(asked, "origin") {
		t.Errorf("asked %v", asked)
	}
	if got := pull(t, h, nil, addr(o.URL)+"/one:1", onOrigin); string(got) != "only" {
		t.Errorf("pulled %q", got)
	}
	asked = nil
	push(t, h, nil, addr(o.URL)+"/pushed:1", []byte("pushed"))
	if slices.Contains(asked, "mirror") {
		t.Errorf("pushed to the mirror: %v", asked)
	}
	for _, bad := range []string{"http://x", "", "a b", "/x"} {
		if _, err := NewHosts(Options{Registries: map[string]Config{"r": {Mirrors: []string{bad}}}}); err == nil || !strings.Contains(err.Error(), `registry "r"`) {
			t.Errorf("mirror %q: %v", bad, err)
		}
	}
}

func TestTLS(t *testing.T) {
	origin := registrytest.Start(t)
	direct := newHosts(t, Options{})
	ld := push(t, direct, nil, origin+"/name:tag", []byte("layer"))
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: origin})
	s := httptest.NewTLSServer(p)
	defer s.Close()
	host := addr(s.URL)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	no, yes := false, true
	for name, c := range map[string]Config{
		"ca":           {PlainHTTP: &no, RootCAs: []string{ca}},
		"tlsconfigdir": {PlainHTTP: &no, TLSConfigDir: []string{dir, dir + "/none"}},
		"insecure":     {PlainHTTP: &no, Insecure: &yes},
		"both":         {PlainHTTP: &yes, Insecure: &yes},
	} {
		h := newHosts(t, Options{Registries: map[string]Config{host: c}})
		if got := pull(t, h, nil, host+"/name:tag", ld); string(got) != "layer" {
			t.Errorf("%s: pulled %q", name, got)
		}
	}
	// insecure and http: HTTPS is tried first, HTTP after that.
	h := newHosts(t, Options{Registries: map[string]Config{origin: {PlainHTTP: &yes, Insecure: &yes}}})
	if got := pull(t, h, nil, origin+"/name:tag", ld); string(got) != "layer" {
		t.Errorf("fallback: pulled %q", got)
	}
	push(t, h, nil, origin+"/name:tag2", []byte("layer2"))

	for _, c := range []Config{{RootCAs: []string{"/none"}}, {RootCAs: []string{os.DevNull}}, {KeyPairs: []KeyPair{{Key: "/none", Certificate: "/none"}}}} {
		if _, err := NewHosts(Options{Registries: map[string]Config{"r": c}}); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if _, err := tls.Dial("tcp", host, &tls.Config{}); err == nil {
		t.Error("the test's certificate is trusted by the system")
	}
}

// Failures that pass: an overloaded server, and connections that break, also in
// the middle of a blob.
func TestPatience(t *testing.T) {
	origin := registrytest.Start(t)
	direct := newHosts(t, Options{})
	layer := bytesOf(1 << 20)
	ld := push(t, direct, nil, origin+"/name:tag", layer)
	var n atomic.Int32
	s := proxy(t, origin, func(w http.ResponseWriter, r *http.Request) bool {
		switch k := n.Add(1); {
		case k%3 == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		case k%3 == 2:
			panic(http.ErrAbortHandler) // the connection breaks
		case strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") == "" && r.Method == http.MethodGet:
			w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
			w.Write(layer[:len(layer)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			return false
		}
	})
	if got := pull(t, newHosts(t, Options{}), nil, addr(s.URL)+"/name:tag", ld); !bytes.Equal(got, layer) {
		t.Error("pulled something else")
	}
	// One that never recovers is an error in the end.
	s2 := proxy(t, origin, func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	_, _, err := newHosts(t, Options{}).Resolver(nil, ResolverOptions{}).Resolve(t.Context(), addr(s2.URL)+"/name:tag")
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

// tokenServer is a registry that wants tokens, which it gives to user "me".
type tokenServer struct {
	*httptest.Server
	mu     sync.Mutex
	scopes []string // of the tokens that were given
	users  []string
}

func newTokenServer(t *testing.T, origin string) *tokenServer {
	t.Helper()
	ts := &tokenServer{}
	ts.Server = proxy(t, origin, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			ts.give(w, r)
			return true
		}
		repo := strings.TrimPrefix(r.URL.Path, "/v2/")
		if i := strings.LastIndex(repo, "/manifests/"); i > 0 {
			repo = repo[:i]
		} else if i := strings.LastIndex(repo, "/blobs/"); i > 0 {
			repo = repo[:i]
		}
		want := "repository:" + repo + ":pull"
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			want += ",push"
		}
		auth := r.Header.Get("Authorization")
		if strings.HasPrefix(auth, "Bearer ") && strings.Contains(auth, strings.TrimSuffix(want, ",push")) && (!strings.Contains(want, "push") || strings.Contains(auth, "push")) {
			r.Header.Del("Authorization")
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="%s"`, ts.URL, want))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	return ts
}

func (ts *tokenServer) give(w http.ResponseWriter, r *http.Request) {
	user, pass, ok := r.BasicAuth()
	scope := strings.Join(r.URL.Query()["scope"], " ")
	if r.Method == http.MethodPost {
		user, pass, scope, ok = r.FormValue("username"), r.FormValue("password"), r.FormValue("scope"), true
	}
	if ok && (user != "me" || pass != "secret") || !ok && strings.Contains(scope, "private") {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	ts.mu.Lock()
	ts.scopes, ts.users = append(ts.scopes, scope), append(ts.users, user)
	ts.mu.Unlock()
	json.NewEncoder(w).Encode(map[string]any{"token": scope, "access_token": scope, "expires_in": 300})
}

func dockerClient(t *testing.T, host, user, pass string) session.Client {
	t.Helper()
	config.SetDir(t.TempDir()) // each client has its own seed, as each user has
	cf := &configfile.ConfigFile{AuthConfigs: map[string]types.AuthConfig{}}
	if user != "" {
		cf.AuthConfigs[host] = types.AuthConfig{Username: user, Password: pass, ServerAddress: host}
	}
	return sessiontest.Client(t, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{AuthConfigProvider: authprovider.LoadAuthConfig(cf)}))
}

func TestTokens(t *testing.T) {
	origin := registrytest.Start(t)
	direct := newHosts(t, Options{})
	private := push(t, direct, nil, origin+"/private/name:tag", []byte("private"))
	public := push(t, direct, nil, origin+"/public/name:tag", []byte("public"))
	ts := newTokenServer(t, origin)
	host := addr(ts.URL)
	h := newHosts(t, Options{})

	if got := pull(t, h, nil, host+"/public/name:tag", public); string(got) != "public" {
		t.Errorf("anonymous: pulled %q", got)
	}
	if len(ts.scopes) != 1 || ts.scopes[0] != "repository:public/name:pull" || ts.users[0] != "" {
		t.Errorf("tokens for %q to %q", ts.scopes, ts.users)
	}
	_, _, err := h.Resolver(nil, ResolverOptions{}).Resolve(t.Context(), host+"/private/name:tag")
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "docker login "+host) {
		t.Errorf("anonymous: %v", err)
	}

	// BuildKit's client keeps its password and fetches the token itself.
	me := dockerClient(t, host, "me", "secret")
	ts.scopes, ts.users = nil, nil
	if got := pull(t, h, me, host+"/private/name:tag", private); string(got) != "private" {
		t.Errorf("logged in: pulled %q", got)
	}
	pull(t, h, me, host+"/private/name:tag", private)
	if len(ts.scopes) != 1 || ts.users[0] != "me" {
		t.Errorf("tokens for %q to %q", ts.scopes, ts.users)
	}
	push(t, h, me, host+"/private/pushed:tag", []byte("pushed"))
	if last := ts.scopes[len(ts.scopes)-1]; last != "repository:private/pushed:pull,push" {
		t.Errorf("pushed with a token for %q", last)
	}
	// Another client does not get what the first one's token gives.
	for _, c := range []session.Client{dockerClient(t, host, "", ""), dockerClient(t, host, "me", "wrong"), sessiontest.Client(t)} {
		if _, _, err := h.Resolver(c, ResolverOptions{}).Resolve(t.Context(), host+"/private/name:tag"); !errors.Is(err, ErrDenied) {
			t.Errorf("other client: %v", err)
		}
	}
	// The daemon's own login is for who has none.
	own := newHosts(t, Options{Login: func(string) (session.Login, error) { return session.Login{Username: "me", Secret: "secret"}, nil }})
	if got := pull(t, own, nil, host+"/private/name:tag", private); string(got) != "private" {
		t.Errorf("own login: pulled %q", got)
	}
}

func TestBasicAuth(t *testing.T) {
	origin := registrytest.Start(t)
	ld := push(t, newHosts(t, Options{}), nil, origin+"/name:tag", []byte("layer"))
	s := proxy(t, origin, func(w http.ResponseWriter, r *http.Request) bool {
		if user, pass, _ := r.BasicAuth(); user == "me" && pass == "secret" {
			r.Header.Del("Authorization")
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	host := addr(s.URL)
	h := newHosts(t, Options{})
	if got := pull(t, h, dockerClient(t, host, "me", "secret"), host+"/name:tag", ld); string(got) != "layer" {
		t.Errorf("pulled %q", got)
	}
	for _, c := range []session.Client{nil, dockerClient(t, host, "me", "wrong")} {
		if _, _, err := h.Resolver(c, ResolverOptions{}).Resolve(t.Context(), host+"/name:tag"); !errors.Is(err, ErrDenied) {
			t.Errorf("got %v", err)
		}
	}
}

func TestDockerLogin(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"},"h":{"identitytoken":"tok"}}}`), 0o600))
	look := DockerLogin(dir)
	for host, want := range map[string]session.Login{"registry-1.docker.io": {Username: "me", Secret: "secret"}, "h": {Secret: "tok"}, "none": {}} {
		if got, err := look(host); err != nil || got != want {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
}

func TestMergeScopes(t *testing.T) {
	got := mergeScopes([]string{"repository:a:pull", "repository:b/c:push,pull", "repository:a:push", "registry:catalog:*", "x"})
	want := []string{"registry:catalog:*", "repository:a:pull,push", "repository:b/c:pull,push", "x:"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

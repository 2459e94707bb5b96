package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// startRegistry starts Debian's docker-registry on loopback and returns HOST:PORT.
func startRegistry(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("SKIPPED: docker-registry is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", dir, addr)
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", file)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 200 {
		if res, err := http.Get("http://" + addr + "/v2/"); err == nil {
			res.Body.Close()
			return addr
		}
		time.Sleep(25 * time.Millisecond) // another process' start cannot be awaited otherwise
	}
	t.Fatalf("docker-registry does not answer\n%s", log.Bytes())
	return ""
}

// pushSet is a Set whose exporters push with the daemon's own resolver.
func pushSet(t *testing.T, m *memTrees, images Images) *Set {
	t.Helper()
	hosts, err := registry.NewHosts(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return NewSet(Config{Trees: m, Blobs: m.blobs, Images: images, Resolver: func(c session.Client, insecure bool) remotes.Resolver {
		return hosts.Resolver(c, registry.ResolverOptions{Insecure: insecure})
	}})
}

// pull copies an image with skopeo and compares every blob with ours.
func pull(t *testing.T, ref string, blobs content.Store, want ocispecs.Descriptor) {
	t.Helper()
	dir := t.TempDir()
	run(t, "skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false", "docker://"+ref, "dir:"+dir)
	g, err := graphOf(t.Context(), blobs, want)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(g.data, g.manifests...) {
		name := d.Digest.Encoded()
		switch {
		case d.Digest == want.Digest:
			name = "manifest.json"
		case kindOf(d.MediaType) == "manifest":
			name += ".manifest.json"
		}
		ours, err := content.ReadBlob(t.Context(), blobs, d)
		if err != nil {
			t.Fatal(err)
		}
		if theirs, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(ours, theirs) {
			t.Errorf("%s %s came back otherwise: %v", kindOf(d.MediaType), d.Digest, err)
		}
	}
}

func TestPush(t *testing.T) {
	addr := startRegistry(t)
	m := newMemTrees(t)
	images := &memImages{}
	set := pushSet(t, m, images)
	tr := two(t, m)
	var s steps
	name := addr + "/dir/img:1"
	in := input(t, tr, map[string]string{"containerimage.config": amd64})
	res := export(t, set, "image", "push=true;name="+name+","+addr+"/other", in, Request{Progress: s.progress})
	pull(t, name, m.blobs, *res.Descriptor)
	pull(t, addr+"/other:latest", m.blobs, *res.Descriptor)
	if len(images.m) != 0 {
		t.Errorf("a pushed image was named here: %v", images.m)
	}
	want := []string{"pushing layers", "pushing manifest for " + name + "@" + res.Descriptor.Digest.String()}
	if got := s.all[len(s.all)-4 : len(s.all)-2]; !slices.Equal(got, want) {
		t.Errorf("steps: %q", s.all)
	}

	// An index with attestations, in Docker's types and OCI's, over what is there.
	multi := multi(t, nil, map[string]cache.Tree{"linux/amd64": tr, "linux/arm64": tr})
	res = export(t, set, "image", "push=true;oci-mediatypes=false;registry.insecure=true;name="+name, multi, Request{})
	pull(t, name, m.blobs, *res.Descriptor)
	multi.Attestations = map[string][]Attestation{"linux/amd64": {provenance()}}
	res = export(t, set, "image", "push=true;oci-artifact=false;name="+name, multi, Request{})
	pull(t, name, m.blobs, *res.Descriptor)
}

func TestPushByDigest(t *testing.T) {
	addr := startRegistry(t)
	m := newMemTrees(t)
	res := export(t, pushSet(t, m, nil), "image", "push=true;push-by-digest=true;name="+addr+"/img", input(t, two(t, m), nil), Request{})
	pull(t, addr+"/img@"+res.Descriptor.Digest.String(), m.blobs, *res.Descriptor)
	tags, err := http.Get("http://" + addr + "/v2/img/tags/list")
	if err != nil {
		t.Fatal(err)
	}
	tags.Body.Close()
	if tags.StatusCode != http.StatusNotFound {
		t.Errorf("pushing by digest made a tag: the list of tags is %s", tags.Status)
	}
}

// An image that has a name here and is then pushed under it must not hide what
// the registry has.
func TestPushReplacesWhatIsNamedHere(t *testing.T) {
	addr := startRegistry(t)
	m := newMemTrees(t)
	images := &memImages{}
	set := pushSet(t, m, images)
	name := addr + "/img"
	export(t, set, "image", "name="+name, input(t, "", nil), Request{})
	res := export(t, set, "image", "push=true;name="+name, input(t, two(t, m), nil), Request{})
	if images.m[name].Digest != res.Descriptor.Digest {
		t.Errorf("%s is still %v here", name, images.m[name])
	}
}

// meddler stands before a registry and counts and changes what goes through.
type meddler struct {
	mu    sync.Mutex
	calls []string // guarded by mu
	deny  func(r *http.Request) int
	after func(r *http.Response) error
}

func (d *meddler) start(t *testing.T, addr string) string {
	t.Helper()
	to := &url.URL{Scheme: "http", Host: addr}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ModifyResponse: func(r *http.Response) error {
			if d.after == nil {
				return nil
			}
			return d.after(r)
		},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.calls = append(d.calls, r.Method+" "+r.URL.String())
		d.mu.Unlock()
		if d.deny != nil {
			if code := d.deny(r); code != 0 {
				http.Error(w, `{"errors":[{"code":"DENIED","message":"meddled with"}]}`, code)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func (d *meddler) count(method, part string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if strings.HasPrefix(c, method+" ") && strings.Contains(c, part) {
			n++
		}
	}
	return n
}

func TestPushSkipsAndMounts(t *testing.T) {
	m := newMemTrees(t)
	remote, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var d meddler
	addr := d.start(t, startRegistry(t))
	set := pushSet(t, m, nil)
	base := two(t, m)
	export(t, set, "image", "push=true;name="+addr+"/base", input(t, base, nil), Request{})
	if n := d.count("PUT", "/blobs/"); n != 3 {
		t.Fatalf("%d blobs were uploaded", n)
	}
	export(t, set, "image", "push=true;name="+addr+"/base:again", input(t, base, nil), Request{})
	if n := d.count("PUT", "/blobs/"); n != 3 {
		t.Errorf("%d blobs were uploaded after all was there", n)
	}

	// The base image's layers go from repository to repository without us.
	m.pulled(base, remote, addr+"/base:latest", "docker.io/library/base")
	tr := m.add(base, write(t, map[string]string{"new": "x"}))
	p := &storeProvider{Store: remote}
	export(t, set, "image", "push=true;name="+addr+"/child", input(t, tr, nil), Request{Provider: p})
	if len(p.fetched) != 0 || d.count("POST", "from=base") != 2 {
		t.Errorf("fetched %v, mounted %d layers", p.fetched, d.count("POST", "from=base"))
	}
	// To a registry that does not have them they must be fetched.
	infos, _ := m.Layers(base)
	for _, info := range infos {
		if err := m.blobs.Delete(t.Context(), info.Desc.Digest); err != nil {
			t.Fatal(err)
		}
	}
	export(t, set, "image", "push=true;name="+startRegistry(t)+"/child", input(t, tr, nil), Request{Provider: p})
	if len(p.fetched) != 2 {
		t.Errorf("fetched %v", p.fetched)
	}
}

func TestPushFails(t *testing.T) {
	upstream := startRegistry(t)
	for name, c := range map[string]struct {
		deny  func(*http.Request) int
		after func(*http.Response) error
		want  string
	}{
		"blob": {deny: func(r *http.Request) int {
			if r.Method == "PUT" && strings.Contains(r.URL.Path, "/blobs/") {
				return 403
			}
			return 0
		}, want: "denied: meddled with"},
		"manifest": {deny: func(r *http.Request) int {
			if r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/") {
				return 400
			}
			return 0
		}, want: "manifest sha256:"},
		"digest": {after: func(r *http.Response) error {
			if r.Request.Method == "PUT" && strings.Contains(r.Request.URL.Path, "/manifests/") {
				r.Header.Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
			}
			return nil
		}, want: "expected sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			d := meddler{deny: c.deny, after: c.after}
			m := newMemTrees(t)
			ref := d.start(t, upstream) + "/" + name + ":v1"
			e, err := pushSet(t, m, nil).Resolve("image", parse("push=true;name="+ref))
			if err != nil {
				t.Fatal(err)
			}
			res, err := e.Export(t.Context(), input(t, m.add("", write(t, map[string]string{name: name})), nil), Request{})
			if err != nil {
				t.Fatal(err)
			}
			if err = res.Finalize(t.Context()); err == nil || !strings.Contains(err.Error(), "push "+ref) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		m := newMemTrees(t)
		e, _ := pushSet(t, m, nil).Resolve("image", parse("push=true;name=127.0.0.1:1/x"))
		res, err := e.Export(t.Context(), input(t, "", nil), Request{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := res.Finalize(ctx); err == nil || !strings.Contains(err.Error(), "push 127.0.0.1:1/x") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("blob lost", func(t *testing.T) {
		m := newMemTrees(t)
		e, _ := pushSet(t, m, nil).Resolve("image", parse("push=true;name="+upstream+"/lost"))
		res, err := e.Export(t.Context(), input(t, m.add("", write(t, map[string]string{"lost": "x"})), nil), Request{})
		if err != nil {
			t.Fatal(err)
		}
		layer := read[ocispecs.Manifest](t, m.blobs, *res.Descriptor).Layers[0]
		if err := m.blobs.Delete(t.Context(), layer.Digest); err != nil {
			t.Fatal(err)
		}
		if err := res.Finalize(t.Context()); err == nil || !strings.Contains(err.Error(), layer.Digest.String()) {
			t.Errorf("got %v", err)
		}
	})
}

// All exporters of a build come before any push.
func TestSeveralAtOnce(t *testing.T) {
	addr := startRegistry(t)
	m := newMemTrees(t)
	set := pushSet(t, m, &memImages{})
	in := input(t, two(t, m), map[string]string{"containerimage.config": amd64})
	outs := []*sink{{}, {}, {}}
	c := client(t, targets(map[int]*sink{1: outs[0], 2: outs[1], 3: outs[2]}))
	results := make([]*Result, 4)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i, spec := range []string{"image;push=true;name=" + addr + "/x", "oci;name=x", "docker;name=x", "tar;"} {
		typ, attrs, _ := strings.Cut(spec, ";")
		e, err := set.Resolve(typ, parse(attrs))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { results[i], errs[i] = e.Export(t.Context(), in, Request{ID: i, Client: c}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i, o := range outs {
		if !o.closed || o.Len() == 0 {
			t.Errorf("exporter %d sent nothing", i+1)
		}
	}
	if results[1].Descriptor.Digest != results[0].Descriptor.Digest || results[0].Finalize == nil || results[1].Finalize != nil {
		t.Errorf("results: %+v", results)
	}
	if err := results[0].Finalize(t.Context()); err != nil {
		t.Fatal(err)
	}
	pull(t, addr+"/x:latest", m.blobs, *results[0].Descriptor)
}

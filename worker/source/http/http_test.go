package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/solver/pb"
	godigest "github.com/opencontainers/go-digest"
)

type fixture struct {
	src      *Source
	trees    *tree.Store
	url      string
	handle   http.HandlerFunc
	requests atomic.Int32
}

func newFixture(t *testing.T, h http.HandlerFunc) *fixture {
	t.Helper()
	f := &fixture{handle: h}
	blobs, err := blob.Open(t.TempDir())
	must(t, err)
	f.trees, err = tree.Open(tree.Config{Dir: t.TempDir(), Blobs: blobs})
	must(t, err)
	t.Cleanup(func() { f.trees.Close() })
	f.src, err = New(Config{Trees: f.trees, Dir: t.TempDir()})
	must(t, err)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		f.handle(w, r)
	}))
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

func (f *fixture) request(path string, attrs ...string) source.Request {
	r := source.Request{Identifier: f.url + path, Attrs: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		r.Attrs[attrs[i]] = attrs[i+1]
	}
	return r
}

// get pins and fetches, and returns the one file as "NAME MODE UID:GID TIME CONTENT".
func (f *fixture) get(t *testing.T, c session.Client, r source.Request) (source.Pin, string, error) {
	t.Helper()
	p, err := f.src.Pin(t.Context(), c, r)
	if err != nil {
		return p, "", err
	}
	tr, err := f.src.Fetch(t.Context(), c, p, nil)
	if err != nil {
		return p, "", err
	}
	return p, f.show(t, tr), nil
}

func (f *fixture) show(t *testing.T, tr cache.Tree) string {
	t.Helper()
	v, err := f.trees.Files(t.Context(), tr)
	must(t, err)
	es, err := v.ReadDir("/")
	must(t, err)
	if len(es) != 1 {
		t.Fatalf("the tree has %d files", len(es))
	}
	e := es[0]
	file, err := v.Open("/" + e.Path)
	must(t, err)
	defer file.Close()
	st, err := file.Stat()
	must(t, err)
	b, err := io.ReadAll(file)
	must(t, err)
	if digest := godigest.FromBytes(b).Encoded(); digest != fmt.Sprintf("%x", e.Hash) || uint32(st.Mode().Perm()) != e.Mode&0o777 || !st.ModTime().Equal(e.ModTime) {
		t.Errorf("the index does not say what %s is", e.Path)
	}
	return fmt.Sprintf("%s %o %d:%d %d %s", strings.TrimPrefix(e.Path, "/"), e.Mode&0o7777, e.UID, e.GID, e.ModTime.Unix(), b)
}

func TestRevalidate(t *testing.T) {
	content, tag, when := "one", `"1"`, time.Unix(1000000000, 0)
	sent, last := 0, ""
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		last = r.Method
		w.Header().Set("ETag", tag)
		w.Header().Set("Last-Modified", when.UTC().Format(http.TimeFormat))
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if r.Method == http.MethodGet {
			sent++
		}
		fmt.Fprint(w, content)
	})
	r := f.request("/dir/file.txt?q=1")
	p, got, err := f.get(t, nil, r)
	must(t, err)
	if got != "file.txt 600 0:0 1000000000 one" {
		t.Errorf("got %s", got)
	}
	if p.Resolved != string(godigest.FromString("one")) {
		t.Errorf("resolved to %s", p.Resolved)
	}
	again, _, err := f.get(t, nil, r)
	must(t, err)
	if again.Tree != p.Tree || again.Key != p.Key || sent != 1 || last != http.MethodHead {
		t.Errorf("unchanged, but sent %d times, last asked with %s", sent, last)
	}

	// After a restart, and without the tree: asked, but not sent.
	f.src, err = New(f.src.c)
	must(t, err)
	a, _ := f.src.answers.get(mustParse(t, r).id())
	a.Tree = "gone"
	must(t, f.src.answers.put(mustParse(t, r).id(), a))
	again, err = f.src.Pin(t.Context(), nil, r)
	must(t, err)
	if again.Key != p.Key || again.Tree != "" || sent != 1 {
		t.Errorf("pin: %+v, sent %d times", again, sent)
	}
	tr, err := f.src.Fetch(t.Context(), nil, again, nil)
	must(t, err)
	if got := f.show(t, tr); got != "file.txt 600 0:0 1000000000 one" || sent != 2 {
		t.Errorf("got %s, sent %d times", got, sent)
	}

	content, tag = "two", `W/"2"`
	again.Tree = "gone"
	if _, err := f.src.Fetch(t.Context(), nil, again, nil); err == nil || !strings.Contains(err.Error(), "changed while the build ran") {
		t.Errorf("another file went through: %v", err)
	}
	changed, got, err := f.get(t, nil, r)
	must(t, err)
	if changed.Key == p.Key || !strings.HasSuffix(got, " two") {
		t.Errorf("a change did not count: %s", got)
	}
}

// A server that ignores If-None-Match, and one that has only Last-Modified.
func TestPoorServers(t *testing.T) {
	when := time.Unix(1000000000, 0).UTC().Format(http.TimeFormat)
	for name, h := range map[string]http.HandlerFunc{
		"same ETag with 200": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `W/"1"`)
			fmt.Fprint(w, "content")
		},
		"Last-Modified": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", when)
			if r.Header.Get("If-Modified-Since") == when {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			fmt.Fprint(w, "content")
		},
		"nothing": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "content") },
	} {
		f := newFixture(t, h)
		one, _, err := f.get(t, nil, f.request("/f"))
		must(t, err)
		two, got, err := f.get(t, nil, f.request("/f"))
		must(t, err)
		if one.Key != two.Key || !strings.HasSuffix(got, " content") {
			t.Errorf("%s: %s, %v and %v", name, got, one.Key, two.Key)
		}
		if name != "nothing" && one.Tree != two.Tree {
			t.Errorf("%s: downloaded again", name)
		}
	}
}

func TestChecksum(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Disposition", `attachment; filename="other"`)
		w.Header().Set("Last-Modified", time.Unix(1000000000, 0).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, "content")
	})
	sum := godigest.FromString("content").String()
	r := f.request("/f", pb.AttrHTTPChecksum, sum)
	p, err := f.src.Pin(t.Context(), nil, r)
	must(t, err)
	if f.requests.Load() != 0 {
		t.Error("a checksum was looked up")
	}
	tr, err := f.src.Fetch(t.Context(), nil, p, nil)
	must(t, err)
	if got := f.show(t, tr); got != "f 600 0:0 0 content" {
		t.Errorf("got %s", got)
	}
	again, _, err := f.get(t, nil, r)
	must(t, err)
	if again.Key != p.Key || f.requests.Load() != 1 {
		t.Errorf("%d requests", f.requests.Load())
	}
	bad := f.request("/f", pb.AttrHTTPChecksum, godigest.FromString("x").String())
	if _, _, err := f.get(t, nil, bad); err == nil || !strings.Contains(err.Error(), sum) {
		t.Errorf("wrong checksum: %v", err)
	}
}

func TestNames(t *testing.T) {
	disposition := ""
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		if disposition != "" {
			w.Header().Set("Content-Disposition", disposition)
		}
	})
	for _, c := range []struct{ path, disposition, want string }{
		{"/a/b", "", "b"},
		{"/", "", "download"},
		{"/a/..", "", "download"},
		{"/a%2fb", "", "b"},
		{"/a", `attachment; filename="x y"`, "x y"},
		{"/a", `attachment; filename="../../etc/passwd"`, "passwd"},
		{"/a", `attachment; filename=".."`, "download"},
		{"/a", `attachment; filename="dir/"`, "a"},
		{"/a", "attachment; filename*=UTF-8''%e2%82%ac", "€"},
	} {
		disposition = c.disposition
		p, err := f.src.Pin(t.Context(), nil, f.request(c.path))
		must(t, err)
		if got, _, _ := strings.Cut(f.show(t, p.Tree), " 600 "); got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.path, c.disposition, got, c.want)
		}
	}
	_, got, err := f.get(t, nil, f.request("/a", pb.AttrHTTPFilename, "../n", pb.AttrHTTPPerm, "0755", pb.AttrHTTPUID, "12", pb.AttrHTTPGID, "34"))
	if err != nil || got != "n 755 12:34 0 " {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestHeaders(t *testing.T) {
	var seen http.Header
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) { seen = r.Header })
	c := sessiontest.Client(t, secretsprovider.FromMap(map[string][]byte{
		"mine": []byte("Basic abc\n"), "HTTP_AUTH_TOKEN_127.0.0.1": []byte("tok"),
	}))
	_, _, err := f.get(t, c, f.request("/", pb.AttrHTTPAuthHeaderSecret, "mine", pb.AttrHTTPHeaderPrefix+"accept", "text/x", pb.AttrHTTPHeaderPrefix+"cookie", "no"))
	must(t, err)
	if seen.Get("Authorization") != "Basic abc" || seen.Get("Accept") != "text/x" || seen.Get("Cookie") != "" {
		t.Errorf("sent %v", seen)
	}
	_, _, err = f.get(t, c, f.request("/"))
	must(t, err)
	if seen.Get("Authorization") != "Bearer tok" {
		t.Errorf("sent %v", seen)
	}
	_, _, err = f.get(t, c, f.request("/", pb.AttrHTTPAuthHeaderSecret, "none"))
	if !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "--secret id=none") {
		t.Errorf("missing secret: %v", err)
	}
}

func TestUpload(t *testing.T) {
	f := newFixture(t, nil)
	up := uploadprovider.New()
	u := up.Add(io.NopCloser(strings.NewReader("a tar")))
	c := sessiontest.Client(t, up)
	r := source.Request{Identifier: u, Attrs: map[string]string{pb.AttrHTTPFilename: "context"}, Memo: &source.Memo{}}
	_, got, err := f.get(t, c, r)
	if err != nil || got != "context 600 0:0 0 a tar" {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := f.src.Pin(t.Context(), c, r); err != nil { // the stream is gone, but the build remembers
		t.Error(err)
	}
	r.Identifier = "http://buildkit-session/none"
	if _, err := f.src.Pin(t.Context(), c, r); err == nil {
		t.Error("an upload that is none came through")
	}
}

func TestErrors(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/session":
			http.Redirect(w, r, "http://buildkit-session/x", http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/short":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "too short")
		case "/long":
			fmt.Fprint(w, strings.Repeat("x", 2000))
		default:
			http.NotFound(w, r)
		}
	})
	f.src.c.MaxSize = 1000
	for path, want := range map[string]string{
		"/none": "404 Not Found", "/session": "only a client can name", "/file": "file", "/loop": "10 redirects",
		"/short": "unexpected EOF", "/long": "the limit is 1000",
	} {
		p, err := f.src.Pin(t.Context(), nil, f.request(path))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %+v, %v", path, p, err)
		}
	}
	u, _ := url.Parse(f.url)
	u.User = url.UserPassword("me", "secret")
	_, err := f.src.Pin(t.Context(), nil, source.Request{Identifier: u.String() + "/none"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("password shown: %v", err)
	}
	u.Host = "127.0.0.1:1"
	if _, err = f.src.Pin(t.Context(), nil, source.Request{Identifier: u.String()}); err == nil || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestRetry(t *testing.T) {
	n := 0
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n < 3 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "content")
	})
	if _, got, err := f.get(t, nil, f.request("/f")); err != nil || !strings.HasSuffix(got, " content") {
		t.Errorf("%s, %v", got, err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begin")
		w.(http.Flusher).Flush()
		cancel(enough)
		<-r.Context().Done()
	})
	r := f.request("/f")
	r.Progress = func(solver.Status) {}
	if _, err := f.src.Pin(ctx, nil, r); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestDescribe(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", time.Unix(1000000000, 0).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, "content")
	})
	o := sourceresolver.Opt{HTTPOpt: &sourceresolver.ResolveHTTPOpt{ChecksumReq: &sourceresolver.ResolveHTTPChecksumRequest{Algo: sourceresolver.ResolveHTTPChecksumAlgoSHA512, Suffix: []byte("++")}}}
	m, err := f.src.Describe(t.Context(), nil, f.request("/f"), o)
	must(t, err)
	h := m.HTTP
	if h.Digest != godigest.FromString("content") || h.Filename != "f" || h.LastModified.Unix() != 1000000000 ||
		h.ChecksumResponse.Digest != godigest.SHA512.FromString("content++").String() {
		t.Errorf("%+v", h)
	}
}

func TestSignature(t *testing.T) {
	key, err := openpgp.NewEntity("test", "", "test@example.com", nil)
	must(t, err)
	var pub strings.Builder
	w, err := armor.Encode(&pub, openpgp.PublicKeyType, nil)
	must(t, err)
	must(t, errors.Join(key.Serialize(w), w.Close()))
	var sig strings.Builder
	must(t, openpgp.ArmoredDetachSign(&sig, key, strings.NewReader("content"), nil))
	content := "content"
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, content) })
	r := f.request("/f", pb.AttrHTTPSignatureVerifyPubKey, pub.String(), pb.AttrHTTPSignatureVerify, sig.String())
	if _, _, err := f.get(t, nil, r); err != nil {
		t.Error(err)
	}
	content = "Content"
	if _, _, err := f.get(t, nil, r); err == nil || !strings.Contains(err.Error(), "verify signature") {
		t.Errorf("a forged file came through: %v", err)
	}
	delete(r.Attrs, pb.AttrHTTPSignatureVerify)
	if _, _, err := f.get(t, nil, r); err == nil {
		t.Error("a key without a signature came through")
	}
}

func mustParse(t *testing.T, r source.Request) *request {
	t.Helper()
	req, err := parse(r)
	must(t, err)
	return &req
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

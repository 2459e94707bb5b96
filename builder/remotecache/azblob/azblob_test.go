package azblob

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/builder/remotecache/rest"
	"github.com/buildd/buildd/cache"
	"github.com/containerd/containerd/v2/core/content"
)

const secret = "c2VjcmV0IGtleQ=="

// fake is a service like Azure's that takes no request whose signature is wrong.
type fake struct {
	mu        sync.Mutex
	container bool
	blobs     map[string][]byte
	blocks    map[string][]byte
	touched   string
}

func newFake(t *testing.T) (*fake, string) {
	t.Helper()
	f := &fake{blobs: map[string][]byte{}, blocks: map[string][]byte{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s.URL
}

// verify computes the signature anew from what arrived, as "Authorize with Shared
// Key" has it for versions since 2015-02-21.
func verify(r *http.Request) error {
	if r.Header.Get("x-ms-version") == "" {
		return errors.New("no version")
	}
	length := r.Header.Get("Content-Length")
	if length == "0" {
		length = ""
	}
	h := r.Header
	text := strings.Join([]string{
		r.Method, h.Get("Content-Encoding"), h.Get("Content-Language"), length, h.Get("Content-MD5"), h.Get("Content-Type"), h.Get("Date"),
		h.Get("If-Modified-Since"), h.Get("If-Match"), h.Get("If-None-Match"), h.Get("If-Unmodified-Since"), h.Get("Range"),
	}, "\n") + "\n"
	var names []string
	for k := range h {
		if strings.HasPrefix(k, "X-Ms-") {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	for _, k := range names {
		text += strings.ToLower(k) + ":" + h.Get(k) + "\n"
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	text += "/acc" + path
	var args []string
	for k, v := range r.URL.Query() {
		args = append(args, k+":"+v[0])
	}
	slices.Sort(args)
	for _, a := range args {
		text += "\n" + a
	}
	key, _ := base64.StdEncoding.DecodeString(secret)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	if want := "SharedKey acc:" + base64.StdEncoding.EncodeToString(m.Sum(nil)); h.Get("Authorization") != want {
		return fmt.Errorf("signature of %q differs", text)
	}
	return nil
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	q := r.URL.Query()
	if q.Get("sig") != "signed" { // else the URL is signed
		if r.ContentLength > 0 {
			r.Header.Set("Content-Length", fmt.Sprint(r.ContentLength))
		}
		if err := verify(r); err != nil {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "AuthenticationFailed "+err.Error())
			return
		}
	}
	key := r.URL.Path
	switch {
	case q.Get("restype") == "container" && r.Method == http.MethodPut:
		f.container = true
		w.WriteHeader(http.StatusCreated)
	case !f.container && q.Get("sig") == "":
		w.WriteHeader(http.StatusNotFound)
	case q.Get("restype") == "container":
	case q.Get("comp") == "block":
		f.blocks[key+q.Get("blockid")] = body
		w.WriteHeader(http.StatusCreated)
	case q.Get("comp") == "blocklist":
		var list struct{ Latest []string }
		xml.Unmarshal(body, &list)
		f.blobs[key] = nil
		for _, id := range list.Latest {
			f.blobs[key] = append(f.blobs[key], f.blocks[key+id]...)
		}
		w.WriteHeader(http.StatusCreated)
	case q.Get("comp") == "metadata":
		f.touched = key
	case r.Method == http.MethodPut:
		if r.Header.Get("x-ms-blob-type") != "BlockBlob" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		f.blobs[key] = body
		w.WriteHeader(http.StatusCreated)
	default:
		b, ok := f.blobs[key]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		http.ServeContent(w, r, "", time.Now().Add(-48*time.Hour), bytes.NewReader(b))
	}
}

func container(t *testing.T, account, secret string) *Container {
	t.Helper()
	k, err := NewKey("acc", secret)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Account: account, Container: "cont", Block: 1000, Authorize: func(_ context.Context, r *http.Request) error {
		k.Sign(r, time.Now())
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContainer(t *testing.T) {
	f, account := newFake(t)
	c := container(t, account, secret)
	ctx := t.Context()
	if _, err := c.Get(ctx, "none", 1); !errors.Is(err, cache.ErrNotFound) {
		t.Error(err)
	}
	for name, size := range map[string]int{"blobs/sha256:abc": 500, "pre fix/ü+&=#%/x": 10, "empty": 0, "large": 4500} {
		data := bytes.Repeat([]byte("x"), size)
		if err := c.Put(ctx, name, bytes.NewReader(data), int64(size)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		modified, n, err := c.Stat(ctx, name)
		if err != nil || n != int64(size) || time.Since(modified) < 24*time.Hour {
			t.Errorf("%s: %d bytes, %v, %v", name, n, modified, err)
		}
		if got, err := c.Get(ctx, name, 10_000); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		ra, err := c.Open(ctx, name, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		if size > 20 {
			p := make([]byte, 10)
			if _, err := ra.ReadAt(p, 7); err != nil { // a range
				t.Errorf("%s: %v", name, err)
			}
		}
		if got, err := io.ReadAll(content.NewReader(ra)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: opened: %d bytes, %v", name, len(got), err)
		}
		ra.Close()
		if err := c.Touch(ctx, name, int64(size)); err != nil || f.touched != "/cont/"+name {
			t.Errorf("touch %s: %v", name, err)
		}
	}
	if _, err := container(t, account, "d3Jvbmc=").Get(ctx, "empty", 1); err == nil || !strings.Contains(err.Error(), "AuthenticationFailed") {
		t.Errorf("wrong key: %v", err)
	}
	if _, err := NewKey("acc", "no base64!"); err == nil {
		t.Error("a key that is no base64 was taken")
	}
	if _, err := New(Config{Account: "account"}); err == nil {
		t.Error("an account that is no URL was taken")
	}
}

func TestPutURL(t *testing.T) {
	f, account := newFake(t)
	for _, size := range []int{10, defaultBlock + 5} {
		data := bytes.Repeat([]byte("y"), size)
		if err := PutURL(t.Context(), &rest.Client{}, account+"/x/y?sig=signed", bytes.NewReader(data), int64(size)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(f.blobs["/x/y"], data) {
			t.Errorf("%d bytes arrived of %d", len(f.blobs["/x/y"]), size)
		}
	}
}

func TestIdentity(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		r.ParseForm()
		switch {
		case r.URL.Path == "/tenant/oauth2/v2.0/token" && r.Form.Get("client_id") == "client" && r.Form.Get("client_secret") == "s":
			io.WriteString(w, `{"access_token":"by secret","expires_in":3600}`)
		case r.URL.Path == "/tenant/oauth2/v2.0/token" && r.Form.Get("client_assertion") == "jwt":
			io.WriteString(w, `{"access_token":"by assertion","expires_in":3600}`)
		case r.URL.Path == "/metadata/identity/oauth2/token" && r.Header.Get("Metadata") == "true":
			io.WriteString(w, `{"access_token":"by machine","expires_in":"3600"}`)
		default:
			w.WriteHeader(400)
		}
	}))
	defer s.Close()
	jwt := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(jwt, []byte("jwt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, env := range map[string]map[string]string{
		"by secret":    {"AZURE_CLIENT_SECRET": "s", "AZURE_CLIENT_ID": "client", "AZURE_TENANT_ID": "tenant"},
		"by assertion": {"AZURE_FEDERATED_TOKEN_FILE": jwt, "AZURE_CLIENT_ID": "client", "AZURE_TENANT_ID": "tenant"},
		"by machine":   {},
	} {
		i := &Identity{Instance: s.URL, Getenv: func(k string) string {
			if k == "AZURE_AUTHORITY_HOST" {
				return s.URL
			}
			return env[k]
		}}
		for range 2 {
			got, err := i.Token(t.Context())
			if err != nil || got != want {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

package gha

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/containerd/containerd/v2/core/content"
)

// token makes a token like those of jobs; nobody checks its signature here.
func token(scopes string, exp time.Time) string {
	payload, err := json.Marshal(map[string]any{"ac": scopes, "exp": exp.Unix()})
	if err != nil {
		panic(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".sig"
}

var job = token(`[{"Scope":"refs/heads/pr","Permission":3},{"Scope":"refs/heads/main","Permission":1}]`, time.Now().Add(time.Hour))

// fake is the service with its blob storage.
type fake struct {
	url     string
	mu      sync.Mutex
	entries map[string][]byte // finished ones
	order   []string
	blobs   map[string][]byte
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{entries: map[string][]byte{}, blobs: map[string][]byte{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if key, ok := strings.CutPrefix(r.URL.Path, "/blob/"); ok {
		if r.URL.Query().Get("sig") != "ok" || r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusForbidden) // the token is not for the storage
			return
		}
		if r.Method == http.MethodPut {
			f.blobs[key] = body
			w.WriteHeader(http.StatusCreated)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.blobs[key]))
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+job || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var in struct {
		Key         string   `json:"key"`
		RestoreKeys []string `json:"restore_keys"`
		Version     string   `json:"version"`
		Size        int64    `json:"size_bytes"`
	}
	if err := json.Unmarshal(body, &in); err != nil || len(in.Version) != 64 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	method := strings.TrimPrefix(r.URL.Path, "/twirp/github.actions.results.api.v1.CacheService/")
	signed := func(key string) string { return f.url + "/blob/" + strings.ReplaceAll(key, "#", "%23") + "?sig=ok" }
	switch method {
	case "CreateCacheEntry":
		if _, ok := f.blobs[in.Key]; ok {
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, `{"code":"already_exists","msg":"cache entry with the same key, version, and scope already exists"}`)
			return
		}
		f.blobs[in.Key] = nil
		fmt.Fprintf(w, `{"ok":true,"signed_upload_url":%q}`, signed(in.Key))
	case "FinalizeCacheEntryUpload":
		ok := int64(len(f.blobs[in.Key])) == in.Size
		if ok {
			f.entries[in.Key] = f.blobs[in.Key]
			f.order = append(f.order, in.Key)
		}
		fmt.Fprintf(w, `{"ok":%v,"entry_id":"1","message":"size"}`, ok)
	case "GetCacheEntryDownloadURL":
		for i := len(f.order) - 1; i >= 0; i-- { // the latest first
			if k := f.order[i]; k == in.Key || len(in.RestoreKeys) > 0 && strings.HasPrefix(k, in.RestoreKeys[0]) {
				fmt.Fprintf(w, `{"ok":true,"signed_download_url":%q,"matched_key":%q}`, signed(k), k)
				return
			}
		}
		io.WriteString(w, `{"ok":false}`)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestEntries(t *testing.T) {
	f := newFake(t)
	c, err := New(f.url+"/", job)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Readable(), c.Writable()); got != "[refs/heads/pr refs/heads/main]refs/heads/pr" {
		t.Error(got)
	}
	ctx := t.Context()
	if _, err := c.Load(ctx, "blob-1"); !errors.Is(err, cache.ErrNotFound) {
		t.Error(err)
	}
	data := []byte("some layer")
	if err := c.Save(ctx, "blob-1", bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if err := c.Save(ctx, "blob-1", bytes.NewReader(data), int64(len(data))); !errors.Is(err, ErrExists) {
		t.Errorf("saved twice: %v", err)
	}
	e, err := c.Load(ctx, "blob-1")
	if err != nil {
		t.Fatal(err)
	}
	ra, err := e.Open(ctx, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	if got, err := io.ReadAll(content.NewReader(ra)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%q, %v", got, err)
	}
	for i := range 3 {
		text := fmt.Sprint("index ", i)
		if err := c.SaveMutable(ctx, "index", []byte(text)); err != nil {
			t.Fatal(err)
		}
		e, err := c.Latest(ctx, "index")
		if err != nil || e.Key != fmt.Sprintf("index#%d", i+1) {
			t.Fatalf("%+v, %v", e, err)
		}
		if got, err := e.Read(ctx, 100); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestTokens(t *testing.T) {
	for name, tok := range map[string]string{
		"empty": "", "no token": "abc", "no base64": "a.!.c", "no JSON": "a.eA.c", "no access": "e30.e30.x",
		"expired":   token(`[]`, time.Now().Add(-time.Hour)),
		"no scopes": token(`x`, time.Now().Add(time.Hour)),
	} {
		if _, err := New("http://127.0.0.1:1", tok); err == nil || !strings.Contains(err.Error(), "token") || tok != "" && strings.Contains(err.Error(), tok) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New("results", job); err == nil || !strings.Contains(err.Error(), "ACTIONS_RESULTS_URL") {
		t.Errorf("bad URL: %v", err)
	}
	f := newFake(t)
	other := token(`[{"Scope":"x","Permission":3}]`, time.Now().Add(time.Hour))
	c, err := New(f.url, other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Load(t.Context(), "x"); err == nil || errors.Is(err, cache.ErrNotFound) || strings.Contains(err.Error(), other) {
		t.Errorf("refused token: %v", err)
	}
}

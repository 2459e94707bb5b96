package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// store is an object store that believes everybody, as S3, as Azure's and, with
// twirp calls before it, as that of GitHub Actions. Package s3, azblob and gha test
// signatures.
type store struct {
	url     string
	mu      sync.Mutex
	objects map[string][]byte
	entries []string // keys of GitHub Actions, in the order of their making
}

func startStore(t *testing.T) *store {
	t.Helper()
	s := &store{objects: map[string][]byte{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if method, ok := strings.CutPrefix(r.URL.Path, "/twirp/github.actions.results.api.v1.CacheService/"); ok {
		s.call(w, method, body)
		return
	}
	switch b, ok := s.objects[r.URL.Path]; {
	case r.URL.Query().Get("restype") == "container":
	case r.Method == http.MethodPut:
		s.objects[r.URL.Path] = body
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(b))
	}
}

func (s *store) call(w http.ResponseWriter, method string, body []byte) {
	var in struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	at := func(key string) string { return s.url + "/actions/" + strings.ReplaceAll(key, "#", "-") }
	switch method {
	case "CreateCacheEntry":
		fmt.Fprintf(w, `{"ok":true,"signed_upload_url":%q}`, at(in.Key))
	case "FinalizeCacheEntryUpload":
		s.entries = append(s.entries, in.Key)
		io.WriteString(w, `{"ok":true}`)
	default:
		for i := len(s.entries) - 1; i >= 0; i-- {
			if strings.HasPrefix(s.entries[i], in.Key) {
				fmt.Fprintf(w, `{"ok":true,"matched_key":%q,"signed_download_url":%q}`, s.entries[i], at(s.entries[i]))
				return
			}
		}
		io.WriteString(w, `{"ok":false}`)
	}
}

func TestBucketCaches(t *testing.T) {
	s := startStore(t)
	claims, err := json.Marshal(map[string]any{"ac": `[{"Scope":"refs/heads/x","Permission":3}]`, "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{
		"type=s3,region=x,bucket=b,use_path_style=true,access_key_id=x,secret_access_key=y,endpoint_url=" + s.url,
		"type=azblob,account_name=x,secret_access_key=c2VjcmV0,account_url=" + s.url,
		"type=gha,url_v2=" + s.url + ",token=e30." + base64.RawURLEncoding.EncodeToString(claims) + ".x",
	} {
		name, _, _ := strings.Cut(place, ",")
		t.Run(strings.TrimPrefix(name, "type="), func(t *testing.T) {
			dir := cachedContext(t)
			image, _ := startWithBusybox(t).archive(dir, "--cache-to", place+",mode=max")
			d := startWithBusybox(t)
			again, r := d.archive(dir, "--cache-from", place)
			expectRan(t, r)
			if a, b := layersOf(t, image), layersOf(t, again); fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("layers %q, want %q", b, a)
			}
			if log := d.log.String(); strings.Contains(log, "c2VjcmV0") || strings.Contains(log, "e30.") {
				t.Error("a secret is in the daemon's log")
			}
			// The next export writes what is new only.
			s.mu.Lock()
			before := len(s.objects)
			s.mu.Unlock()
			write(t, dir, "main", "another")
			d.archive(dir, "--cache-from", place, "--cache-to", place+",mode=max")
			s.mu.Lock()
			defer s.mu.Unlock()
			// Two layers, and in GitHub Actions the next number of the document.
			if n := len(s.objects) - before; n < 2 || n > 4 {
				t.Errorf("%d new objects", n)
			}
		})
	}
}

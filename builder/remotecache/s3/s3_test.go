package s3

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/containerd/containerd/v2/core/content"
)

// TestSign has the examples of the Amazon S3 API reference ("Signature
// Calculations for the Authorization Header").
func TestSign(t *testing.T) {
	c := Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	at := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for query, want := range map[string]string{
		"lifecycle":           "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
		"max-keys=2&prefix=J": "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
	} {
		r, err := http.NewRequest(http.MethodGet, "https://examplebucket.s3.amazonaws.com/?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		Sign(r, c, "us-east-1", "s3", at)
		if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature="+want) {
			t.Errorf("%s: %s", query, got)
		}
	}
}

// fake is a service like S3 that takes no request whose signature is wrong.
type fake struct {
	t       *testing.T
	secret  string
	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]map[int][]byte
	seen    []string // methods and paths
	busy    int      // requests to refuse with 503
}

func newFake(t *testing.T) (*fake, string) {
	t.Helper()
	f := &fake{t: t, secret: "se/cret", objects: map[string][]byte{}, uploads: map[string]map[int][]byte{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s.URL
}

// verify computes the signature anew from what arrived.
func (f *fake) verify(r *http.Request, body []byte) error {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return errors.New("no authorization")
	}
	parts := map[string]string{}
	for p := range strings.SplitSeq(auth, ", ") {
		k, v, _ := strings.Cut(p, "=")
		parts[k] = v
	}
	scope := strings.SplitN(parts["Credential"], "/", 2)[1]
	sum := sha256.Sum256(body)
	if have := r.Header.Get("x-amz-content-sha256"); have != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("content digest %s", have)
	}
	path, query, _ := strings.Cut(r.RequestURI, "?")
	var args []string
	for a := range strings.SplitSeq(query, "&") {
		if a != "" && !strings.Contains(a, "=") {
			a += "="
		}
		args = append(args, a)
	}
	slices.Sort(args)
	signed := strings.Split(parts["SignedHeaders"], ";")
	lines := r.Method + "\n" + path + "\n" + strings.Join(args, "&") + "\n"
	for _, h := range signed {
		v := r.Header.Get(h)
		if h == "host" {
			v = r.Host
		}
		lines += h + ":" + v + "\n"
	}
	for h := range r.Header {
		if h := strings.ToLower(h); strings.HasPrefix(h, "x-amz-") && !slices.Contains(signed, h) {
			return fmt.Errorf("%s is not signed", h)
		}
	}
	lines += "\n" + parts["SignedHeaders"] + "\n" + r.Header.Get("x-amz-content-sha256")
	hashed := sha256.Sum256([]byte(lines))
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("x-amz-date") + "\n" + scope + "\n" + hex.EncodeToString(hashed[:])
	key := []byte("AWS4" + f.secret)
	for p := range strings.SplitSeq(scope, "/") {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(p))
		key = h.Sum(nil)
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	if want := hex.EncodeToString(h.Sum(nil)); want != parts["Signature"] {
		return fmt.Errorf("signature of %q differs", lines)
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
	if f.busy > 0 {
		f.busy--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if err := f.verify(r, body); err != nil {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "<Error><Code>SignatureDoesNotMatch</Code><Message>%v</Message></Error>", err)
		return
	}
	key := r.URL.Path
	f.seen = append(f.seen, r.Method+" "+key)
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		id := strconv.Itoa(len(f.uploads) + 1)
		f.uploads[id] = map[int][]byte{}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case r.Method == http.MethodPut && q.Has("partNumber"):
		n, _ := strconv.Atoi(q.Get("partNumber"))
		f.uploads[q.Get("uploadId")][n] = body
		w.Header().Set("ETag", fmt.Sprintf("\"%x\"", sha256.Sum256(body)))
	case r.Method == http.MethodPost && q.Has("uploadId"):
		f.complete(w, key, f.uploads[q.Get("uploadId")], body)
		delete(f.uploads, q.Get("uploadId"))
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		delete(f.uploads, q.Get("uploadId"))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut && r.Header.Get("x-amz-copy-source") != "":
		from, _ := url.PathUnescape(r.Header.Get("x-amz-copy-source"))
		f.objects[key] = f.objects["/"+from]
		io.WriteString(w, "<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
	case r.Method == http.MethodPut:
		f.objects[key] = body
	default:
		b, ok := f.objects[key]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		http.ServeContent(w, r, "", time.Now().Add(-48*time.Hour), bytes.NewReader(b))
	}
}

func (f *fake) complete(w http.ResponseWriter, key string, parts map[int][]byte, body []byte) {
	var list struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &list); err != nil {
		f.t.Error(err)
	}
	var all []byte
	for i, p := range list.Part {
		if p.PartNumber != i+1 || p.ETag != fmt.Sprintf("\"%x\"", sha256.Sum256(parts[p.PartNumber])) {
			io.WriteString(w, "<Error><Code>InvalidPart</Code><Message>no such part</Message></Error>") // with status 200, as S3 does
			return
		}
		all = append(all, parts[p.PartNumber]...)
	}
	f.objects[key] = all
	io.WriteString(w, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
}

func bucket(t *testing.T, endpoint, secret string) *Bucket {
	t.Helper()
	b, err := New(Config{
		Bucket: "buck", Region: "eu-west-1", Endpoint: endpoint, PathStyle: true, Part: 1000,
		Credentials: func(context.Context) (Credentials, error) {
			return Credentials{AccessKeyID: "id", SecretAccessKey: secret, SessionToken: "tok/en"}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBucket(t *testing.T) {
	f, endpoint := newFake(t)
	b := bucket(t, endpoint, f.secret)
	ctx := t.Context()
	for name, size := range map[string]int{"blobs/sha256:abc": 500, "pre fix/ü+&=?#%/x": 10, "empty": 0, "large": 4500} {
		data := bytes.Repeat([]byte("x"), size)
		if _, _, err := b.Stat(ctx, name); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		f.busy = 1
		if err := b.Put(ctx, name, bytes.NewReader(data), int64(size)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		modified, n, err := b.Stat(ctx, name)
		if err != nil || n != int64(size) || time.Since(modified) < 24*time.Hour {
			t.Errorf("%s: %d bytes, %v, %v", name, n, modified, err)
		}
		got, err := b.Get(ctx, name, 10_000)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		ra, err := b.Open(ctx, name, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(content.NewReader(ra)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: opened: %d bytes, %v", name, len(got), err)
		}
		ra.Close()
		if err := b.Touch(ctx, name, int64(size)); err != nil {
			t.Errorf("touch %s: %v", name, err)
		}
		if !bytes.Equal(f.objects["/buck/"+name], data) {
			t.Errorf("%s is another after it was touched", name)
		}
	}
	if len(f.uploads) > 0 {
		t.Errorf("uploads left behind: %v", f.uploads)
	}
	_, err := bucket(t, endpoint, "wrong").Get(ctx, "empty", 1)
	if err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong secret: %v", err)
	}
}

// broken fails where a large object's second part begins.
type broken struct{}

func (broken) ReadAt(p []byte, off int64) (int, error) {
	if off >= 1000 {
		return 0, errors.New("disk on fire")
	}
	return len(p), nil
}

func TestUploadThatFailsIsAborted(t *testing.T) {
	f, endpoint := newFake(t)
	err := bucket(t, endpoint, f.secret).Put(t.Context(), "x", broken{}, 2500)
	if err == nil || !strings.Contains(err.Error(), "disk on fire") || len(f.uploads) > 0 || len(f.objects) > 0 {
		t.Errorf("%v; %d uploads, %d objects", err, len(f.uploads), len(f.objects))
	}
}

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		c    Config
		want string
	}{
		{Config{Bucket: "b", Region: "eu-west-1"}, "https://b.s3.eu-west-1.amazonaws.com/k"},
		{Config{Bucket: "b.c", Region: "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com/b.c/k"},
		{Config{Bucket: "b", Region: "cn-north-1"}, "https://b.s3.cn-north-1.amazonaws.com.cn/k"},
		{Config{Bucket: "b", Endpoint: "http://minio:9000/"}, "http://b.minio:9000/k"},
		{Config{Bucket: "b", Endpoint: "http://minio:9000", PathStyle: true}, "http://minio:9000/b/k"},
	} {
		b, err := New(c.c)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.newRequest(t.Context(), http.MethodGet, "k", nil, nil)
		if err != nil || r.URL.String() != c.want {
			t.Errorf("%s, %v, want %s", r.URL, err, c.want)
		}
	}
	if _, err := New(Config{Bucket: "b", Endpoint: "minio:9000"}); err == nil {
		t.Error("an endpoint that is no URL was taken")
	}
}

func TestChain(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	var asked int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		doc := func(name string) {
			fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":"s","Token":"t","Expiration":%q}`, name, time.Now().Add(time.Hour).Format(time.RFC3339))
		}
		switch r.URL.Path {
		case "/sts/":
			r.ParseForm()
			if r.Form.Get("WebIdentityToken") != "jwt" || r.Form.Get("RoleArn") != "arn" {
				w.WriteHeader(403)
			}
			io.WriteString(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>web</AccessKeyId><SecretAccessKey>s</SecretAccessKey>`+
				`<SessionToken>t</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
		case "/creds":
			if r.Header.Get("Authorization") != "bearer" {
				w.WriteHeader(403)
			}
			doc("container")
		case "/latest/api/token":
			io.WriteString(w, "imds")
		case "/latest/meta-data/iam/security-credentials/":
			io.WriteString(w, "role\n")
		case "/latest/meta-data/iam/security-credentials/role":
			if r.Header.Get("X-aws-ec2-metadata-token") != "imds" {
				w.WriteHeader(401)
			}
			doc("instance")
		default:
			w.WriteHeader(404)
		}
	}))
	defer s.Close()
	for want, env := range map[string]map[string]string{
		"env":       {"AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "s"},
		"default":   {"AWS_SHARED_CREDENTIALS_FILE": file("creds", "[default]\naws_access_key_id = default\naws_secret_access_key=s\n[other]\naws_access_key_id=other\naws_secret_access_key=s\n")},
		"other":     {"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "creds"), "AWS_PROFILE": "other"},
		"web":       {"AWS_WEB_IDENTITY_TOKEN_FILE": file("jwt", "jwt\n"), "AWS_ROLE_ARN": "arn"},
		"container": {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/creds", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "bearer"},
		"instance":  {},
	} {
		c := &Chain{Getenv: func(k string) string { return env[k] }, Instance: s.URL, Container: s.URL, STS: s.URL + "/sts/"}
		got, err := c.Credentials(t.Context())
		if err != nil || got.AccessKeyID != want || got.SecretAccessKey != "s" {
			t.Errorf("%s: %+v, %v", want, got, err)
		}
		before := asked
		if _, err := c.Credentials(t.Context()); err != nil || asked != before {
			t.Errorf("%s: credentials are not kept", want)
		}
	}
	none := &Chain{Getenv: func(k string) string { return map[string]string{"AWS_EC2_METADATA_DISABLED": "true"}[k] }}
	if _, err := none.Credentials(t.Context()); err == nil || !strings.Contains(err.Error(), "access_key_id") {
		t.Errorf("no credentials: %v", err)
	}
}

package http

import (
	"cmp"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/source"
	"github.com/buildd/buildd/worker/source/onefile"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// request is an http source op, read.
type request struct {
	url      *url.URL
	checksum digest.Digest
	// file's Name is what it is to be called; "" leaves it to the server.
	file       onefile.File
	authSecret string
	header     []field
	pubKey     []byte
	signature  []byte
}

type field struct{ Name, Value string }

func parse(r source.Request) (request, error) {
	var out request
	u, err := url.Parse(r.Identifier)
	if err != nil {
		return out, fmt.Errorf("source: %w", err)
	}
	if u.Host == "" {
		return out, fmt.Errorf("source %s: it has no host: want http[s]://HOST/PATH", u.Redacted())
	}
	out.url = u
	for k, v := range r.Attrs {
		if err := out.set(k, v); err != nil {
			return out, fmt.Errorf("source %s: %s %q: %w", u.Redacted(), k, v, err)
		}
	}
	if (len(out.pubKey) > 0) != (len(out.signature) > 0) {
		return out, fmt.Errorf("source %s: %s and %s go together", u.Redacted(), pb.AttrHTTPSignatureVerifyPubKey, pb.AttrHTTPSignatureVerify)
	}
	slices.SortFunc(out.header, func(a, b field) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (r *request) set(k, v string) error {
	var err error
	switch k {
	case pb.AttrHTTPChecksum:
		r.checksum, err = digest.Parse(v)
	case pb.AttrHTTPAuthHeaderSecret:
		r.authSecret = v
	case pb.AttrHTTPSignatureVerifyPubKey:
		r.pubKey = []byte(v)
	case pb.AttrHTTPSignatureVerify:
		r.signature = []byte(v)
	default:
		if ok, err := r.file.Set(k, v); ok {
			return err
		}
		// Others than these two are dropped, as in BuildKit.
		name, ok := strings.CutPrefix(k, pb.AttrHTTPHeaderPrefix)
		if name = http.CanonicalHeaderKey(name); ok && (name == "Accept" || name == "User-Agent") {
			r.header = append(r.header, field{name, v})
		}
	}
	return err
}

// id names what the server's answer and the file depend on, except for the
// answer itself.
func (r *request) id() string {
	b, _ := json.Marshal([]any{r.url.String(), r.file, r.checksum, r.authSecret, r.header}) // always marshals
	return cache.Hash("http request", b).String()[:32]
}

// key names the file: its name, metadata and content, and its time, which comes
// from the server.
func (r *request) key(f fetched) string {
	b, _ := json.Marshal([]any{f.Filename, r.file.Perm, r.file.UID, r.file.GID, f.Digest, f.LastModified}) // always marshals
	return cache.Hash("http", b).String()
}

// nameFor is the file's name: what was asked for, what the server says, or the
// last part of the URL.
func (r *request) nameFor(h http.Header) string {
	if r.file.Name != "" {
		return r.file.Name
	}
	if _, params, err := mime.ParseMediaType(h.Get("Content-Disposition")); err == nil {
		if n := params["filename"]; n != "" && !strings.HasSuffix(n, "/") {
			return onefile.SafeName(n)
		}
	}
	return onefile.SafeName(path.Base(r.url.Path))
}

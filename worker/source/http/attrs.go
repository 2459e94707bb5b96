package http

import (
	"cmp"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

const (
	defaultPerm = 0o600
	defaultName = "download"
)

// request is an http source op, read.
type request struct {
	url      *url.URL
	checksum digest.Digest
	// filename is what the file is to be called; "" leaves it to the server.
	filename   string
	perm       uint32
	uid, gid   uint32
	authSecret string
	header     []field
	pubKey     []byte
	signature  []byte
}

type field struct{ Name, Value string }

func parse(r source.Request) (request, error) {
	out := request{perm: defaultPerm}
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
	case pb.AttrHTTPFilename:
		r.filename = safeName(v)
	case pb.AttrHTTPPerm:
		r.perm, err = parseUint(v)
		if err == nil && r.perm > 0o7777 {
			err = fmt.Errorf("want at most 07777")
		}
		if r.perm == 0 {
			r.perm = defaultPerm
		}
	case pb.AttrHTTPUID:
		r.uid, err = parseUint(v)
	case pb.AttrHTTPGID:
		r.gid, err = parseUint(v)
	case pb.AttrHTTPAuthHeaderSecret:
		r.authSecret = v
	case pb.AttrHTTPSignatureVerifyPubKey:
		r.pubKey = []byte(v)
	case pb.AttrHTTPSignatureVerify:
		r.signature = []byte(v)
	default:
		// Others than these two are dropped, as in BuildKit.
		name, ok := strings.CutPrefix(k, pb.AttrHTTPHeaderPrefix)
		if name = http.CanonicalHeaderKey(name); ok && (name == "Accept" || name == "User-Agent") {
			r.header = append(r.header, field{name, v})
		}
	}
	return err
}

func parseUint(v string) (uint32, error) {
	n, err := strconv.ParseUint(v, 0, 32) // 0644 is octal
	return uint32(n), err
}

// id names what the server's answer and the file depend on, except for the
// answer itself.
func (r *request) id() string {
	b, _ := json.Marshal([]any{r.url.String(), r.filename, r.perm, r.uid, r.gid, r.checksum, r.authSecret, r.header}) // always marshals
	return cache.Hash("http request", b).String()[:32]
}

// key names the file: its name, metadata and content, and its time, which comes
// from the server.
func (r *request) key(f fetched) string {
	b, _ := json.Marshal([]any{f.Filename, r.perm, r.uid, r.gid, f.Digest, f.LastModified}) // always marshals
	return cache.Hash("http", b).String()
}

// nameFor is the file's name: what was asked for, what the server says, or the
// last part of the URL.
func (r *request) nameFor(h http.Header) string {
	if r.filename != "" {
		return r.filename
	}
	if _, params, err := mime.ParseMediaType(h.Get("Content-Disposition")); err == nil {
		if n := params["filename"]; n != "" && !strings.HasSuffix(n, "/") {
			return safeName(n)
		}
	}
	return safeName(path.Base(r.url.Path))
}

// safeName makes a name that stays in its directory.
func safeName(s string) string {
	s = filepath.Base(strings.TrimSpace(s))
	if s == "." || s == ".." || s == "/" || strings.ContainsFunc(s, unicode.IsControl) || len(s) > 255 {
		return defaultName
	}
	return s
}

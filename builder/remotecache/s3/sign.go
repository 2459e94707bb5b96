package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Credentials are those of AWS.
type Credentials struct {
	AccessKeyID, SecretAccessKey string
	// SessionToken is "" for credentials that do not expire.
	SessionToken string
	// Expires is zero for credentials that do not.
	Expires time.Time
}

const (
	headerDate    = "X-Amz-Date"
	headerContent = "X-Amz-Content-Sha256"
	headerToken   = "X-Amz-Security-Token"
	dateFormat    = "20060102T150405Z"
	algorithm     = "AWS4-HMAC-SHA256"
)

// emptyPayload is the digest of no bytes.
var emptyPayload = hexSum(nil)

// Sign signs a request with version 4 of AWS's signatures (Signature Version 4
// signing process, "Authorization header"). The digest of the body is in the
// header X-Amz-Content-Sha256 already, or the body is empty.
func Sign(r *http.Request, c Credentials, region, service string, now time.Time) {
	now = now.UTC()
	r.Header.Set(headerDate, now.Format(dateFormat))
	if r.Header.Get(headerContent) == "" {
		r.Header.Set(headerContent, emptyPayload)
	}
	r.Header.Del(headerToken)
	if c.SessionToken != "" {
		r.Header.Set(headerToken, c.SessionToken)
	}
	canonical, signed := canonicalRequest(r)
	day := now.Format("20060102")
	scope := strings.Join([]string{day, region, service, "aws4_request"}, "/")
	toSign := strings.Join([]string{algorithm, now.Format(dateFormat), scope, hexSum([]byte(canonical))}, "\n")
	key := []byte("AWS4" + c.SecretAccessKey)
	for _, part := range []string{day, region, service, "aws4_request", toSign} {
		key = mac(key, part)
	}
	r.Header.Set("Authorization", algorithm+" Credential="+c.AccessKeyID+"/"+scope+
		", SignedHeaders="+signed+", Signature="+hex.EncodeToString(key))
}

// canonicalRequest returns the form of a request that is signed, and which of its
// headers are in it.
func canonicalRequest(r *http.Request) (canonical, signed string) {
	headers := map[string]string{"host": r.URL.Host}
	for k, v := range r.Header {
		if k := strings.ToLower(k); strings.HasPrefix(k, "x-amz-") {
			headers[k] = strings.Join(strings.Fields(strings.Join(v, ",")), " ")
		}
	}
	var names []string
	for k := range headers {
		names = append(names, k)
	}
	slices.Sort(names)
	var lines strings.Builder
	for _, k := range names {
		lines.WriteString(k + ":" + headers[k] + "\n")
	}
	signed = strings.Join(names, ";")
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	return strings.Join([]string{
		r.Method, path, canonicalQuery(r.URL.Query()), lines.String(), signed, r.Header.Get(headerContent),
	}, "\n"), signed
}

func canonicalQuery(q url.Values) string {
	var out []string
	for k, vs := range q {
		for _, v := range vs {
			out = append(out, escape(k, false)+"="+escape(v, false))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "&")
}

// escape percent-encodes as AWS has it: all but the unreserved characters of RFC
// 3986, and in a path slashes.
func escape(s string, path bool) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0, c == '/' && path:
			b.WriteByte(c)
		default:
			b.WriteString("%" + string(hexDigits[c>>4]) + string(hexDigits[c&15]))
		}
	}
	return b.String()
}

func mac(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

func hexSum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

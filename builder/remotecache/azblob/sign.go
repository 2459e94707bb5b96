package azblob

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// apiVersion is that of the service's REST API.
const apiVersion = "2021-12-02"

const (
	headerDate    = "X-Ms-Date"
	headerVersion = "X-Ms-Version"
)

// Key is an account's name and one of its two keys.
type Key struct {
	Account string
	secret  []byte
}

// NewKey reads a key as Azure shows it, in base64.
func NewKey(account, secret string) (Key, error) {
	b, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		return Key{}, fmt.Errorf("key of account %s: want base64: %w", account, err)
	}
	return Key{account, b}, nil
}

// Sign signs a request (Azure Storage, "Authorize with Shared Key").
func (k Key) Sign(r *http.Request, now time.Time) {
	r.Header.Set(headerDate, now.UTC().Format(http.TimeFormat))
	r.Header.Set("Authorization", "SharedKey "+k.Account+":"+k.signature(stringToSign(r, k.Account)))
}

func (k Key) signature(s string) string {
	h := hmac.New(sha256.New, k.secret)
	h.Write([]byte(s))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func stringToSign(r *http.Request, account string) string {
	length := ""
	if r.ContentLength > 0 {
		length = strconv.FormatInt(r.ContentLength, 10)
	}
	h := r.Header
	lines := []string{
		r.Method, h.Get("Content-Encoding"), h.Get("Content-Language"), length, h.Get("Content-MD5"), h.Get("Content-Type"),
		"", // the date is in x-ms-date
		h.Get("If-Modified-Since"), h.Get("If-Match"), h.Get("If-None-Match"), h.Get("If-Unmodified-Since"), h.Get("Range"),
	}
	return strings.Join(lines, "\n") + "\n" + canonicalHeaders(h) + canonicalResource(r.URL, account)
}

func canonicalHeaders(h http.Header) string {
	var lines []string
	for k, v := range h {
		if k := strings.ToLower(k); strings.HasPrefix(k, "x-ms-") {
			lines = append(lines, k+":"+strings.Join(v, ",")+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func canonicalResource(u *url.URL, account string) string {
	out := "/" + account + u.EscapedPath()
	q := u.Query()
	var names []string
	for k := range q {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		slices.Sort(q[k])
		out += "\n" + strings.ToLower(k) + ":" + strings.Join(q[k], ",")
	}
	return out
}

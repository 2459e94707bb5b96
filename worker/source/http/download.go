package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source/onefile"
)

const (
	maxRedirects = 10
	userAgent    = "buildd buildkit/v0.34" // servers and proxies have rules for BuildKit

	// Secrets that authorize requests to a host without being asked for.
	headerSecret = "HTTP_AUTH_HEADER_"
	tokenSecret  = "HTTP_AUTH_TOKEN_"
)

// download gets the URL, unless the server says that it is still as known says.
func (s *Source) download(ctx context.Context, c session.Client, req request, known *answer, progress func(solver.Status)) (fetched, answer, error) {
	if req.url.Host == session.UploadHost {
		f, err := s.save(ctx, req, nil, func(w io.Writer) error {
			_, err := session.Upload(ctx, c, req.url, w)
			return err
		}, progress)
		return f, answer{}, err
	}
	resp, err := s.get(ctx, c, req, known)
	if err != nil {
		return fetched{}, answer{}, err
	}
	defer resp.Body.Close()
	if known != nil && unchanged(resp, known) {
		return s.still(*known), *known, nil
	}
	if resp.StatusCode != http.StatusOK {
		return fetched{}, answer{}, fmt.Errorf("get %s: %s: check the URL", req.url.Redacted(), resp.Status)
	}
	if limit := s.maker().Limit(); resp.ContentLength > limit {
		return fetched{}, answer{}, fmt.Errorf("get %s: %w: %d bytes, the limit is %d", req.url.Redacted(), onefile.ErrTooLarge, resp.ContentLength, limit)
	}
	f, err := s.save(ctx, req, resp.Header, func(w io.Writer) error {
		_, err := io.Copy(w, resp.Body)
		return err
	}, progress)
	if err != nil {
		return fetched{}, answer{}, err
	}
	return f, answer{fetched: f, ETag: etag(resp.Header), Used: time.Now()}, nil
}

// still is what a known answer means now.
func (s *Source) still(a answer) fetched {
	f := a.fetched
	if !s.c.Trees.Has(f.Tree) {
		f.Tree = ""
	}
	return f
}

// unchanged tells whether a response says that what is known is still true.
// Servers that ignore If-None-Match still send the same ETag.
func unchanged(resp *http.Response, known *answer) bool {
	if resp.StatusCode == http.StatusNotModified {
		return true
	}
	return resp.StatusCode == http.StatusOK && known.ETag != "" && etag(resp.Header) == known.ETag
}

// etag returns the entity tag, a weak one like a strong one.
func etag(h http.Header) string { return strings.TrimPrefix(h.Get("ETag"), "W/") }

// get asks for the URL. With an ETag it asks for the headers only, first: many
// servers send the whole file again whatever If-None-Match says.
func (s *Source) get(ctx context.Context, c session.Client, req request, known *answer) (*http.Response, error) {
	r, err := s.newRequest(ctx, c, req)
	if err != nil {
		return nil, err
	}
	if known != nil {
		switch {
		case known.ETag != "":
			r.Header.Set("If-None-Match", known.ETag)
		case known.LastModified != "":
			r.Header.Set("If-Modified-Since", known.LastModified)
		}
	}
	client := &http.Client{Transport: s.c.Transport, CheckRedirect: checkRedirect}
	if known != nil && known.ETag != "" {
		head := r.Clone(ctx)
		head.Method = http.MethodHead
		// As the GET has it, because the ETag may be that of an encoding.
		head.Header.Set("Accept-Encoding", "gzip")
		resp, err := client.Do(head)
		if err == nil && unchanged(resp, known) {
			return resp, nil
		}
		if err == nil {
			resp.Body.Close()
		}
	}
	resp, err := client.Do(r)
	if err == nil {
		return resp, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("get %s: %w", req.url.Redacted(), context.Cause(ctx))
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
		if shown := req.url.Redacted(); ue.URL != shown && ue.URL != req.url.String() {
			err = fmt.Errorf("redirected to %s: %w", ue.URL, err)
		}
	}
	return nil, fmt.Errorf("get %s: %w: check the URL and the network", req.url.Redacted(), err)
}

func (s *Source) newRequest(ctx context.Context, c session.Client, req request) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, req.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", req.url.Redacted(), err)
	}
	r.Header.Set("User-Agent", userAgent)
	for _, f := range req.header {
		r.Header.Set(f.Name, f.Value)
	}
	return r, authorize(ctx, c, req, r)
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	if r.URL.Host == session.UploadHost {
		return errors.New("redirected to what only a client can name")
	}
	return nil
}

// authorize adds the secret that the request names, or those that clients may
// have for its host.
func authorize(ctx context.Context, c session.Client, req request, r *http.Request) error {
	if req.authSecret != "" {
		v, err := session.Secret(ctx, c, req.authSecret)
		if err != nil {
			return fmt.Errorf("authorize %s: %w", req.url.Redacted(), err)
		}
		r.Header.Set("Authorization", strings.TrimSpace(string(v)))
		return nil
	}
	token, header := tokenSecret+req.url.Hostname(), headerSecret+req.url.Hostname()
	id, v, err := session.FirstSecret(ctx, c, token, header)
	if err != nil {
		return fmt.Errorf("authorize %s: %w", req.url.Redacted(), err)
	}
	switch id {
	case token:
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(v)))
	case header:
		r.Header.Set("Authorization", strings.TrimSpace(string(v)))
	}
	return nil
}

// save makes a tree with the one file that copyTo writes.
func (s *Source) save(ctx context.Context, req request, h http.Header, copyTo func(io.Writer) error, progress func(solver.Status)) (fetched, error) {
	f := fetched{Filename: req.nameFor(h), LastModified: h.Get("Last-Modified")}
	if _, err := http.ParseTime(f.LastModified); err != nil || req.checksum != "" {
		f.LastModified = ""
	}
	file := req.file
	file.Name, file.ModTime = f.Filename, f.modTime()
	var err error
	f.Tree, f.Digest, err = s.maker().Make(ctx, file, copyTo, progress)
	if err != nil {
		return fetched{}, fmt.Errorf("save %s: %w", req.url.Redacted(), err)
	}
	return f, nil
}

func (s *Source) maker() onefile.Maker {
	return onefile.Maker{Trees: s.c.Trees, MaxSize: s.c.MaxSize, IgnoreOwner: s.c.IgnoreOwner}
}

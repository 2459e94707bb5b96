package http

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	cdigest "github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	maxRedirects = 10
	userAgent    = "buildd buildkit/v0.34" // servers and proxies have rules for BuildKit
	reportEvery  = 100 * time.Millisecond

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
		f := known.fetched
		if !s.c.Trees.Has(f.Tree) {
			f.Tree = ""
		}
		return f, *known, nil
	}
	if resp.StatusCode != http.StatusOK {
		return fetched{}, answer{}, fmt.Errorf("get %s: %s: check the URL", req.url.Redacted(), resp.Status)
	}
	if resp.ContentLength > s.c.MaxSize {
		return fetched{}, answer{}, fmt.Errorf("get %s: %w: %d bytes, the limit is %d", req.url.Redacted(), errTooLarge, resp.ContentLength, s.c.MaxSize)
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

func (s *Source) get(ctx context.Context, c session.Client, req request, known *answer) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, req.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", req.url.Redacted(), err)
	}
	r.Header.Set("User-Agent", userAgent)
	for _, f := range req.header {
		r.Header.Set(f.Name, f.Value)
	}
	if err := authorize(ctx, c, req, r); err != nil {
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
	resp, err := client.Do(r)
	if err != nil {
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
	return resp, nil
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
	d, err := s.c.Trees.NewDraft(ctx, "")
	if err != nil {
		return fetched{}, fmt.Errorf("save %s: %w", req.url.Redacted(), err)
	}
	committed := false
	defer func() {
		if !committed {
			d.Discard()
		}
	}()
	e := cdigest.Entry{Path: f.Filename, Mode: unix.S_IFREG | req.perm, UID: req.uid, GID: req.gid, ModTime: f.modTime()}
	if err := s.write(ctx, d, &e, copyTo, progress); err != nil {
		return fetched{}, fmt.Errorf("save %s: %w", req.url.Redacted(), err)
	}
	var b cdigest.Builder
	b.Add(e)
	idx, err := b.Index()
	if err != nil {
		return fetched{}, fmt.Errorf("save %s: %w", req.url.Redacted(), err)
	}
	f.Digest = digest.NewDigestFromBytes(digest.SHA256, e.Hash[:])
	if f.Tree, err = d.Commit(ctx, idx); err != nil {
		return fetched{}, fmt.Errorf("save %s: %w", req.url.Redacted(), err)
	}
	committed = true
	return f, nil
}

// write fills in e's size and hash.
func (s *Source) write(ctx context.Context, d *tree.Draft, e *cdigest.Entry, copyTo func(io.Writer) error, progress func(solver.Status)) error {
	out, err := os.OpenFile(filepath.Join(d.Dir, e.Path), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	m := &meter{ctx: ctx, limit: s.c.MaxSize, report: progress, status: solver.Status{ID: "downloading " + e.Path, Started: time.Now()}}
	err = copyTo(io.MultiWriter(m, out, h))
	m.finish()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	e.Size = m.status.Current
	h.Sum(e.Hash[:0])
	if err := s.setAttrs(out, *e); err != nil {
		return err
	}
	return out.Close()
}

func (s *Source) setAttrs(f *os.File, e cdigest.Entry) error {
	err := f.Chown(int(e.UID), int(e.GID))
	if err != nil && s.c.IgnoreOwner {
		err = unix.Fsetxattr(int(f.Fd()), cdigest.OwnerXattr, []byte(cdigest.FormatOwner(e.UID, e.GID)), 0)
	}
	if err != nil {
		return fmt.Errorf("set owner %d:%d: %w", e.UID, e.GID, err)
	}
	if err := unix.Fchmod(int(f.Fd()), e.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode %o: %w", e.Mode&0o7777, err)
	}
	return os.Chtimes(f.Name(), e.ModTime, e.ModTime)
}

// meter counts what is written, reports it, and ends what is too large or
// unwanted.
type meter struct {
	ctx    context.Context // of the one download that it is made for
	limit  int64
	report func(solver.Status)
	status solver.Status
	last   time.Time
}

func (m *meter) Write(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, context.Cause(m.ctx)
	}
	m.status.Current += int64(len(p))
	if m.status.Current > m.limit {
		return 0, fmt.Errorf("%w: the limit is %d bytes", errTooLarge, m.limit)
	}
	if m.report != nil && time.Since(m.last) >= reportEvery {
		m.last = time.Now()
		m.report(m.status)
	}
	return len(p), nil
}

func (m *meter) finish() {
	if m.report != nil {
		m.status.Completed = time.Now()
		m.report(m.status)
	}
}

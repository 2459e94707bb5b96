package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Uploader sends blobs to one repository whose size and digest are not known yet.
//
// It uses the upload in one stream that docker push does: POST, PATCH with a
// body of unknown length, PUT with the digest (distribution-spec, "Pushing a blob
// in chunks"; the stream is one chunk). Not every registry takes that, and
// nothing is tried twice, so whoever calls it must be ready to push the blob in
// another way. containerd's pusher, which is that way, wants the digest first.
type Uploader struct {
	hosts  *Hosts
	ref    reference.Spec
	host   docker.RegistryHost
	client *http.Client
}

// Growing is a blob that is still being made.
type Growing interface {
	// Open returns a reader from the beginning, which waits for bytes.
	Open(ctx context.Context) (io.ReadCloser, error)
	// End waits until all bytes are there and describes them. When ctx has ended
	// it does not wait.
	End(ctx context.Context) (ocispecs.Descriptor, error)
}

var (
	errElsewhere = errors.New("the registry wants the upload to go to another host")
	errHasBlob   = errors.New("the registry has the blob")
	errNoStreams = errors.New("the registry did not take an upload of unknown length")
	errNotYet    = errors.New("the blob is still being made")
)

// noStreamsTime is for how long a registry that failed to take a stream gets no
// other one: its layers would be sent twice with each push.
const noStreamsTime = time.Hour

// maxLocation is how long an upload's URL may be; some carry a state of theirs.
const maxLocation = 16 << 10

// cancelTime is how long a registry may take to forget an upload. Builds wait
// for it.
const cancelTime = 3 * time.Second

// Uploader returns what uploads to the repository of ref. It is an error if the
// registry has lately shown that it does not take such uploads.
func (r *Resolver) Uploader(ctx context.Context, ref string) (*Uploader, error) {
	ref, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	spec, err := reference.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w", ref, err)
	}
	hosts, err := r.registry(spec.Hostname())
	if err != nil {
		return nil, explain(ctx, "push", ref, err)
	}
	for _, h := range hosts {
		if !h.Capabilities.Has(docker.HostCapabilityPush) {
			continue
		}
		if r.h.refusesStreams(h.Host) {
			return nil, fmt.Errorf("push %s: %w", ref, errNoStreams)
		}
		c := *h.Client
		// Where a redirect leads to is not known to be the registry.
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		return &Uploader{hosts: r.h, ref: spec, host: h, client: &c}, nil
	}
	return nil, fmt.Errorf("push %s: %w: no host takes pushes", ref, errdefs.ErrNotFound)
}

// Upload sends b while it grows. When it fails, or finds that the registry has
// the blob already, it cancels the upload, as far as the registry lets it.
func (u *Uploader) Upload(ctx context.Context, b Growing) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("upload to %s: %w", u.ref.Locator, err)
		}
	}()
	ctx, err = docker.ContextWithRepositoryScope(ctx, u.ref, true)
	if err != nil {
		return err
	}
	resp, err := u.do(ctx, http.MethodPost, u.url("uploads/"), nil)
	if err != nil {
		return err
	}
	if err := want(resp, http.StatusAccepted); err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil && !errors.Is(err, errHasBlob) && !failed(ctx, b) {
			u.hosts.refuseStreams(u.host.Host)
		}
	}()
	at, err := location(resp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			u.cancel(ctx, at)
		}
	}()
	if resp, err = u.send(ctx, at, b); err != nil {
		return err
	}
	if resp.Header.Get("Location") != "" {
		next, err := location(resp)
		if err != nil {
			return err
		}
		at = next
	}
	return u.commit(ctx, at, b)
}

// failed tells whether b will never be complete.
func failed(ctx context.Context, b Growing) bool {
	now, cancel := context.WithCancelCause(ctx)
	cancel(errNotYet) // do not wait
	_, err := b.End(now)
	return err != nil && !errors.Is(err, errNotYet)
}

// send sends the bytes of b to at. While the last ones are on their way it asks
// whether the registry has them already, which may spare the rest.
func (u *Uploader) send(ctx context.Context, at *url.URL, b Growing) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		desc, err := b.End(ctx)
		if err == nil && u.has(ctx, desc.Digest) {
			cancel(errHasBlob)
		}
	}()
	var body *sentBody
	resp, err := u.do(ctx, http.MethodPatch, at, func() (io.ReadCloser, error) {
		rc, err := b.Open(ctx)
		if err != nil {
			return nil, err
		}
		body = &sentBody{ReadCloser: rc}
		return body, nil
	})
	cause := context.Cause(ctx)
	cancel(nil) // also ends the reading of a body that was refused
	<-asked
	switch {
	case err != nil && errors.Is(cause, errHasBlob):
		return nil, errHasBlob
	case err != nil:
		return nil, err
	case !body.whole.Load() && resp.StatusCode < 300:
		return nil, errors.New("the registry answered before it had the blob")
	}
	return resp, want(resp, http.StatusAccepted, http.StatusNoContent, http.StatusOK, http.StatusCreated)
}

// commit gives the upload its name.
func (u *Uploader) commit(ctx context.Context, at *url.URL, b Growing) error {
	desc, err := b.End(ctx)
	if err != nil {
		return err
	}
	to := *at
	q := to.Query()
	q.Set("digest", desc.Digest.String())
	to.RawQuery = q.Encode()
	resp, err := u.do(ctx, http.MethodPut, &to, nil)
	if err != nil {
		return err
	}
	if err := want(resp, http.StatusCreated, http.StatusOK, http.StatusNoContent, http.StatusAccepted); err != nil {
		return err
	}
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != desc.Digest.String() {
		return fmt.Errorf("the registry has digest %.100q for %s", got, desc.Digest)
	}
	return nil
}

// has tells whether the registry says that it has a blob. One that says where
// else the blob is has it, too; being wrong costs time only.
func (u *Uploader) has(ctx context.Context, d digest.Digest) bool {
	resp, err := u.do(ctx, http.MethodHead, u.url(d.String()), nil)
	return err == nil && resp.StatusCode < 400
}

// cancel asks the registry to forget an upload. Registries forget by themselves
// what is not finished, so it is not looked at whether it does.
func (u *Uploader) cancel(ctx context.Context, at *url.URL) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	_, _ = u.do(ctx, http.MethodDelete, at, nil)
}

func (u *Uploader) url(name string) *url.URL {
	repo := strings.TrimPrefix(u.ref.Locator, u.ref.Hostname()+"/")
	return &url.URL{Scheme: u.host.Scheme, Host: u.host.Host, Path: u.host.Path + "/" + repo + "/blobs/" + name}
}

// maxChallenges is how often a request may be refused for want of
// authorization: without any, and with a token that has expired.
const maxChallenges = 2

// do sends a request as the registry wants it authorized. The response's body is
// closed; nothing of it is read.
func (u *Uploader) do(ctx context.Context, method string, to *url.URL, body func() (io.ReadCloser, error)) (*http.Response, error) {
	var refused []*http.Response
	for {
		resp, err := u.once(ctx, method, to, body)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized || u.host.Authorizer == nil || len(refused) == maxChallenges {
			return resp, nil
		}
		refused = append(refused, resp)
		if err := u.host.Authorizer.AddResponses(ctx, refused); err != nil {
			return nil, err
		}
	}
}

func (u *Uploader) once(ctx context.Context, method string, to *url.URL, body func() (io.ReadCloser, error)) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, to.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header = u.host.Header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if u.host.Authorizer != nil {
		if err := u.host.Authorizer.Authorize(ctx, r); err != nil {
			return nil, err
		}
	}
	if body != nil {
		if r.Body, err = body(); err != nil {
			return nil, err
		}
		r.GetBody, r.ContentLength = nil, -1
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := u.client.Do(r)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return resp, nil
}

// location is where an upload goes on. Only the origin that answered is accepted:
// it is what the credentials are for, and what the user named.
func location(resp *http.Response) (*url.URL, error) {
	l := resp.Header.Get("Location")
	if l == "" || len(l) > maxLocation {
		return nil, fmt.Errorf("%s: no usable Location, a string of %d bytes", resp.Status, len(l))
	}
	from := resp.Request.URL
	to, err := from.Parse(l)
	if err != nil {
		return nil, fmt.Errorf("location of the upload: %w", err)
	}
	if to.Scheme != from.Scheme || to.Host != from.Host || to.User != nil {
		return nil, errElsewhere
	}
	return to, nil
}

func want(resp *http.Response, status ...int) error {
	for _, s := range status {
		if resp.StatusCode == s {
			return nil
		}
	}
	return fmt.Errorf("%s %s: unexpected status %.100q", resp.Request.Method, resp.Request.URL.Path, resp.Status)
}

// sentBody notes whether all of a request's body was read.
type sentBody struct {
	io.ReadCloser
	whole atomic.Bool
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.whole.Store(true)
	}
	return n, err
}

// WriteTo keeps that of the reader.
func (b *sentBody) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, b.ReadCloser)
	if err == nil {
		b.whole.Store(true)
	}
	return n, err
}

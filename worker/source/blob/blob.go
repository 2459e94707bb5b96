// Package blob is the source docker-image+blob://REPOSITORY@DIGEST and
// oci-layout+blob://STORE@DIGEST: a tree with one file, the bytes of a blob in a
// registry or in a client's OCI layout.
package blob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/buildd/buildd/worker/source/onefile"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Schemes of the identifiers.
const (
	RegistryScheme = "docker-image+blob"
	LayoutScheme   = "oci-layout+blob"
)

// Source is the source of blobs.
type Source struct {
	maker onefile.Maker
	hosts *registry.Hosts
}

// New returns a Source.
func New(m onefile.Maker, h *registry.Hosts) *Source { return &Source{maker: m, hosts: h} }

// Schemes are those of registries and of layouts.
func (s *Source) Schemes() []string { return []string{RegistryScheme, LayoutScheme} }

// request is a blob source op, read.
type request struct {
	id      string
	ref     string // in a registry; "" is in a layout
	store   string
	session string
	digest  digest.Digest
	file    onefile.File
}

func parse(r source.Request) (request, error) {
	named, err := reference.ParseNormalizedNamed(r.Ref())
	if err != nil {
		return request{}, fmt.Errorf("source %s: %w: want NAME@sha256:DIGEST", r.Identifier, err)
	}
	d, ok := named.(reference.Digested)
	if !ok {
		return request{}, fmt.Errorf("source %s: it has no digest: want NAME@sha256:DIGEST", r.Identifier)
	}
	out := request{id: r.Identifier, digest: d.Digest()}
	for k, v := range r.Attrs {
		switch k {
		case pb.AttrOCILayoutSessionID:
			out.session = v
		case pb.AttrOCILayoutStoreID:
			out.store = v
		default:
			if _, err := out.file.Set(k, v); err != nil {
				return request{}, fmt.Errorf("source %s: %s %q: %w", r.Identifier, k, v, err)
			}
		}
	}
	switch r.Scheme() {
	case RegistryScheme:
		out.ref = named.String()
	case LayoutScheme:
		if out.store == "" {
			out.store, _, _ = strings.Cut(r.Ref(), "@")
		}
	default:
		return request{}, fmt.Errorf("source %s: want %s:// or %s://", r.Identifier, RegistryScheme, LayoutScheme)
	}
	if out.file.Name == "" {
		out.file.Name = out.digest.Encoded()
	}
	return out, nil
}

// Pin needs to ask nobody.
func (s *Source) Pin(_ context.Context, _ session.Client, r source.Request) (source.Pin, error) {
	req, err := parse(r)
	if err != nil {
		return source.Pin{}, err
	}
	b, err := json.Marshal([]any{req.digest, req.file})
	if err != nil {
		return source.Pin{}, fmt.Errorf("source %s: %w", r.Identifier, err)
	}
	return source.Pin{Request: r, Key: cache.Hash("blob", b).String(), Resolved: req.digest.String()}, nil
}

// Fetch fetches and verifies the blob.
func (s *Source) Fetch(ctx context.Context, c session.Client, p source.Pin, progress func(solver.Status)) (cache.Tree, error) {
	req, err := parse(p.Request)
	if err != nil {
		return "", err
	}
	t, _, err := s.maker.Make(ctx, req.file, func(w io.Writer) error { return s.copy(ctx, c, req, w) }, progress)
	if err != nil {
		return "", fmt.Errorf("source %s: %w", req.id, err)
	}
	return t, nil
}

// Save writes the verified blob to the file path.
func (s *Source) Save(ctx context.Context, c session.Client, r source.Request, path string) error {
	req, err := parse(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("source %s: %w", req.id, err)
	}
	if err := errors.Join(s.copy(ctx, c, req, f), f.Close()); err != nil {
		return fmt.Errorf("source %s: %w", req.id, err)
	}
	return nil
}

// copy copies the blob to w. If it fails, w may have got wrong bytes.
func (s *Source) copy(ctx context.Context, c session.Client, req request, w io.Writer) error {
	rc, err := s.open(ctx, c, req)
	if err != nil {
		return err
	}
	defer rc.Close()
	v := req.digest.Verifier()
	if _, err := io.Copy(io.MultiWriter(w, v), rc); err != nil {
		return err
	}
	if !v.Verified() {
		return fmt.Errorf("its content does not have the digest %s", req.digest)
	}
	return nil
}

func (s *Source) open(ctx context.Context, c session.Client, req request) (io.ReadCloser, error) {
	if req.ref != "" {
		return s.hosts.Open(ctx, c, req.ref, req.digest)
	}
	store, err := session.OCIStore(ctx, c, req.session, req.store, req.digest)
	if err != nil {
		return nil, fmt.Errorf("%w: pass --oci-layout %s=DIR", err, req.store)
	}
	info, err := store.Info(ctx, req.digest)
	if err != nil {
		return nil, err
	}
	ra, err := store.ReaderAt(ctx, ocispecs.Descriptor{Digest: req.digest, Size: info.Size})
	if err != nil {
		return nil, err
	}
	return &readCloser{Reader: content.NewReader(ra), Closer: ra}, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

package http

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/buildd/buildd/worker/source/signature"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/opencontainers/go-digest"
)

// maxSuffix bounds what a checksum request may add to the file's bytes.
const maxSuffix = 4 << 10

// Describe returns the digest, name and time, and a checksum of another kind if
// asked to.
func (s *Source) Describe(ctx context.Context, c session.Client, r source.Request, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	req, err := parse(r)
	if err != nil {
		return nil, err
	}
	f, err := s.resolve(ctx, c, req, r)
	if err != nil {
		return nil, err
	}
	out := &sourceresolver.ResolveHTTPResponse{Digest: f.Digest, Filename: f.Filename}
	if f.LastModified != "" {
		t := f.modTime()
		out.LastModified = &t
	}
	if o.HTTPOpt != nil && o.HTTPOpt.ChecksumReq != nil {
		if out.ChecksumResponse, err = s.checksum(ctx, c, req, f, *o.HTTPOpt.ChecksumReq, r.Progress); err != nil {
			return nil, err
		}
	}
	return &sourceresolver.MetaResponse{Op: r.Op(), HTTP: out}, nil
}

func (s *Source) checksum(ctx context.Context, c session.Client, req request, f fetched, want sourceresolver.ResolveHTTPChecksumRequest, progress func(solver.Status)) (*sourceresolver.ResolveHTTPChecksumResponse, error) {
	algorithms := map[sourceresolver.ResolveHTTPChecksumAlgo]digest.Algorithm{
		sourceresolver.ResolveHTTPChecksumAlgoSHA256: digest.SHA256,
		sourceresolver.ResolveHTTPChecksumAlgoSHA384: digest.SHA384,
		sourceresolver.ResolveHTTPChecksumAlgoSHA512: digest.SHA512,
	}
	alg, ok := algorithms[want.Algo]
	if !ok {
		return nil, fmt.Errorf("checksum of %s: algorithm %d is not known", req.url.Redacted(), want.Algo)
	}
	if len(want.Suffix) > maxSuffix {
		return nil, fmt.Errorf("checksum of %s: a suffix of %d bytes is more than %d", req.url.Redacted(), len(want.Suffix), maxSuffix)
	}
	f, err := s.materialize(ctx, c, req, f, progress)
	if err != nil {
		return nil, err
	}
	file, err := s.open(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("checksum of %s: %w", req.url.Redacted(), err)
	}
	defer file.Close()
	d := alg.Digester()
	if _, err := io.Copy(d.Hash(), file); err != nil {
		return nil, fmt.Errorf("checksum of %s: %w", req.url.Redacted(), err)
	}
	d.Hash().Write(want.Suffix)
	return &sourceresolver.ResolveHTTPChecksumResponse{Digest: d.Digest().String(), Suffix: slices.Clone(want.Suffix)}, nil
}

func (s *Source) open(ctx context.Context, f fetched) (*os.File, error) {
	v, err := s.c.Trees.Files(ctx, f.Tree)
	if err != nil {
		return nil, err
	}
	return v.Open("/" + f.Filename)
}

func (s *Source) verifySignature(ctx context.Context, req request, f fetched) error {
	file, err := s.open(ctx, f)
	if err != nil {
		return fmt.Errorf("verify signature of %s: %w", req.url.Redacted(), err)
	}
	defer file.Close()
	if err := signature.VerifyPGP(file, req.signature, req.pubKey, signature.Policy{}); err != nil {
		return fmt.Errorf("verify signature of %s: %w", req.url.Redacted(), err)
	}
	return nil
}

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	annotationPredicate = "in-toto.io/predicate-type"
	maxAttestation      = 64 << 20

	// Artifact types of signatures, the preferred one first.
	typeSigstoreBundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
	typeCosign         = "application/vnd.dev.cosign.artifact.sig.v1+json"
)

// attestations returns what proves where an image comes from: its index, the
// attestation manifest, that one's signature, and the attestations with one of
// the predicate types. nil: the image has no index, so nothing can be attached
// to it.
func (s *Source) attestations(ctx context.Context, c session.Client, r *Resolved, predicates []string) (*sourceresolver.AttestationChain, error) {
	if r.Root.Digest == r.Manifest.Digest {
		return nil, nil
	}
	named, err := parse(r.Ref)
	if err != nil {
		return nil, err
	}
	w := &attestationWalk{
		l:   &lookup{s: s, client: c, named: named},
		out: &sourceresolver.AttestationChain{Root: r.Root.Digest, ImageManifest: r.Manifest.Digest, Blobs: map[digest.Digest]sourceresolver.Blob{}},
	}
	if _, err := w.add(ctx, r.Root); err != nil {
		return nil, err
	}
	if r.Attestation == nil {
		return w.out, nil
	}
	w.out.AttestationManifest = r.Attestation.Digest
	data, err := w.add(ctx, *r.Attestation)
	if err != nil {
		return nil, err
	}
	if err := w.addLayers(ctx, data, func(d ocispecs.Descriptor) bool {
		return slices.Contains(predicates, d.Annotations[annotationPredicate])
	}); err != nil {
		return nil, err
	}
	return w.out, w.addSignature(ctx, r.Attestation.Digest)
}

type attestationWalk struct {
	l   *lookup
	out *sourceresolver.AttestationChain
}

func (w *attestationWalk) add(ctx context.Context, d ocispecs.Descriptor) ([]byte, error) {
	data, err := w.l.get(ctx, d, maxAttestation)
	if err != nil {
		return nil, err
	}
	w.out.Blobs[d.Digest] = sourceresolver.Blob{Descriptor: d, Data: data}
	return data, nil
}

// addLayers adds those layers of a manifest that want picks.
func (w *attestationWalk) addLayers(ctx context.Context, manifest []byte, want func(ocispecs.Descriptor) bool) error {
	var m ocispecs.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return fmt.Errorf("parse manifest: %w", err)
	}
	for _, d := range m.Layers {
		if !want(d) {
			continue
		}
		if _, err := w.add(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// addSignature adds the signature of a manifest if its registry lists one.
func (w *attestationWalk) addSignature(ctx context.Context, of digest.Digest) error {
	refs, err := w.referrers(ctx, of)
	if err != nil {
		return err
	}
	for _, t := range []string{typeSigstoreBundle, typeCosign} {
		i := slices.IndexFunc(refs, func(d ocispecs.Descriptor) bool { return d.ArtifactType == t })
		if i < 0 {
			continue
		}
		w.out.SignatureManifests = []digest.Digest{refs[i].Digest}
		data, err := w.add(ctx, refs[i])
		if err != nil {
			return err
		}
		return w.addLayers(ctx, data, func(ocispecs.Descriptor) bool { return true })
	}
	return nil
}

func (w *attestationWalk) referrers(ctx context.Context, of digest.Digest) ([]ocispecs.Descriptor, error) {
	f, err := w.l.resolver().Fetcher(ctx, w.l.ref())
	if err != nil {
		return nil, err
	}
	rf, ok := f.(remotes.ReferrersFetcher)
	if !ok {
		return nil, errNoReferrers
	}
	refs, err := rf.FetchReferrers(ctx, of)
	if err != nil {
		return nil, fmt.Errorf("list referrers of %s: %w", of, err)
	}
	return refs, nil
}

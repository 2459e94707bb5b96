package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	godigest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Metadata keys of attestations (BuildKit's, which frontends set).
const (
	// AttestationInlineOnly is "true" for what only makes sense beside an image
	// in a registry, such as a provenance that nobody asked for.
	AttestationInlineOnly = "inline-only"
	// AttestationSBOMCore names the SBOM that describes the image itself.
	AttestationSBOMCore = "sbom-core"
)

// maxAttestation is the most bytes of one attestation.
const maxAttestation = 80 << 20

// provenanceTypes begin the predicate types that only the daemon may state.
const provenanceTypes = "https://slsa.dev/provenance/"

// Attestation is a statement about the outcome for one platform, or a bundle: a
// directory of such statements.
type Attestation struct {
	Kind     gatewaypb.AttestationKind
	Metadata map[string][]byte
	// Path names the attestation. If Content is nil it is also where its bytes
	// lie in Tree.
	Path string
	Tree *cache.Tree
	// Content returns the predicate. Attestations of a frontend have none.
	Content func(context.Context) ([]byte, error)

	PredicateType string
	// Subjects are what the statement is about; none means the outcome itself.
	Subjects []Subject
}

// Subject is what a statement is about.
type Subject struct {
	Kind   gatewaypb.InTotoSubjectKind
	Name   string
	Digest []godigest.Digest
}

// attestations returns those that an image is exported with, by platform.
func (o imageOptions) attestations(in Input) map[string][]Attestation {
	out := map[string][]Attestation{}
	index := in.Multi || o.inlineOnly
	for _, p := range in.Platforms {
		if list := in.Attestations[p.ID]; len(list) > 0 {
			out[p.ID] = list
			index = index || len(withoutInlineOnly(list)) > 0
		}
	}
	if !index { // an index that is written anyway has room for all of them
		return nil
	}
	return out
}

func withoutInlineOnly(list []Attestation) []Attestation {
	var out []Attestation
	for _, a := range list {
		if string(a.Metadata[AttestationInlineOnly]) != "true" {
			out = append(out, a)
		}
	}
	return out
}

// unbundle opens the bundles in a list. The SBOM of the image itself comes first
// then, because scanners' readers look at the first.
func unbundle(ctx context.Context, trees Trees, r Request, list []Attestation) ([]Attestation, error) {
	var core, rest []Attestation
	for _, a := range list {
		if err := a.validate(); err != nil {
			return nil, err
		}
		opened := []Attestation{a}
		if a.Kind == gatewaypb.AttestationKind_Bundle {
			var err error
			if opened, err = a.open(ctx, trees, r); err != nil {
				return nil, err
			}
		}
		for _, a := range opened {
			if a.isCore() {
				core = append(core, a)
			} else {
				rest = append(rest, a)
			}
		}
	}
	return append(core, rest...), nil
}

func (a Attestation) validate() error {
	switch {
	case a.Kind != gatewaypb.AttestationKind_Bundle && a.Kind != gatewaypb.AttestationKind_InToto:
		return fmt.Errorf("attestation %q: unknown kind %s", a.Path, a.Kind)
	case a.Kind == gatewaypb.AttestationKind_Bundle && a.Content != nil:
		return errors.New("attestation bundle cannot have content of its own")
	case a.Kind == gatewaypb.AttestationKind_Bundle && a.Tree == nil:
		return errors.New("no reference provided for attestation bundle")
	case a.Kind == gatewaypb.AttestationKind_InToto && a.Path == "":
		return errors.New("attestation does not have set path")
	case a.Tree == nil && a.Content == nil:
		return fmt.Errorf("attestation %q does not have available content", a.Path)
	case a.Content == nil && strings.HasPrefix(a.PredicateType, provenanceTypes):
		return fmt.Errorf("attestation %q: frontend may not set provenance attestations", a.Path)
	default:
		return nil
	}
}

// isCore tells whether this is the SBOM of the image itself.
func (a Attestation) isCore() bool {
	core, ok := a.Metadata[AttestationSBOMCore]
	name, _, _ := strings.Cut(path.Base(a.Path), ".")
	return ok && name == string(core)
}

// open reads the statements of a bundle.
func (a Attestation) open(ctx context.Context, trees Trees, r Request) ([]Attestation, error) {
	v, err := files(ctx, trees, r, *a.Tree)
	if err != nil {
		return nil, fmt.Errorf("attestation bundle %q: %w", a.Path, err)
	}
	dir, err := v.Resolve(a.Path, true)
	if err != nil {
		return nil, fmt.Errorf("attestation bundle %q: %w", a.Path, err)
	}
	entries, err := v.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("attestation bundle %q: %w", a.Path, err)
	}
	var out []Attestation
	for _, e := range entries {
		base := path.Base(e.Path)
		name := path.Join(a.Path, base)
		data, err := readFile(v, path.Join(dir, base), name)
		if err != nil {
			return nil, err
		}
		in, err := parseStatement(data)
		if err != nil {
			return nil, fmt.Errorf("attestation %s: %w", name, err)
		}
		if a.PredicateType != "" && in.PredicateType != a.PredicateType {
			return nil, fmt.Errorf("attestation %s: bundle entry %s does not match required predicate type %s", name, in.PredicateType, a.PredicateType)
		}
		if strings.HasPrefix(in.PredicateType, provenanceTypes) {
			return nil, fmt.Errorf("attestation %s: frontend may not bundle provenance attestations", name)
		}
		out = append(out, Attestation{
			Kind:          gatewaypb.AttestationKind_InToto,
			Metadata:      a.Metadata,
			Path:          name,
			Content:       func(context.Context) ([]byte, error) { return in.Predicate, nil },
			PredicateType: in.PredicateType,
			Subjects:      in.rawSubjects(),
		})
	}
	return out, nil
}

// predicate reads what the attestation states.
func (a Attestation) predicate(ctx context.Context, trees Trees, r Request) ([]byte, error) {
	var data []byte
	var err error
	if a.Content != nil {
		data, err = a.Content(ctx)
	} else {
		var v *digest.View
		if v, err = files(ctx, trees, r, *a.Tree); err == nil {
			data, err = readFile(v, a.Path, a.Path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read attestation %s: %w", a.Path, err)
	}
	return bytes.TrimSpace(data), nil
}

// readFile reads a regular file of a step's output. name is what errors call it.
func readFile(v *digest.View, p, name string) ([]byte, error) {
	p, err := v.Resolve(p, true)
	if err != nil {
		return nil, fmt.Errorf("attestation %s: %w", name, err)
	}
	e, err := v.Lstat(p)
	if err != nil {
		return nil, fmt.Errorf("attestation %s: %w", name, err)
	}
	if e.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("attestation %s: not a regular file", name)
	}
	if e.Size > maxAttestation {
		return nil, fmt.Errorf("attestation %s exceeds %d bytes", name, maxAttestation)
	}
	f, err := v.Open(p)
	if err != nil {
		return nil, fmt.Errorf("attestation %s: %w", name, err)
	}
	defer f.Close()
	return io.ReadAll(f)
}

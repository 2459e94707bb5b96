package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"
)

const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateSPDX = "https://spdx.dev/Document"
	// statementMediaType is that of a statement as a layer of a manifest.
	statementMediaType = "application/vnd.in-toto+json"
)

// statement is an in-toto statement (in-toto attestation framework,
// spec/v1/statement.md).
type statement struct {
	Type          string          `json:"_type"`
	PredicateType string          `json:"predicateType"`
	Subject       []named         `json:"subject"`
	Predicate     json.RawMessage `json:"predicate"`
}

// named is a subject of a statement: a name with digests by algorithm.
type named struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

func parseStatement(data []byte) (*statement, error) {
	var s statement
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("cannot decode in-toto statement: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("in-toto statement is not a single JSON object")
	}
	return &s, nil
}

// rawSubjects returns the subjects as an attestation has them.
func (s *statement) rawSubjects() []Subject {
	var out []Subject
	for _, sub := range s.Subject {
		raw := Subject{Kind: gatewaypb.InTotoSubjectKind_Raw, Name: sub.Name}
		for _, alg := range slices.Sorted(maps.Keys(sub.Digest)) {
			raw.Digest = append(raw.Digest, godigest.NewDigestFromEncoded(godigest.Algorithm(alg), sub.Digest[alg]))
		}
		out = append(out, raw)
	}
	return out
}

// state makes the statement of an attestation about self.
func (a Attestation) state(ctx context.Context, trees Trees, r Request, self []named) (*statement, error) {
	predicate, err := a.predicate(ctx, trees, r)
	if err != nil {
		return nil, err
	}
	s := &statement{Type: statementType, PredicateType: a.PredicateType, Subject: []named{}}
	if len(predicate) > 0 {
		s.Predicate = predicate
	}
	subjects := a.Subjects
	if len(subjects) == 0 {
		subjects = []Subject{{Kind: gatewaypb.InTotoSubjectKind_Self}}
	}
	for _, sub := range subjects {
		switch sub.Kind {
		case gatewaypb.InTotoSubjectKind_Self:
			for _, n := range self {
				s.Subject = append(s.Subject, n)
				if sub.Name != "" && sub.Name != "_" {
					s.Subject = append(s.Subject, named{Name: sub.Name, Digest: n.Digest})
				}
			}
		case gatewaypb.InTotoSubjectKind_Raw:
			name := sub.Name
			if name == "" {
				name = "_" // what in-toto has for a subject that is known by its digest alone
			}
			s.Subject = append(s.Subject, named{Name: name, Digest: digestMap(sub.Digest...)})
		default:
			return nil, fmt.Errorf("attestation %s: unknown subject kind %s", a.Path, sub.Kind)
		}
	}
	return s, nil
}

// states makes the statements of a list.
func states(ctx context.Context, trees Trees, r Request, list []Attestation, self []named) ([]*statement, error) {
	out := make([]*statement, len(list))
	for i, a := range list {
		var err error
		if out[i], err = a.state(ctx, trees, r, self); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func digestMap(ds ...godigest.Digest) map[string]string {
	m := map[string]string{}
	for _, d := range ds {
		m[d.Algorithm().String()] = d.Encoded()
	}
	return m
}

// imageSubjects names an image by the package URL of each of its names.
func imageSubjects(names []string, p ocispecs.Platform, dgst godigest.Digest) ([]named, error) {
	var out []named
	for _, name := range names {
		url, err := packageURL(name, p)
		if err != nil {
			return nil, err
		}
		out = append(out, named{Name: url, Digest: digestMap(dgst)})
	}
	return out, nil
}

// packageURL names an image for a platform (purl-spec, type docker).
func packageURL(name string, p ocispecs.Platform) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	var qualifiers packageurl.Qualifiers
	if c, ok := ref.(reference.Canonical); ok {
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "digest", Value: c.Digest().String()})
	} else {
		ref = reference.TagNameOnly(ref)
	}
	version := ""
	if t, ok := ref.(reference.Tagged); ok {
		version = t.Tag()
	}
	qualifiers = append(qualifiers, packageurl.Qualifier{Key: "platform", Value: platforms.Format(platforms.Normalize(p))})
	space, base := "", reference.FamiliarName(ref)
	if i := strings.LastIndexByte(base, '/'); i >= 0 {
		space, base = base[:i], base[i+1:]
	}
	return packageurl.NewPackageURL(packageurl.TypeDocker, space, base, version, qualifiers, "").ToString(), nil
}

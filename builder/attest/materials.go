package attest

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"
)

// material is something that a build was made of.
type material struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// materials lists all sources whose content is known by digest.
func (s *sources) materials() ([]material, error) {
	var out []material
	for _, i := range s.images {
		uri, err := packageURL(purlType(i.Layout), i.Ref, i.Platform)
		if err != nil {
			return nil, err
		}
		out = append(out, material{URI: uri, Digest: digestSet(i.Digest)})
	}
	for _, b := range s.blobs {
		uri, err := packageURL(purlType(b.Layout), b.Ref, nil, packageurl.Qualifier{Key: "ref_type", Value: "blob"})
		if err != nil {
			return nil, err
		}
		out = append(out, material{URI: uri, Digest: digestSet(b.Digest)})
	}
	for _, g := range s.git {
		out = append(out, material{URI: g.URL, Digest: commitDigest(g.Commit)})
		if g.Bundle == "" {
			continue
		}
		m, err := bundle(g)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	for _, h := range s.http {
		out = append(out, material{URI: h.URL, Digest: digestSet(h.Digest)})
	}
	return out, nil
}

// bundle is the blob that a commit was read from, named as BuildKit does.
func bundle(g Git) (material, error) {
	scheme, ref, _ := strings.Cut(g.Bundle, "://")
	name, dgst, _ := strings.Cut(ref, "@")
	d, err := digest.Parse(dgst)
	if err != nil {
		return material{}, fmt.Errorf("provenance of bundle %q: %w", g.Bundle, err)
	}
	uri, err := packageURL(purlType(strings.HasPrefix(scheme, "oci-layout")), name, nil,
		packageurl.Qualifier{Key: "ref_type", Value: "bundle"}, packageurl.Qualifier{Key: "vcs_url", Value: g.URL})
	return material{URI: uri, Digest: digestSet(d)}, err
}

func purlType(layout bool) string {
	if layout {
		return packageurl.TypeOCI
	}
	return packageurl.TypeDocker
}

// packageURL names an image (purl-spec, types docker and oci).
func packageURL(typ, ref string, p *ocispecs.Platform, more ...packageurl.Qualifier) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("provenance of image %q: %w", ref, err)
	}
	var q packageurl.Qualifiers
	if d, ok := named.(reference.Digested); ok {
		q = append(q, packageurl.Qualifier{Key: "digest", Value: d.Digest().String()})
	} else {
		named = reference.TagNameOnly(named)
	}
	version := ""
	if t, ok := named.(reference.Tagged); ok {
		version = t.Tag()
	}
	if p != nil {
		q = append(q, packageurl.Qualifier{Key: "platform", Value: platforms.Format(platforms.Normalize(*p))})
	}
	space, name := "", reference.FamiliarName(named)
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		space, name = name[:i], name[i+1:]
	}
	return packageurl.NewPackageURL(typ, space, name, version, append(q, more...), "").ToString(), nil
}

func digestSet(d digest.Digest) map[string]string {
	if d == "" {
		return nil
	}
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// sha256Digits is the length of a commit in repositories of git's newer format.
const sha256Digits = 64

func commitDigest(id string) map[string]string {
	if len(id) == sha256Digits {
		return map[string]string{"sha256": id}
	}
	return map[string]string{"sha1": id}
}

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/image"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/registry/registrytest"
	"github.com/buildd/buildd/worker/source"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}
var arm64 = ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}

// store is a content store that test images are made in.
type store struct {
	t *testing.T
	*blob.Store
}

func newStore(t *testing.T) store {
	t.Helper()
	b, err := blob.Open(t.TempDir())
	must(t, err)
	return store{t, b}
}

func (s store) put(mediaType string, data []byte) ocispecs.Descriptor {
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := content.WriteBlob(s.t.Context(), s, d.Digest.String(), bytes.NewReader(data), d)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		s.t.Fatal(err)
	}
	return d
}

func (s store) json(mediaType string, v any) ocispecs.Descriptor {
	b, err := json.Marshal(v)
	must(s.t, err)
	return s.put(mediaType, b)
}

// image makes an image whose layers are not real ones: nobody unpacks them.
func (s store) image(p ocispecs.Platform, layers ...string) ocispecs.Descriptor {
	config := ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{Type: "layers"}, Config: ocispecs.ImageConfig{Env: []string{"P=" + p.Architecture}}}
	m := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	for _, l := range layers {
		m.Layers = append(m.Layers, s.put(ocispecs.MediaTypeImageLayerGzip, []byte(l)))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString("diff "+l))
	}
	m.Config = s.json(ocispecs.MediaTypeImageConfig, config)
	d := s.json(ocispecs.MediaTypeImageManifest, m)
	d.Platform = &p
	return d
}

func (s store) index(ms ...ocispecs.Descriptor) ocispecs.Descriptor {
	return s.json(ocispecs.MediaTypeImageIndex, ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: ms})
}

// push pushes what d leads to.
func (s store) push(ref string, d ocispecs.Descriptor) {
	s.t.Helper()
	h, err := registry.NewHosts(registry.Options{})
	must(s.t, err)
	p, err := h.Resolver(nil, registry.ResolverOptions{}).Pusher(s.t.Context(), ref)
	must(s.t, err)
	must(s.t, remotes.PushContent(s.t.Context(), p, d, s, nil, nil, func(h images.Handler) images.Handler { return h }))
}

type fixture struct {
	src   *Source
	trees *tree.Store
	blobs store
	names *image.Store
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{blobs: newStore(t)}
	var err error
	f.trees, err = tree.Open(tree.Config{Dir: t.TempDir(), Blobs: f.blobs.Store})
	must(t, err)
	t.Cleanup(func() { f.trees.Close() })
	f.names, err = image.Open(image.Config{Path: filepath.Join(t.TempDir(), "images")})
	must(t, err)
	t.Cleanup(func() { f.names.Close() })
	h, err := registry.NewHosts(registry.Options{})
	must(t, err)
	f.src = New(Config{Trees: f.trees, Blobs: f.blobs.Store, Names: f.names, Hosts: h, Platform: &amd64})
	return f
}

func (f *fixture) pin(ctx context.Context, ref string, p *ocispecs.Platform, attrs ...string) (source.Pin, error) {
	r := source.Request{Identifier: "docker-image://" + ref, Attrs: map[string]string{}}
	if p != nil {
		r.Platform = pb.PlatformFromSpec(*p)
	}
	for i := 0; i < len(attrs); i += 2 {
		r.Attrs[attrs[i]] = attrs[i+1]
	}
	return f.src.Pin(ctx, nil, r)
}

func TestRegistry(t *testing.T) {
	host := registrytest.Start(t)
	remote := newStore(t)
	a, b := remote.image(amd64, "base", "amd"), remote.image(arm64, "base", "arm")
	index := remote.index(b, a)
	ref := host + "/name:tag"
	remote.push(ref, index)
	f := newFixture(t)

	found, err := f.src.ResolveConfig(t.Context(), nil, ref, Options{})
	must(t, err)
	if found.Digest != index.Digest || found.Manifest.Digest != a.Digest || found.Local || !strings.Contains(string(found.Config), "P=amd64") {
		t.Errorf("%+v", found)
	}
	p, err := f.pin(t.Context(), ref, nil)
	must(t, err)
	q, err := f.pin(t.Context(), ref, &arm64)
	must(t, err)
	if p.Key == q.Key || p.Resolved != ref+"@"+index.Digest.String() {
		t.Errorf("%+v, %+v", p, q)
	}
	tr, err := f.src.Fetch(t.Context(), nil, p, nil)
	must(t, err)
	layers, err := f.trees.Layers(tr)
	must(t, err)
	if len(layers) != 2 || layers[1].DiffID != digest.FromString("diff amd") || layers[1].Ready || fmt.Sprint(layers[0].Sources) != "["+ref+"]" {
		t.Errorf("%+v", layers)
	}
	if _, err := f.blobs.Info(t.Context(), layers[0].Desc.Digest); err == nil {
		t.Error("a layer was downloaded")
	}
	// Where the blobs come from is what the provider is for.
	ra, err := source.Provider{Hosts: f.src.c.Hosts}.ReaderAt(t.Context(), *layers[0].Desc, layers[0].Sources)
	must(t, err)
	defer ra.Close()
	got := make([]byte, ra.Size())
	if _, err := ra.ReadAt(got, 0); err != nil && string(got) != "base" {
		t.Errorf("read %q, %v", got, err)
	}

	one, err := f.pin(t.Context(), ref, nil, pb.AttrImageLayerLimit, "1")
	must(t, err)
	tr, err = f.src.Fetch(t.Context(), nil, one, nil)
	must(t, err)
	if layers, err := f.trees.Layers(tr); err != nil || len(layers) != 1 {
		t.Errorf("%v, %v", layers, err)
	}

	// A digest that is known needs no registry.
	gone, err := f.pin(t.Context(), "127.0.0.1:1/gone@"+index.Digest.String(), nil)
	if err != nil || gone.Key != p.Key {
		t.Errorf("%+v, %v", gone, err)
	}
}

func TestMemo(t *testing.T) {
	host := registrytest.Start(t)
	remote := newStore(t)
	ref := host + "/name:tag"
	remote.push(ref, remote.image(amd64, "one"))
	f := newFixture(t)
	r := source.Request{Identifier: "docker-image://" + ref, Memo: &source.Memo{}}
	p, err := f.src.Pin(t.Context(), nil, r)
	must(t, err)
	remote.push(ref, remote.image(amd64, "two"))
	q, err := f.src.Pin(t.Context(), nil, r)
	must(t, err)
	r.Memo = nil
	n, err := f.src.Pin(t.Context(), nil, r)
	must(t, err)
	if p.Key != q.Key || n.Key == p.Key {
		t.Error("a tag moved within a build, or did not move between builds")
	}
}

// Images of the own store come before any registry; with --pull after it, and
// only if it cannot be reached.
func TestOwnStore(t *testing.T) {
	host := registrytest.Start(t)
	remote := newStore(t)
	ref := host + "/name:tag"
	remote.push(ref, remote.image(amd64, "remote"))
	f := newFixture(t)
	key := func(ref string, attrs ...string) string {
		t.Helper()
		p, err := f.pin(t.Context(), ref, nil, attrs...)
		must(t, err)
		return p.Key
	}
	fromRegistry := key(ref)
	local := f.blobs.image(amd64, "local")
	must(t, f.names.Put(t.Context(), ref, local))
	must(t, f.names.Put(t.Context(), "127.0.0.1:1/base", local))
	must(t, f.names.Put(t.Context(), host+"/none", local))
	fromStore := key(ref)
	if fromStore == fromRegistry {
		t.Error("the own store was not asked first")
	}
	if key(ref, pb.AttrImageResolveMode, pb.AttrImageResolveModePreferLocal) != fromStore {
		t.Error("local: the own store was not asked first")
	}
	if key(ref, pb.AttrImageResolveMode, pb.AttrImageResolveModeForcePull) != fromRegistry {
		t.Error("pull: the registry was not asked first")
	}
	if key("127.0.0.1:1/base:latest", pb.AttrImageResolveMode, pb.AttrImageResolveModeForcePull) != fromStore {
		t.Error("pull: an image that was imported cannot be used offline")
	}
	_, err := f.pin(t.Context(), host+"/none", nil, pb.AttrImageResolveMode, pb.AttrImageResolveModeForcePull)
	if !errors.Is(err, registry.ErrNotFound) || !strings.Contains(err.Error(), "leave out --pull") {
		t.Errorf("pull of what no registry has: %v", err)
	}
	// Of another platform the registry's serves.
	must(t, f.names.Put(t.Context(), ref, f.blobs.index(f.blobs.image(arm64, "local arm"))))
	if key(ref) != fromRegistry {
		t.Error("an image of another platform was taken")
	}
	must(t, f.names.Put(t.Context(), "127.0.0.1:1/arm", f.blobs.index(f.blobs.image(arm64, "local arm"))))
	if _, err := f.pin(t.Context(), "127.0.0.1:1/arm", nil); err == nil || !strings.Contains(err.Error(), "only for linux/arm64") || !errors.Is(err, registry.ErrUnreachable) {
		t.Errorf("no image of the platform anywhere: %v", err)
	}
}

func TestRefused(t *testing.T) {
	f := newFixture(t)
	s := f.blobs
	good := s.image(amd64, "x")
	var m ocispecs.Manifest
	b, err := content.ReadBlob(t.Context(), s, good)
	must(t, err)
	must(t, json.Unmarshal(b, &m))
	edit := func(f func(*ocispecs.Manifest)) ocispecs.Descriptor {
		n := m
		n.Layers = append([]ocispecs.Descriptor{}, m.Layers...)
		f(&n)
		return s.json(n.MediaType, n)
	}
	nested := good
	for range 10 {
		nested = s.index(nested)
	}
	huge := s.put(ocispecs.MediaTypeImageManifest, append(b, bytes.Repeat([]byte(" "), maxManifest)...))
	forged := good
	forged.Digest = digest.FromString("forged")
	for name, c := range map[string]struct {
		d    ocispecs.Descriptor
		want string
	}{
		"schema 1":           {s.put(images.MediaTypeDockerSchema1Manifest, []byte(`{"schemaVersion":1,"fsLayers":[]}`)), "schema version 1"},
		"ambiguous":          {s.put(ocispecs.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}`)), "manifest and an index at once"},
		"other type":         {s.put(ocispecs.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[],"config":{}}`)), "is not what it is"},
		"nothing":            {s.put(ocispecs.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`)), "neither"},
		"no JSON":            {s.put(ocispecs.MediaTypeImageManifest, []byte(`<html>`)), "parse"},
		"too few diff IDs":   {edit(func(m *ocispecs.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), "2 layers but its config lists 1"},
		"artifact":           {edit(func(m *ocispecs.Manifest) { m.Config = s.put("application/x", []byte("{}")) }), "artifact"},
		"no layer":           {edit(func(m *ocispecs.Manifest) { m.Layers[0].MediaType = "text/html" }), "no file system layer"},
		"bad digest":         {edit(func(m *ocispecs.Manifest) { m.Layers[0].Digest = "sha256:../../x" }), "layer 0"},
		"negative size":      {edit(func(m *ocispecs.Manifest) { m.Layers[0].Size = -1 }), "size -1"},
		"no platform":        {s.index(s.image(arm64, "x"), s.image(ocispecs.Platform{OS: "windows", Architecture: "amd64"}, "x")), "linux/arm64/v8, windows/amd64"},
		"index in an index":  {nested, "indexes within one another"},
		"more than 4 MiB":    {huge, "limit"},
		"config is missing":  {edit(func(m *ocispecs.Manifest) { m.Config.Digest = digest.FromString("none") }), "not found"},
		"manifest is absent": {forged, "not found"},
	} {
		img, err := Load(t.Context(), (&lookup{s: f.src}).stored, "x", c.d, amd64)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v", name, img, err)
		}
	}
	for attr, v := range map[string]string{
		pb.AttrImageResolveMode: "x", pb.AttrImageLayerLimit: "0", pb.AttrImageChecksum: "x", pb.AttrImageRecordType: "x",
	} {
		if _, err := f.pin(t.Context(), "x", nil, attr, v); err == nil || !strings.Contains(err.Error(), `"`+v+`"`) {
			t.Errorf("%s=%s: %v", attr, v, err)
		}
	}
	must(t, f.names.Put(t.Context(), "x", good))
	if _, err := f.pin(t.Context(), "x", nil, pb.AttrImageChecksum, forged.Digest.String()); err == nil || !strings.Contains(err.Error(), good.Digest.String()) {
		t.Errorf("wrong checksum: %v", err)
	}
	if _, err := f.pin(t.Context(), "x", nil, pb.AttrImageLayerLimit, "2"); err == nil || !strings.Contains(err.Error(), "only 1 layers") {
		t.Errorf("limit: %v", err)
	}
	if _, err := f.pin(t.Context(), "Bad Name", nil); err == nil || !strings.Contains(err.Error(), "HOST/") {
		t.Errorf("bad reference: %v", err)
	}
}

func TestScratch(t *testing.T) {
	f := newFixture(t)
	must(t, f.names.Put(t.Context(), "empty", f.blobs.image(amd64)))
	p, err := f.pin(t.Context(), "empty", nil)
	must(t, err)
	if tr, err := f.src.Fetch(t.Context(), nil, p, nil); err != nil || tr != cache.Tree("") {
		t.Errorf("%q, %v", tr, err)
	}
}

func TestAttestations(t *testing.T) {
	host := registrytest.Start(t)
	remote := newStore(t)
	img := remote.image(amd64, "x")
	statement := remote.put("application/vnd.in-toto+json", []byte(`{"predicateType":"https://slsa.dev/provenance/v1"}`))
	statement.Annotations = map[string]string{annotationPredicate: "https://slsa.dev/provenance/v1"}
	other := remote.put("application/vnd.in-toto+json", []byte(`{"predicateType":"other"}`))
	other.Annotations = map[string]string{annotationPredicate: "other"}
	att := remote.json(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: remote.json(ocispecs.MediaTypeImageConfig, ocispecs.Image{}), Layers: []ocispecs.Descriptor{statement, other},
	})
	att.Platform = &ocispecs.Platform{OS: "unknown", Architecture: "unknown"}
	att.Annotations = map[string]string{annotationRefType: typeAttestation, annotationRefDigest: img.Digest.String()}
	index := remote.index(img, att)
	ref := host + "/name:tag"
	remote.push(ref, index)
	f := newFixture(t)
	m, err := f.src.Describe(t.Context(), nil, source.Request{Identifier: "docker-image://" + ref}, sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{
		NoConfig: true, ResolveAttestations: []string{"https://slsa.dev/provenance/v1"},
	}})
	must(t, err)
	c := m.Image.AttestationChain
	if m.Image.Config != nil || c.Root != index.Digest || c.ImageManifest != img.Digest || c.AttestationManifest != att.Digest ||
		len(c.Blobs) != 3 || string(c.Blobs[statement.Digest].Data) == "" {
		t.Errorf("%+v", c)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

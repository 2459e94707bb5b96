package imageapi

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/image"
	imagesv1 "github.com/buildd/buildd/proto/buildd/images/v1"
)

// stores are real ones, empty.
type stores struct {
	t      *testing.T
	images *image.Store
	blobs  *blob.Store
}

func open(t *testing.T) stores {
	t.Helper()
	dir := t.TempDir()
	images, err := image.Open(image.Config{Path: filepath.Join(dir, "images.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Close() })
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	return stores{t, images, blobs}
}

func (s stores) put(mediaType string, v any) ocispecs.Descriptor {
	s.t.Helper()
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			s.t.Fatal(err)
		}
	}
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := s.blobs.Ingest(s.t.Context(), d, bytes.NewReader(b)); err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s stores) manifest(config any, layers ...string) ocispecs.Descriptor {
	s.t.Helper()
	m := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Config: s.put(ocispecs.MediaTypeImageConfig, config)}
	for _, l := range layers {
		m.Layers = append(m.Layers, s.put(ocispecs.MediaTypeImageLayer, []byte(l)))
	}
	return s.put(ocispecs.MediaTypeImageManifest, m)
}

func (s stores) name(name string, d ocispecs.Descriptor) {
	s.t.Helper()
	if err := s.images.Put(s.t.Context(), name, d); err != nil {
		s.t.Fatal(err)
	}
}

func platform(os, arch string) ocispecs.Image {
	return ocispecs.Image{Platform: ocispecs.Platform{OS: os, Architecture: arch}}
}

func TestImages(t *testing.T) {
	s := open(t)
	amd, arm := s.manifest(platform("linux", "amd64"), "shared", "amd"), s.manifest(platform("linux", "arm64"), "shared", "arm")
	amd.Platform, arm.Platform = &ocispecs.Platform{OS: "linux", Architecture: "amd64"}, &ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	att := s.manifest(map[string]string{}, "att")
	att.Platform = &ocispecs.Platform{OS: "unknown", Architecture: "unknown"}
	elsewhere := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("nowhere"), Size: 7}
	index := s.put(ocispecs.MediaTypeImageIndex, ocispecs.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{amd, arm, att, elsewhere},
	})
	one := s.manifest(platform("linux", "riscv64"), "one")
	s.name("multi:1", index)
	s.name("one", one)

	removed := 0
	srv := New(Config{Images: s.images, Blobs: s.blobs, Removed: func() { removed++ }})
	list, err := srv.List(t.Context(), &imagesv1.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Images) != 2 {
		t.Fatalf("list: %v", list)
	}
	m, o := list.Images[0], list.Images[1]
	if m.Name != "docker.io/library/multi:1" || m.Target.Digest != index.Digest.String() || !slices.Equal(m.Platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("multi: %v", m)
	}
	if o.Name != "docker.io/library/one:latest" || !slices.Equal(o.Platforms, []string{"linux/riscv64"}) || o.CreatedNs == 0 || o.UpdatedNs == 0 {
		t.Errorf("one: %v", o)
	}
	config, err := json.Marshal(platform("linux", "riscv64"))
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(len("one") + len(config)); o.Size != want {
		t.Errorf("one has size %d, want %d", o.Size, want)
	}

	got, err := srv.Get(t.Context(), &imagesv1.GetRequest{Name: "multi:1"})
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(got.Index) != index.Digest || len(got.Manifests) != 3 {
		t.Fatalf("get: %v", got)
	}
	for i, want := range []struct{ digest, platform string }{{amd.Digest.String(), "linux/amd64"}, {arm.Digest.String(), "linux/arm64"}, {att.Digest.String(), ""}} {
		m := got.Manifests[i]
		if m.Target.Digest != want.digest || m.Platform != want.platform || digest.FromBytes(m.Manifest).String() != want.digest || len(m.Config) == 0 {
			t.Errorf("manifest %d: %v", i, m)
		}
	}
	if got, err := srv.Get(t.Context(), &imagesv1.GetRequest{Name: "docker.io/library/one"}); err != nil || got.Index != nil || len(got.Manifests) != 1 {
		t.Errorf("get one: %v, %v", got, err)
	}

	resp, err := srv.Remove(t.Context(), &imagesv1.RemoveRequest{Name: "one:latest"})
	if err != nil || resp.Target.Digest != one.Digest.String() || removed != 1 {
		t.Errorf("remove: %v, %v, told %d times", resp, err, removed)
	}
	if list, err := srv.List(t.Context(), &imagesv1.ListRequest{}); err != nil || len(list.Images) != 1 {
		t.Errorf("after removal: %v, %v", list, err)
	}
}

func TestErrors(t *testing.T) {
	s := open(t)
	srv := New(Config{Images: s.images, Blobs: s.blobs})
	for name, want := range map[string]codes.Code{"none": codes.NotFound, "UPPER": codes.InvalidArgument, "": codes.InvalidArgument} {
		if _, err := srv.Get(t.Context(), &imagesv1.GetRequest{Name: name}); status.Code(err) != want {
			t.Errorf("get %q: %v", name, err)
		}
		if _, err := srv.Remove(t.Context(), &imagesv1.RemoveRequest{Name: name}); status.Code(err) != want {
			t.Errorf("remove %q: %v", name, err)
		}
	}
}

// TestADamagedImageCanBeRemoved holds that it is listed, for only so its name is
// known.
func TestADamagedImageCanBeRemoved(t *testing.T) {
	s := open(t)
	for name, d := range map[string]ocispecs.Descriptor{
		"lost":  {MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("lost"), Size: 4},
		"wrong": s.put("text/plain", []byte("hello")),
		"bad":   s.put(ocispecs.MediaTypeImageIndex, []byte("{")),
		"huge":  {MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("huge"), Size: 1 << 40},
	} {
		s.name(name, d)
	}
	srv := New(Config{Images: s.images, Blobs: s.blobs})
	list, err := srv.List(t.Context(), &imagesv1.ListRequest{})
	if err != nil || len(list.Images) != 4 {
		t.Fatalf("list: %v, %v", list, err)
	}
	for _, img := range list.Images {
		if _, err := srv.Get(t.Context(), &imagesv1.GetRequest{Name: img.Name}); err == nil {
			t.Errorf("%s can be read", img.Name)
		}
		if _, err := srv.Remove(t.Context(), &imagesv1.RemoveRequest{Name: img.Name}); err != nil {
			t.Errorf("remove %s: %v", img.Name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.name("again", ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("lost"), Size: 4})
	if _, err := srv.List(ctx, &imagesv1.ListRequest{}); err == nil {
		t.Error("a listing that was broken off is one")
	}
}

package image

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
)

func desc(s string) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageIndex, Digest: digest.FromString(s), Size: int64(len(s))}
}

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "images.db")
	s := open(t, path)
	if err := s.Put(t.Context(), "alpine", desc("a")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "localhost:5000/x/y:v1", desc("b")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path)
	for _, name := range []string{"alpine", "alpine:latest", "docker.io/alpine", "index.docker.io/library/alpine:latest"} {
		if d, err := s.Get(t.Context(), name); err != nil || d.Digest != desc("a").Digest || d.MediaType != ocispecs.MediaTypeImageIndex {
			t.Errorf("Get(%q) = %v, %v", name, d, err)
		}
	}
	for _, name := range []string{"alpine:3", "localhost:5000/x/y", "other"} {
		if _, err := s.Get(t.Context(), name); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("Get(%q): %v", name, err)
		}
		if err := s.Delete(t.Context(), name); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("Delete(%q): %v", name, err)
		}
	}
	imgs, err := s.List(t.Context())
	if err != nil || len(imgs) != 2 || imgs[0].Name != "docker.io/library/alpine:latest" || imgs[1].Name != "localhost:5000/x/y:v1" {
		t.Fatalf("List = %v, %v", imgs, err)
	}
	if err := s.Put(t.Context(), "docker.io/library/alpine", desc("c")); err != nil {
		t.Fatal(err)
	}
	again, err := s.List(t.Context())
	if err != nil || len(again) != 2 || again[0].Target.Digest != desc("c").Digest {
		t.Fatalf("after replacing: %v, %v", again, err)
	}
	if !again[0].Created.Equal(imgs[0].Created) || !again[0].Updated.After(imgs[0].Updated) {
		t.Errorf("times: %v, then %v", imgs[0], again[0])
	}
	if err := s.Delete(t.Context(), "alpine"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "alpine"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("after Delete: %v", err)
	}
}

func TestBadNames(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "images.db"))
	for _, name := range []string{"", "UPPER", "a b", "../../etc", "x@sha256:12", digest.FromString("x").Encoded()} {
		if err := s.Put(t.Context(), name, desc("a")); err == nil {
			t.Errorf("Put(%q) works", name)
		}
		if _, err := s.Get(t.Context(), name); err == nil || errors.Is(err, cache.ErrNotFound) {
			t.Errorf("Get(%q): %v", name, err)
		}
	}
	if err := s.Put(t.Context(), "x", ocispecs.Descriptor{}); err == nil {
		t.Error("Put without a digest works")
	}
	d := desc("a")
	if err := s.Put(t.Context(), "x@"+d.Digest.String(), d); err != nil {
		t.Error(err)
	}
	if err := s.Put(t.Context(), "x@"+d.Digest.String(), desc("b")); err == nil {
		t.Error("a name with a digest stands for another one")
	}
}

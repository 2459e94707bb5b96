package ocilayout

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/buildd/buildd/worker/source"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	bkcontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func put(t *testing.T, s content.Store, mediaType string, v any) ocispecs.Descriptor {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		data, err = json.Marshal(v)
		must(t, err)
	}
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	must(t, content.WriteBlob(t.Context(), s, d.Digest.String(), bytes.NewReader(data), d))
	return d
}

func TestLayout(t *testing.T) {
	layout, err := local.NewStore(t.TempDir())
	must(t, err)
	layer := put(t, layout, ocispecs.MediaTypeImageLayer, []byte("layer"))
	p := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	config := put(t, layout, ocispecs.MediaTypeImageConfig, ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}})
	m := put(t, layout, ocispecs.MediaTypeImageManifest, ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: config, Layers: []ocispecs.Descriptor{layer}})

	blobs, err := blob.Open(t.TempDir())
	must(t, err)
	trees, err := tree.Open(tree.Config{Dir: t.TempDir(), Blobs: blobs})
	must(t, err)
	defer trees.Close()
	s := New(trees, blobs, &p)
	c := sessiontest.Client(t, bkcontent.NewAttachable(map[string]content.Store{"oci:mine": layout}))

	r := source.Request{Identifier: "oci-layout://mine@" + m.Digest.String()}
	pin, err := s.Pin(t.Context(), c, r)
	must(t, err)
	tr, err := s.Fetch(t.Context(), nil, pin, nil)
	must(t, err)
	layers, err := trees.Layers(tr)
	must(t, err)
	if len(layers) != 1 || layers[0].DiffID != layer.Digest {
		t.Fatalf("%+v", layers)
	}
	h, err := registry.NewHosts(registry.Options{})
	must(t, err)
	ra, err := source.Provider{Hosts: h, Client: c}.ReaderAt(t.Context(), layer, layers[0].Sources)
	must(t, err)
	defer ra.Close()
	if b, err := io.ReadAll(io.NewSectionReader(ra, 0, ra.Size())); err != nil || string(b) != "layer" {
		t.Errorf("read %q, %v", b, err)
	}

	r.Identifier = "oci-layout://some/name@" + m.Digest.String()
	r.Attrs = map[string]string{pb.AttrOCILayoutStoreID: "mine"}
	if same, err := s.Pin(t.Context(), c, r); err != nil || same.Key != pin.Key {
		t.Errorf("%+v, %v", same, err)
	}
	for id, want := range map[string]string{
		"oci-layout://mine@" + digest.FromString("none").String():  "--oci-layout mine=DIR",
		"oci-layout://other@" + digest.FromString("none").String(): "other",
		"oci-layout://mine:tag":                                    "no digest",
		"oci-layout://mine@x":                                      "want oci-layout://",
	} {
		if _, err := s.Pin(t.Context(), c, source.Request{Identifier: id}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
	_, err = source.Provider{Hosts: h}.ReaderAt(t.Context(), layer, layers[0].Sources)
	if !errors.Is(err, session.ErrNoSession) {
		t.Errorf("no client: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

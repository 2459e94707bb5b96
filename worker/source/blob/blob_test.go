package blob

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cblob "github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/registry/registrytest"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/buildd/buildd/worker/source"
	"github.com/buildd/buildd/worker/source/onefile"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	bkcontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestBlob(t *testing.T) {
	host := registrytest.Start(t)
	h, err := registry.NewHosts(registry.Options{})
	must(t, err)
	data := []byte("a blob")
	d := ocispecs.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(data), Size: int64(len(data))}
	p, err := h.Resolver(nil, registry.ResolverOptions{}).Pusher(t.Context(), host+"/name:tag")
	must(t, err)
	w, err := p.Push(t.Context(), d)
	must(t, err)
	must(t, content.Copy(t.Context(), w, bytes.NewReader(data), d.Size, d.Digest))
	layout, err := local.NewStore(t.TempDir())
	must(t, err)
	must(t, content.WriteBlob(t.Context(), layout, "x", bytes.NewReader(data), d))
	client := sessiontest.Client(t, bkcontent.NewAttachable(map[string]content.Store{"oci:mine": layout}))

	blobs, err := cblob.Open(t.TempDir())
	must(t, err)
	trees, err := tree.Open(tree.Config{Dir: t.TempDir(), Blobs: blobs})
	must(t, err)
	defer trees.Close()
	s := New(onefile.Maker{Trees: trees}, h)

	key := ""
	for id, c := range map[string]session.Client{
		"docker-image+blob://" + host + "/name@" + d.Digest.String(): nil,
		"oci-layout+blob://mine@" + d.Digest.String():                client,
	} {
		r := source.Request{Identifier: id, Attrs: map[string]string{pb.AttrHTTPFilename: "f", pb.AttrHTTPPerm: "0755"}}
		pin, err := s.Pin(t.Context(), c, r)
		must(t, err)
		if key != "" && key != pin.Key {
			t.Error("the same blob has two keys")
		}
		key = pin.Key
		tr, err := s.Fetch(t.Context(), c, pin, nil)
		must(t, err)
		v, err := trees.Files(t.Context(), tr)
		must(t, err)
		f, err := v.Open("/f")
		must(t, err)
		b, err := io.ReadAll(f)
		st, _ := f.Stat()
		f.Close()
		if err != nil || !bytes.Equal(b, data) || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: %q %v, %v", id, b, st.Mode(), err)
		}
		path := filepath.Join(t.TempDir(), "saved")
		must(t, s.Save(t.Context(), c, r, path))
		if b, _ := os.ReadFile(path); !bytes.Equal(b, data) {
			t.Errorf("saved %q", b)
		}
	}
	none := digest.FromString("none").String()
	for id, want := range map[string]string{
		"docker-image+blob://" + host + "/name@" + none: "check the name",
		"oci-layout+blob://mine@" + none:                "--oci-layout mine=DIR",
		"docker-image+blob://" + host + "/name:tag":     "no digest",
	} {
		_, err := s.Fetch(t.Context(), client, source.Pin{Request: source.Request{Identifier: id}}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

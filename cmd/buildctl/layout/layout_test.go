package layout

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLayout(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "no OCI layout") {
		t.Errorf("an empty directory: %v", err)
	}
	d := digest.FromString("text")
	for name, text := range map[string]string{
		"oci-layout": "{}", "index.json": `{"manifests":[{"digest":"` + d.String() + `","size":4}]}`, "blobs/sha256/" + d.Encoded(): "text", "secret": "s",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := list(t, dir)
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := s.Index()
	if err != nil || len(idx.Manifests) != 1 || idx.Manifests[0].Digest != d {
		t.Errorf("index: %+v, %v", idx, err)
	}
	if b, err := content.ReadBlob(t.Context(), s, ocispecs.Descriptor{Digest: d}); err != nil || string(b) != "text" {
		t.Errorf("blob: %q, %v", b, err)
	}
	if i, err := s.Info(t.Context(), d); err != nil || i.Size != 4 {
		t.Errorf("info: %+v, %v", i, err)
	}
	none := digest.FromString("none")
	if _, err := s.Info(t.Context(), none); !errdefs.IsNotFound(err) {
		t.Errorf("info of what is not there: %v", err)
	}
	if _, err := s.ReaderAt(t.Context(), ocispecs.Descriptor{Digest: none}); !errdefs.IsNotFound(err) {
		t.Errorf("blob that is not there: %v", err)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../secret", "../secret:x", "sha256:x"} {
		if _, err := s.ReaderAt(t.Context(), ocispecs.Descriptor{Digest: bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("digest %q: %v", bad, err)
		}
	}
	if _, err := s.Writer(t.Context()); err == nil {
		t.Error("it can be written")
	}
	if after := list(t, dir); after != before {
		t.Errorf("reading made %s of %s", after, before)
	}
}

func list(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		out = append(out, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

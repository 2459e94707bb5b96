package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildd/buildd/cache/digest"
)

// fuzzTars is the corpus that fuzzing begins with.
func fuzzTars(t testing.TB) [][]byte {
	sparse, err := os.ReadFile("testdata/sparse.tar")
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{
		sparse,
		tarOf(t, d("a"), f("a/b", "data"), h("c", "a/b"), l("d", "a"), f("d/e", "x"), f(".wh.z", ""), f("a/.wh..wh..opq", "")),
		tarOf(t, l("a", "/etc"), f("a/x", ""), l("b", "../../.."), f("b/y", ""), h("c", "a/passwd"), f("../../z", "")),
		tarOf(t, f("a", "1"), d("a"), f("a/b", ""), h("a", "a/b"), l("a", "a"), f("a/c", "")),
		tarOf(t, f("p", "").with(func(h *tar.Header) {
			h.Uid, h.ModTime = 1<<30, time.Unix(-1, 5)
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.user.x": "\x00"}
		})),
		tarOf(t, ent{tar.Header{Typeflag: tar.TypeChar, Name: "w"}, ""}, ent{tar.Header{Typeflag: tar.TypeFifo, Name: "q"}, ""}, d("w"), f("w/x", "")),
		tarOf(t, ent{tar.Header{Typeflag: tar.TypeReg, Name: "gnu", Format: tar.FormatGNU}, ""}),
	}
}

// FuzzUnpack holds whatever is unpacked to three things: nothing outside of the
// directory changes, the index is what lies on disk, and the layer can be packed
// and unpacked again.
func FuzzUnpack(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("SKIPPED: needs root")
	}
	for _, b := range fuzzTars(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		dir, sentinel := filepath.Join(top, "layer"), filepath.Join(top, "sentinel")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sentinel, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := Unpack(t.Context(), bytes.NewReader(b), dir, UnpackOptions{})
		if names, rerr := os.ReadDir(top); rerr != nil || len(names) != 2 {
			t.Errorf("beside the layer: %v, %v", names, rerr)
		}
		if st, serr := os.Lstat(sentinel); serr != nil || st.Size() != 1 || st.Mode() != 0o600 {
			t.Errorf("the file beside the layer: %v, %v", st, serr)
		}
		if err != nil {
			return
		}
		sameAsDisk(t, dir, x, UnpackOptions{})
		var again bytes.Buffer
		if err := Pack(t.Context(), digest.Layer{Dir: dir, Index: x}, &again, PackOptions{}); err != nil {
			return // a name that begins with .wh.
		}
		y, err := Unpack(t.Context(), &again, t.TempDir(), UnpackOptions{})
		if err != nil {
			t.Fatalf("unpack what was packed: %v", err)
		}
		if y.Content() != x.Content() {
			t.Errorf("packed and unpacked, it is\n%swas\n%s", list(y), list(x))
		}
	})
}

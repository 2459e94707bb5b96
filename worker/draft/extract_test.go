package draft

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// tarOf makes an archive; a regular file's bytes are in Linkname.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		data := ""
		if h.Typeflag == tar.TypeReg {
			data, h.Linkname = h.Linkname, ""
			h.Size = int64(len(data))
		}
		h.Mode, h.ModTime = h.Mode|0o600, epoch
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzExtract unpacks what comes and sees that nothing outside is touched, and
// that the entries are those on disk.
func FuzzExtract(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeDir, Name: "d"}, tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Linkname: "x"},
		tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "d/f"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../../.."},
		tar.Header{Typeflag: tar.TypeReg, Name: "l/etc/x", Linkname: "y"}))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "../../escape", Linkname: "x"}))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "out/escape", Linkname: "x"}, tar.Header{Typeflag: tar.TypeReg, Name: "old", Linkname: "new"},
		tar.Header{Typeflag: tar.TypeReg, Name: "dir", Linkname: "file"}, tar.Header{Typeflag: tar.TypeDir, Name: "dir"}))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeDir, Name: "dir", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y",
		"SCHILY.xattr.user.x": "y"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		needRoot(t)
		tmp := t.TempDir()
		base, mine := filepath.Join(tmp, "base"), filepath.Join(tmp, "a/b/c")
		if err := os.MkdirAll(mine, 0o755); err != nil {
			t.Fatal(err)
		}
		grow(t, base, "f old x", "f dir/a y", "l out ../../../..", "l etc /etc")
		d, err := New(mine, view(t, base), Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, ok, err := OpenArchive(bytes.NewReader(b))
		if err != nil || !ok {
			return
		}
		defer r.Close()
		err = d.Extract(t.Context(), io.LimitReader(r, 1<<20), "/", ExtractOptions{Now: epoch})
		if err == nil {
			finish(t, d)
		}
		if got := list(t, base); len(got) != 6 {
			t.Errorf("the base was changed: %q", got)
		}
		for _, dir := range []string{tmp, filepath.Join(tmp, "a"), filepath.Join(tmp, "a/b")} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				switch e.Name() {
				case "a", "b", "c", "base":
				default:
					t.Errorf("%s appeared outside", filepath.Join(dir, e.Name()))
				}
			}
		}
	})
}

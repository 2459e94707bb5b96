package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/continuity/sysx"
)

func TestIs(t *testing.T) {
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	if err := tw.WriteHeader(&tar.Header{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	v7 := bytes.Clone(plain.Bytes())
	copy(v7[257:265], make([]byte, 8))
	copy(v7[148:156], checksum(v7[:512]))
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	if _, err := zw.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"tar": {plain.Bytes(), true}, "old tar": {v7, true}, "gzip": {zipped.Bytes(), true}, "xz": {[]byte("\xfd7zXZ\x00..."), true}, "zstd": {[]byte("\x28\xb5\x2f\xfd..."), true},
		"bzip2": {[]byte("BZh9"), true}, "Dockerfile": {[]byte("FROM alpine\nRUN true\n"), false}, "nothing": {nil, false}, "long text": {bytes.Repeat([]byte("RUN true\n"), 500), false},
	} {
		r := bufio.NewReaderSize(bytes.NewReader(c.b), Header)
		if got, err := Is(r); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if all, err := io.ReadAll(r); err != nil || !bytes.Equal(all, c.b) {
			t.Errorf("%s: looking took something away", name)
		}
	}
}

// checksum is that of a tar header.
func checksum(h []byte) []byte {
	sum := 0
	for i, b := range h {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int(b)
	}
	const digits = "01234567"
	out := []byte("000000\x00 ")
	for i := 5; i >= 0; i-- {
		out[i] = digits[sum&7]
		sum >>= 3
	}
	return out
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(name string) string { return filepath.Join(dir, name) }
	must(os.Mkdir(p("d"), 0o755))
	must(os.WriteFile(p("d/file"), []byte("text"), 0o600))
	must(os.Chmod(p("d/file"), os.ModeSetuid|0o711))
	must(os.Link(p("d/file"), p("link")))
	must(os.Symlink("/a/b", p("sym")))
	must(syscall.Mkfifo(p("fifo"), 0o644))
	must(os.WriteFile(p("ü"+strings.Repeat("x", 150)), nil, 0o644))
	root := os.Geteuid() == 0
	if root {
		must(os.Lchown(p("sym"), 7, 8))
		must(syscall.Mknod(p("null"), syscall.S_IFCHR|0o666, 1<<8|3))
	}
	xattrs := sysx.LSetxattr(p("d/file"), "user.x", []byte("y"), 0) == nil
	sock, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(err)
	defer syscall.Close(sock)
	t.Chdir(dir) // a socket's path must be short
	must(syscall.Bind(sock, &syscall.SockaddrUnix{Name: "sock"}))
	when := time.Unix(1700000000, 5000)
	must(os.Chtimes(p("d"), when, when))

	got := map[string]*tar.Header{}
	r := Directory(t.Context(), dir)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(err)
		got[h.Name] = h
		if h.Name == "d/file" {
			if b, err := io.ReadAll(tr); err != nil || string(b) != "text" {
				t.Errorf("d/file holds %q, %v", b, err)
			}
		}
	}
	if h := got["d/"]; h == nil || h.Typeflag != tar.TypeDir || !h.ModTime.Equal(when) {
		t.Errorf("d: %+v", h)
	}
	if h := got["d/file"]; h == nil || h.Mode != 0o4711 || h.Uname != "" || xattrs && h.PAXRecords["SCHILY.xattr.user.x"] != "y" {
		t.Errorf("d/file: %+v", h)
	}
	if h := got["link"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "d/file" {
		t.Errorf("link: %+v", h)
	}
	if h := got["sym"]; h == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "/a/b" || root && (h.Uid != 7 || h.Gid != 8) {
		t.Errorf("sym: %+v", h)
	}
	if h := got["fifo"]; h == nil || h.Typeflag != tar.TypeFifo {
		t.Errorf("fifo: %+v", h)
	}
	if h := got["null"]; root && (h == nil || h.Typeflag != tar.TypeChar || h.Devmajor != 1 || h.Devminor != 3) {
		t.Errorf("null: %+v", h)
	}
	if got["sock"] != nil {
		t.Error("a socket is in the archive")
	}
	if got["./"] == nil || got["ü"+strings.Repeat("x", 150)] == nil {
		t.Errorf("names: %v", got)
	}
}

func TestADirectoryThatIsNone(t *testing.T) {
	if _, err := io.ReadAll(Directory(t.Context(), "/nope")); err == nil || !strings.Contains(err.Error(), "/nope") {
		t.Errorf("error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := io.ReadAll(Directory(ctx, t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
}

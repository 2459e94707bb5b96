package layer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseCompression(t *testing.T) {
	for _, c := range []struct {
		attrs string
		want  Compression
		err   string
	}{
		{"", Compression{Gzip, -1, false}, ""},
		{"name=x,push=true", Compression{Gzip, -1, false}, ""},
		{"compression=gzip,compression-level=0", Compression{Gzip, 0, false}, ""},
		{"compression=zstd,compression-level=22,force-compression=true", Compression{Zstd, 22, true}, ""},
		{"compression=uncompressed,compression-level=3", Compression{Uncompressed, 3, false}, ""},
		{"force-compression=", Compression{Gzip, -1, true}, ""},
		{"force-compression=0", Compression{Gzip, -1, false}, ""},
		{"compression=lz4", Compression{}, `attribute compression: unknown compression "lz4": want uncompressed, gzip, zstd`},
		{"compression=estargz", Compression{}, `"estargz"`},
		{"compression-level=10", Compression{}, `attribute compression-level: "10" is no level of gzip: want 0 to 9`},
		{"compression=zstd,compression-level=23", Compression{}, `"23" is no level of zstd: want 0 to 22`},
		{"compression-level=-1", Compression{}, `"-1" is no level of gzip: want 0 to 9`},
		{"compression-level=best", Compression{}, `"best" is no level`},
		{"force-compression=maybe", Compression{}, `attribute force-compression: "maybe" is no boolean: want true or false`},
	} {
		attrs := map[string]string{}
		for kv := range strings.SplitSeq(c.attrs, ",") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				attrs[k] = v
			}
		}
		got, err := ParseCompression(attrs)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v", c.attrs, got, err)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	for _, c := range []struct {
		t    Type
		oci  bool
		want string
	}{
		{Uncompressed, true, "application/vnd.oci.image.layer.v1.tar"},
		{Gzip, true, "application/vnd.oci.image.layer.v1.tar+gzip"},
		{Zstd, true, "application/vnd.oci.image.layer.v1.tar+zstd"},
		{Uncompressed, false, "application/vnd.docker.image.rootfs.diff.tar"},
		{Gzip, false, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{Zstd, false, "application/vnd.docker.image.rootfs.diff.tar.zstd"},
	} {
		if got := (Compression{Type: c.t}).MediaType(c.oci); got != c.want {
			t.Errorf("%s: %s, want %s", c.t, got, c.want)
		}
		if got, err := TypeOf(c.want); got != c.t || err != nil {
			t.Errorf("TypeOf(%s) = %s, %v", c.want, got, err)
		}
	}
	for mt, want := range map[string]Type{
		"application/vnd.oci.image.layer.nondistributable.v1.tar":      Uncompressed,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": Zstd,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    Gzip,
	} {
		if got, err := TypeOf(mt); got != want || err != nil {
			t.Errorf("TypeOf(%s) = %s, %v", mt, got, err)
		}
	}
	for _, mt := range []string{"", "text/plain", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.oci.image.config.v1+json"} {
		if got, err := TypeOf(mt); err == nil {
			t.Errorf("TypeOf(%q) = %s", mt, got)
		}
	}
}

func TestTypeText(t *testing.T) {
	for _, want := range []Type{Uncompressed, Gzip, Zstd} {
		b, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Type
		if err := got.UnmarshalText(b); err != nil || got != want {
			t.Errorf("%s: %v, %v", b, got, err)
		}
	}
	if b, err := Type(9).MarshalText(); err == nil {
		t.Errorf("%s", b)
	}
}

// text is data of n bytes that compresses about as source code does.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 3000)
	for i := range words {
		words[i] = fmt.Sprintf("%x", r.Int64N(1<<(4+r.IntN(30))))
	}
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(words[min(r.IntN(3000), r.IntN(3000))])
		b.WriteByte(" \n"[r.IntN(2)])
	}
	return b.Bytes()[:n]
}

func compress(t testing.TB, c Compression, cores int, data []byte, piece int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newWriter(&b, c, cores)
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n, err := w.Write(data[:min(piece, len(data))])
		if err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func decompress(r io.Reader, mediaType string) ([]byte, error) {
	z, err := NewReader(r, mediaType)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

func TestCompressRoundTrip(t *testing.T) {
	data := text(gzipBlock + gzipBlock/4) // more than a block
	for _, c := range []Compression{
		{Uncompressed, -1, false}, {Uncompressed, 5, false},
		{Gzip, -1, false}, {Gzip, 0, false}, {Gzip, 1, false}, {Gzip, 9, false},
		{Zstd, -1, false}, {Zstd, 0, false}, {Zstd, 3, false}, {Zstd, 7, false}, {Zstd, 22, false},
	} {
		for _, n := range []int{0, 1, len(data)} {
			z := compress(t, c, 2, data[:n], 1<<20)
			got, err := decompress(bytes.NewReader(z), c.MediaType(true))
			if err != nil || !bytes.Equal(got, data[:n]) {
				t.Errorf("%v, %d bytes: %v", c, n, err)
			}
		}
	}
}

func TestCompressDoesNotDependOnCores(t *testing.T) {
	data := text(9 << 20) // more than a job of zstd
	for _, c := range []Compression{{Gzip, 1, false}, {Zstd, 1, false}} {
		want := compress(t, c, 1, data, len(data))
		for cores := 2; cores <= 9; cores += 7 {
			if !bytes.Equal(want, compress(t, c, cores, data, 100003)) {
				t.Errorf("%s on %d cores: the output differs", c.Type, cores)
			}
		}
	}
}

func TestOtherToolsDecompress(t *testing.T) {
	data := text(9 << 20)
	for _, c := range []struct {
		t    Type
		tool string
	}{{Gzip, "gzip"}, {Zstd, "zstd"}} {
		path, err := exec.LookPath(c.tool)
		if err != nil {
			t.Logf("SKIPPED for %s: %v", c.t, err)
			continue
		}
		cmd := exec.Command(path, "-dc")
		cmd.Stdin = bytes.NewReader(compress(t, Compression{c.t, -1, false}, 3, data, 1<<20))
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", c.tool, err)
		}
	}
}

func TestNewWriterRefuses(t *testing.T) {
	for _, c := range []Compression{{Gzip, 10, false}, {Zstd, 23, false}, {Gzip, -2, false}, {Type(7), -1, false}} {
		if _, err := NewWriter(io.Discard, c); err == nil {
			t.Errorf("%v: no error", c)
		}
	}
}

func TestCompressToAWriterThatFails(t *testing.T) {
	data := text(5 << 20)
	for _, typ := range []Type{Gzip, Zstd} {
		w, err := NewWriter(&limitedWriter{left: 1000}, Compression{typ, -1, false})
		if err != nil {
			t.Fatal(err)
		}
		_, werr := w.Write(data)
		if err := errors.Join(werr, w.Close()); !errors.Is(err, errFull) {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

var errFull = errors.New("full")

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestNewReaderSniffs(t *testing.T) {
	data := text(1000)
	for _, typ := range []Type{Uncompressed, Gzip, Zstd} {
		z := compress(t, Compression{typ, -1, false}, 1, data, 1000)
		for _, mt := range []string{"", dockerLayer + ".gzip", mediaTypes[Zstd].oci, dockerLayer} {
			got, err := decompress(iotest.OneByteReader(bytes.NewReader(z)), mt)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s as %q: %v", typ, mt, err)
			}
		}
	}
	if _, err := NewReader(bytes.NewReader(nil), "text/plain"); err == nil {
		t.Error("a media type that is no layer's: no error")
	}
	if _, err := NewReader(&failing{}, ""); !errors.Is(err, errFailing) {
		t.Error(err)
	}
}

func TestDecompressTruncated(t *testing.T) {
	data := text(400 << 10)
	for _, typ := range []Type{Gzip, Zstd} {
		z := compress(t, Compression{typ, -1, false}, 1, data, len(data))
		for n := 8; n < len(z); n += 1 + len(z)/50 {
			if got, err := decompress(bytes.NewReader(z[:n]), ""); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: the first %d of %d bytes: %d bytes, %v", typ, n, len(z), len(got), err)
			}
		}
		for n := len(z) - 9; n < len(z); n++ {
			if _, err := decompress(bytes.NewReader(z[:n]), ""); err == nil {
				t.Errorf("%s: the first %d of %d bytes: no error", typ, n, len(z))
			}
		}
		bad := bytes.Clone(z)
		bad[len(bad)/2] ^= 0xff
		if _, err := decompress(bytes.NewReader(bad), ""); err == nil {
			t.Errorf("%s: damaged: no error", typ)
		}
	}
}

func TestReaderClosedEarly(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text(3 << 20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z, err := NewReader(&b, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(z, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := z.Close(); err != nil {
			t.Error(err)
		}
	}
	if n, err := z.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes after Close, %v", n, err)
	}
}

func FuzzNewReader(f *testing.F) {
	data := text(5000)
	for _, typ := range []Type{Uncompressed, Gzip, Zstd} {
		z := compress(f, Compression{typ, -1, false}, 1, data, len(data))
		f.Add(z)
		f.Add(z[:len(z)/2])
	}
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		z, err := NewReader(bytes.NewReader(b), "")
		if err != nil {
			return
		}
		defer z.Close()
		// What ends without an error has to be long enough to be whole, so only
		// that it ends at all is asked for.
		_, _ = io.Copy(io.Discard, io.LimitReader(z, 16<<20))
	})
}

package layer

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/buildd/buildd/cache/digest"
)

// benchLayer is the tar of a layer of files of a size each.
func benchLayer(b *testing.B, files, size int) []byte {
	b.Helper()
	data := string(text(size))
	var es []ent
	for i := range files {
		if i%100 == 0 {
			es = append(es, d(fmt.Sprintf("usr/lib/pkg%03d", i/100)))
		}
		es = append(es, f(fmt.Sprintf("usr/lib/pkg%03d/file-with-a-name-%d.txt", i/100, i), data))
	}
	return tarOf(b, es...)
}

func BenchmarkUnpack(b *testing.B) {
	needRoot(b)
	for name, z := range map[string][]byte{
		"small": benchLayer(b, 5000, 4096), "big": benchLayer(b, 8, 16<<20),
	} {
		b.Run(name, func(b *testing.B) {
			top := b.TempDir()
			b.SetBytes(int64(len(z)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				dir := filepath.Join(top, fmt.Sprint(i))
				if err := os.Mkdir(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := Unpack(b.Context(), bytes.NewReader(z), dir, UnpackOptions{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func BenchmarkPack(b *testing.B) {
	needRoot(b)
	for name, z := range map[string][]byte{
		"small": benchLayer(b, 5000, 4096), "big": benchLayer(b, 8, 16<<20),
	} {
		dir, x := unpack(b, UnpackOptions{}, z)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(z)))
			b.ReportAllocs()
			for b.Loop() {
				if err := Pack(b.Context(), digest.Layer{Dir: dir, Index: x}, io.Discard, PackOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompress(b *testing.B) {
	data := text(64 << 20)
	for _, c := range []Compression{{Gzip, -1, false}, {Gzip, 1, false}, {Zstd, -1, false}, {Zstd, 1, false}} {
		b.Run(fmt.Sprintf("%s/%d", c.Type, c.Level), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			n := 0
			for b.Loop() {
				var out countWriter
				w, err := NewWriter(&out, c)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
				n = int(out)
			}
			b.ReportMetric(float64(len(data))/float64(n), "ratio")
		})
	}
}

type countWriter int

func (w *countWriter) Write(p []byte) (int, error) { *w += countWriter(len(p)); return len(p), nil }

func BenchmarkDecompress(b *testing.B) {
	data := text(64 << 20)
	for _, typ := range []Type{Gzip, Zstd} {
		z := compress(b, Compression{typ, -1, false}, 2, data, 1<<20)
		b.Run(typ.String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := NewReader(bytes.NewReader(z), "")
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
					b.Fatal(n, err)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

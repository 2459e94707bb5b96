package draft

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkCopy copies 5,000 files in 50 directories: with hard links, as COPY
// does where a file needs no change, and with another mode, which takes a file of
// its own.
func BenchmarkCopy(b *testing.B) {
	needRoot(b)
	src := b.TempDir()
	var lines []string
	for i := range 5000 {
		lines = append(lines, fmt.Sprintf("f d%d/f%d content %d", i%50, i, i))
	}
	grow(b, src, lines...)
	from := view(b, src)
	for name, o := range map[string]CopyOptions{
		"linked": {Contents: true},
		"copied": {Contents: true, Mode: func(uint32) uint32 { return 0o700 }},
	} {
		b.Run(name, func(b *testing.B) {
			top := b.TempDir()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				dir := filepath.Join(top, fmt.Sprint(i))
				if err := os.Mkdir(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				d, err := New(dir, nil, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := d.Copy(b.Context(), from, "/", "/app/", o); err != nil {
					b.Fatal(err)
				}
				entries, err := d.Finish()
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if len(entries) < 5000 {
					b.Fatalf("%d entries", len(entries))
				}
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

package digest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// benchTree is a directory like that of a package manager's step: files files in
// a hundredth as many directories, of 4 KiB each.
func benchTree(b *testing.B, files int) string {
	b.Helper()
	dir := b.TempDir()
	data := make([]byte, 4096)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range files {
		p := filepath.Join(dir, fmt.Sprintf("usr/lib/pkg%03d/sub", i/100))
		if i%100 == 0 {
			must(b, os.MkdirAll(p, 0o755))
		}
		for j := range data {
			data[j] = byte(r.Uint32())
		}
		must(b, os.WriteFile(filepath.Join(p, fmt.Sprintf("file-with-a-name-%d.txt", i)), data, 0o644))
	}
	return dir
}

func BenchmarkScan(b *testing.B) {
	const files = 5000
	dir := benchTree(b, files)
	b.SetBytes(files * 4096)
	b.ReportAllocs()
	for b.Loop() {
		x, err := Scan(b.Context(), dir, ScanOptions{})
		if err != nil || x.Size() != files*4096 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/file")
}

func BenchmarkScanBigFiles(b *testing.B) {
	const files, size = 8, 16 << 20
	dir := b.TempDir()
	for i := range files {
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, size), 0o644))
	}
	b.SetBytes(files * size)
	for b.Loop() {
		if _, err := Scan(b.Context(), dir, ScanOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// benchIndex is that of a distribution's base layer.
func benchIndex(b *testing.B, dirs, perDir int) *Index {
	b.Helper()
	var bl Builder
	bl.Add(dir(""))
	bl.Add(dir("usr"))
	for i := range dirs {
		d := fmt.Sprintf("usr/directory-%05d", i)
		bl.Add(dir(d))
		for j := range perDir {
			bl.Add(file(fmt.Sprintf("%s/file-%05d.so", d, j), fmt.Sprint(i, j)))
		}
	}
	x, err := bl.Index()
	must(b, err)
	return x
}

func BenchmarkReadIndex(b *testing.B) {
	var buf bytes.Buffer
	_, err := benchIndex(b, 1000, 50).WriteTo(&buf)
	must(b, err)
	b.ReportMetric(float64(buf.Len())/51000, "bytes/entry")
	b.SetBytes(int64(buf.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadIndex(bytes.NewReader(buf.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkViewContent(b *testing.B) {
	base := benchIndex(b, 1000, 50)
	for _, layers := range []int{1, 30, 1000} {
		chain := []Layer{{Index: base}}
		for i := 1; i < layers; i++ {
			var bl Builder
			bl.Add(dir("usr"))
			d := fmt.Sprintf("usr/directory-%05d", i)
			bl.Add(dir(d))
			bl.Add(file(d+"/new", fmt.Sprint(i)))
			x, err := bl.Index()
			must(b, err)
			chain = append(chain, Layer{Index: x})
		}
		for name, sel := range map[string]Select{
			"all": {Path: "/"}, "file": {Path: "/usr/directory-00500/file-00001.so"}, "wildcard": {Path: "/usr/directory-0000*/*.so", Wildcard: true},
			"exclude": {Path: "/usr", Contents: true, Exclude: []string{"**/*.so", "!directory-00001"}},
		} {
			b.Run(fmt.Sprintf("%s/layers=%d/new", name, layers), func(b *testing.B) {
				for b.Loop() {
					if _, err := NewView(chain).Content(b.Context(), Selection{Paths: []Select{sel}}); err != nil {
						b.Fatal(err)
					}
				}
			})
			v := NewView(chain)
			b.Run(fmt.Sprintf("%s/layers=%d/again", name, layers), func(b *testing.B) {
				for b.Loop() {
					if _, err := v.Content(b.Context(), Selection{Paths: []Select{sel}}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkIndexContent(b *testing.B) {
	x := benchIndex(b, 1000, 50)
	for b.Loop() {
		newIndex(x.raw).Content()
	}
}

func BenchmarkBuild(b *testing.B) {
	es := benchIndex(b, 1000, 50).Entries()
	b.ReportAllocs()
	for b.Loop() {
		var bl Builder
		for _, e := range es {
			bl.Add(e)
		}
		x, err := bl.Index()
		must(b, err)
		_, err = x.WriteTo(io.Discard)
		must(b, err)
	}
}

package tree

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
)

// BenchmarkStep is what the store adds to a RUN that writes one file.
func BenchmarkStep(b *testing.B) {
	dir := b.TempDir()
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		b.Fatal(err)
	}
	s, err := Open(Config{Dir: filepath.Join(dir, "trees"), Blobs: blobs, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var t cache.Tree
	for i := 0; b.Loop(); i++ {
		f, err := s.Fork(b.Context(), t)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(f.Dir+"/f", []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
		made, err := f.Commit(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if t = made; i%10 == 9 {
			t = ""
		}
	}
}

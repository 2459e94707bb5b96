package local

import (
	"testing"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
)

var dirs = map[*tree.Store]string{}

func openTrees(t testing.TB) *tree.Store {
	t.Helper()
	blobs, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := tree.Open(tree.Config{Dir: dir, Blobs: blobs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	dirs[s] = dir
	return s
}

func treesDir(s *tree.Store) string { return dirs[s] }

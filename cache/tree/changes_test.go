package tree

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/layer"
)

func changes(t *testing.T, s *Store, old, new cache.Tree, sel cache.Selector) ([]string, error) {
	t.Helper()
	var out []string
	err := s.Changes(t.Context(), old, new, sel, func(c digest.Change) error {
		out = append(out, c.Path)
		return nil
	})
	return out, err
}

func TestChanges(t *testing.T) {
	c := config(t)
	c.Spare = time.Nanosecond
	s := open(t, c)
	base := step(t, s, "", func(dir string) { write(t, dir+"/src/a", "1"); write(t, dir+"/src/b", "1") })
	next := step(t, s, base, func(dir string) {
		write(t, dir+"/src/a", "2")
		write(t, dir+"/new", "")
		must(t, os.Remove(dir+"/src/b"))
	})
	got, err := changes(t, s, base, next, cache.Root)
	must(t, err)
	if want := []string{"/new", "/src/a", "/src/b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got, err = changes(t, s, base, next, digest.Selection{Paths: []digest.Select{{Path: "/src/a"}}}.Selector())
	must(t, err)
	if want := []string{"/src/a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, err = changes(t, s, "", base, cache.Root); err != nil || len(got) != 2 {
		t.Errorf("against the empty tree: %q, %v", got, err)
	}
	sweep(t, s, base)
	if _, err := changes(t, s, base, next, cache.Root); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("a tree that is gone: %v", err)
	}
}

// TestChangesFetchesNothing compares what lies over an image that nobody has
// read yet.
func TestChangesFetchesNothing(t *testing.T) {
	s := newStore(t)
	r := &registry{}
	image := addImage(t, s, r.add(t, layer.Gzip, "etc", "etc/a=1"))
	over := func(content string) cache.Tree {
		id := top(t, s, step(t, s, "", func(dir string) { write(t, dir+"/app/main", content) })).ID
		tree, err := s.Append(image, id)
		must(t, err)
		return tree
	}
	old, new := over("1"), over("2")
	got, err := changes(t, s, old, new, cache.Root)
	must(t, err)
	if want := []string{"/app/main"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	other := addImage(t, s, r.add(t, layer.Gzip, "etc", "etc/a=2"))
	if _, err := changes(t, s, image, other, cache.Root); !errors.Is(err, ErrNotReady) {
		t.Errorf("images that are not here: %v", err)
	}
	if r.opens.Load() > 0 {
		t.Error("something was fetched")
	}
}

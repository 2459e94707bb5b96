package cachetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
)

// Cache is solver.Cache, which packages below the solver cannot name.
type Cache interface {
	Result(ctx context.Context, k cache.Key) (cache.Record, error)
	SetResult(ctx context.Context, k cache.Key, r cache.Record) error
	Content(ctx context.Context, k cache.Key, output int, s cache.Selector) (cache.Key, error)
	SetContent(ctx context.Context, k cache.Key, output int, s cache.Selector, c cache.Key) error
}

// Run tests caches that are made by open, one per test and empty. Where the
// trees of a record must exist, newTree makes one; nil makes up names.
func Run(t *testing.T, open func(t *testing.T) Cache, newTree func(t *testing.T) cache.Tree) {
	if newTree == nil {
		n := 0
		newTree = func(*testing.T) cache.Tree { n++; return cache.Tree(fmt.Sprint("tree-", n)) }
	}
	for name, test := range map[string]func(*testing.T, *suite){
		"Unknown":          testUnknown,
		"Result":           testResult,
		"Uses":             testUses,
		"Contents":         testContents,
		"SelectorsDiffer":  testSelectorsDiffer,
		"NewTreesForget":   testNewTreesForget,
		"SameTreesKeep":    testSameTreesKeep,
		"CallerKeepsSlice": testCallerKeepsSlice,
		"Concurrent":       testConcurrent,
	} {
		t.Run(name, func(t *testing.T) { test(t, &suite{open(t), newTree}) })
	}
}

type suite struct {
	Cache
	newTree func(t *testing.T) cache.Tree
}

func key(s string) cache.Key { return cache.Hash("test", []byte(s)) }

// put stores a record with n new trees under k.
func (s *suite) put(t *testing.T, k cache.Key, n int) cache.Record {
	t.Helper()
	now := time.Now().UTC().Round(time.Millisecond)
	r := cache.Record{Name: "step", Kind: "regular", Created: now, LastUsed: now, UseCount: 1, Duration: 3 * time.Second}
	for range n {
		r.Trees = append(r.Trees, s.newTree(t))
	}
	if err := s.SetResult(t.Context(), k, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *suite) mustContent(t *testing.T, k cache.Key, output int, sel cache.Selector, want cache.Key) {
	t.Helper()
	got, err := s.Content(t.Context(), k, output, sel)
	if want.IsZero() {
		if !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("Content(%d, %.20q) = %v, %v; want ErrNotFound", output, sel, got, err)
		}
		return
	}
	if err != nil || got != want {
		t.Errorf("Content(%d, %.20q) = %v, %v; want %v", output, sel, got, err, want)
	}
}

func testUnknown(t *testing.T, s *suite) {
	if _, err := s.Result(t.Context(), key("x")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("Result: %v", err)
	}
	s.mustContent(t, key("x"), 0, cache.Root, cache.Key{})
}

func testResult(t *testing.T, s *suite) {
	a := s.put(t, key("a"), 2)
	b := s.put(t, key("b"), 0)
	for k, want := range map[string]cache.Record{"a": a, "b": b} {
		got, err := s.Result(t.Context(), key(k))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Trees, want.Trees) || got.Name != want.Name || got.Kind != want.Kind ||
			!got.Created.Equal(want.Created) || got.Duration != want.Duration {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	c := s.put(t, key("a"), 1)
	if got, err := s.Result(t.Context(), key("a")); err != nil || !slices.Equal(got.Trees, c.Trees) {
		t.Errorf("after replacing: %+v, %v", got, err)
	}
}

// Whether and when uses are counted is the cache's, but they never run backwards.
func testUses(t *testing.T, s *suite) {
	last := s.put(t, key("a"), 1)
	for range 3 {
		r, err := s.Result(t.Context(), key("a"))
		if err != nil {
			t.Fatal(err)
		}
		// The record was put with a time rounded to milliseconds, so up to half of one
		// ahead of the clock.
		if r.UseCount < last.UseCount || r.LastUsed.Before(last.LastUsed.Add(-time.Millisecond)) {
			t.Errorf("uses went from %d at %v to %d at %v", last.UseCount, last.LastUsed, r.UseCount, r.LastUsed)
		}
		last = r
	}
}

func testContents(t *testing.T, s *suite) {
	s.put(t, key("a"), 2)
	set := func(output int, sel cache.Selector, c string) {
		t.Helper()
		if err := s.SetContent(t.Context(), key("a"), output, sel, key(c)); err != nil {
			t.Fatal(err)
		}
	}
	set(0, cache.Root, "c0")
	s.mustContent(t, key("a"), 0, cache.Root, key("c0"))
	s.mustContent(t, key("a"), 1, cache.Root, cache.Key{})
	s.mustContent(t, key("b"), 0, cache.Root, cache.Key{})
	set(1, cache.Root, "c1")
	s.mustContent(t, key("a"), 1, cache.Root, key("c1"))
	s.mustContent(t, key("a"), 0, cache.Root, key("c0"))
	set(0, cache.Root, "c2")
	s.mustContent(t, key("a"), 0, cache.Root, key("c2"))
}

func testSelectorsDiffer(t *testing.T, s *suite) {
	s.put(t, key("a"), 1)
	long := strings.Repeat("x", 100_000) // a COPY of very many paths
	sels := []cache.Selector{cache.Root, "{}", cache.Selector(long), cache.Selector(long + "y"), "a\x00b", ""}
	for i, sel := range sels {
		if err := s.SetContent(t.Context(), key("a"), 0, sel, key(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for i, sel := range sels {
		s.mustContent(t, key("a"), 0, sel, key(fmt.Sprint(i)))
	}
}

func testNewTreesForget(t *testing.T, s *suite) {
	for _, k := range []string{"a", "b"} {
		s.put(t, key(k), 1)
		for _, sel := range []cache.Selector{cache.Root, "{}"} {
			if err := s.SetContent(t.Context(), key(k), 0, sel, key("c")); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.put(t, key("a"), 1)
	for _, sel := range []cache.Selector{cache.Root, "{}"} {
		s.mustContent(t, key("a"), 0, sel, cache.Key{})
		s.mustContent(t, key("b"), 0, sel, key("c"))
	}
	if err := s.SetContent(t.Context(), key("a"), 0, cache.Root, key("new")); err != nil {
		t.Fatal(err)
	}
	s.mustContent(t, key("a"), 0, cache.Root, key("new"))
}

func testSameTreesKeep(t *testing.T, s *suite) {
	r := s.put(t, key("a"), 2)
	if err := s.SetContent(t.Context(), key("a"), 1, cache.Root, key("c")); err != nil {
		t.Fatal(err)
	}
	r.Name = "renamed"
	if err := s.SetResult(t.Context(), key("a"), r); err != nil {
		t.Fatal(err)
	}
	s.mustContent(t, key("a"), 1, cache.Root, key("c"))
	if got, err := s.Result(t.Context(), key("a")); err != nil || got.Name != "renamed" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func testCallerKeepsSlice(t *testing.T, s *suite) {
	r := s.put(t, key("a"), 1)
	want := r.Trees[0]
	r.Trees[0] = "changed"
	got, err := s.Result(t.Context(), key("a"))
	if err != nil || got.Trees[0] != want {
		t.Errorf("got %v, %v; want %v", got.Trees, err, want)
	}
}

func testConcurrent(t *testing.T, s *suite) {
	trees := []cache.Tree{s.newTree(t), s.newTree(t)}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				k := key(fmt.Sprint(j % 10))
				r := cache.Record{Trees: trees[i%2 : i%2+1], Created: time.Now()}
				if err := s.SetResult(t.Context(), k, r); err != nil {
					t.Error(err)
				}
				if err := s.SetContent(t.Context(), k, 0, cache.Root, key("c")); err != nil {
					t.Error(err)
				}
				if _, err := s.Result(t.Context(), k); err != nil {
					t.Error(err)
				}
				if _, err := s.Content(t.Context(), k, 0, cache.Root); err != nil && !errors.Is(err, cache.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/cachetest"
)

func open(t *testing.T, c Config) *Store {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "actions.db")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func key(s string) cache.Key { return cache.Hash("test", []byte(s)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]Config{
		"gathered": {Interval: time.Hour},
		"written":  {Interval: time.Nanosecond, Batch: 1},
	} {
		t.Run(name, func(t *testing.T) {
			cachetest.Run(t, func(t *testing.T) cachetest.Cache { return open(t, c) }, nil)
		})
	}
	// Every read goes to the disk.
	t.Run("flushed", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T) cachetest.Cache { return flushing{open(t, Config{Interval: time.Hour})} }, nil)
	})
}

type flushing struct{ *Store }

func (f flushing) Result(ctx context.Context, k cache.Key) (cache.Record, error) {
	if err := f.Flush(ctx); err != nil {
		return cache.Record{}, err
	}
	return f.Store.Result(ctx, k)
}

func (f flushing) Content(ctx context.Context, k cache.Key, output int, s cache.Selector) (cache.Key, error) {
	if err := f.Flush(ctx); err != nil {
		return cache.Key{}, err
	}
	return f.Store.Content(ctx, k, output, s)
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "actions.db")
	s := open(t, Config{Path: path})
	must(t, s.SetResult(t.Context(), key("a"), cache.Record{Trees: []cache.Tree{"t"}, UseCount: 5}))
	must(t, s.SetResult(t.Context(), key("b"), cache.Record{Trees: []cache.Tree{"t"}}))
	must(t, s.SetContent(t.Context(), key("a"), 1, "x", key("c")))
	must(t, s.SetContent(t.Context(), key("b"), 1, "x", key("c")))
	must(t, s.SetLastBuild(t.Context(), "target", []byte("text")))
	must(t, s.Flush(t.Context()))
	for range 3 {
		_, err := s.Result(t.Context(), key("a"))
		must(t, err)
	}
	must(t, s.Delete(t.Context(), key("b")))
	must(t, s.Close())

	s = open(t, Config{Path: path})
	r, err := s.Peek(t.Context(), key("a"))
	if err != nil || r.UseCount != 8 || time.Since(r.LastUsed) > time.Minute {
		t.Errorf("record: %+v, %v", r, err)
	}
	if c, err := s.Content(t.Context(), key("a"), 1, "x"); err != nil || c != key("c") {
		t.Errorf("content: %v, %v", c, err)
	}
	if _, err := s.Result(t.Context(), key("b")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("deleted record: %v", err)
	}
	if _, err := s.Content(t.Context(), key("b"), 1, "x"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("content of a deleted record: %v", err)
	}
	if text, err := s.LastBuild(t.Context(), "target"); err != nil || string(text) != "text" {
		t.Errorf("last build: %q, %v", text, err)
	}
	if _, err := s.LastBuild(t.Context(), "other"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("last build of another target: %v", err)
	}
	must(t, s.SetLastBuild(t.Context(), "target", []byte("later")))
	if text, err := s.LastBuild(t.Context(), "target"); err != nil || string(text) != "later" {
		t.Errorf("last build before it is on disk: %q, %v", text, err)
	}
}

// Records reach the disk after the trees that they name, and only then.
func TestBarrier(t *testing.T) {
	var synced atomic.Int32
	down := errors.New("down")
	var fail atomic.Bool
	path := filepath.Join(t.TempDir(), "actions.db")
	s := open(t, Config{Path: path, Interval: time.Hour, Barrier: func(context.Context) error {
		synced.Add(1)
		if fail.Load() {
			return down
		}
		return nil
	}})
	must(t, s.SetContent(t.Context(), key("a"), 0, "x", key("c")))
	must(t, s.Flush(t.Context()))
	if synced.Load() != 0 {
		t.Error("a batch without results waits for trees")
	}
	fail.Store(true)
	must(t, s.SetResult(t.Context(), key("a"), cache.Record{Trees: []cache.Tree{"t"}}))
	if err := s.Flush(t.Context()); !errors.Is(err, down) {
		t.Fatalf("Flush: %v", err)
	}
	if _, err := s.storedRecord(key("a")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("the record is on disk although its tree is not: %v", err)
	}
	if _, err := s.Result(t.Context(), key("a")); err != nil {
		t.Error(err)
	}
	fail.Store(false)
	must(t, s.Flush(t.Context()))
	if r, err := s.storedRecord(key("a")); err != nil || r.UseCount != 1 {
		t.Errorf("after the retry: %+v, %v", r, err)
	}
}

func TestWritesByItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "actions.db")
	s := open(t, Config{Path: path, Interval: time.Millisecond})
	stored := func(k string) bool {
		for range 2000 {
			if _, err := s.storedRecord(key(k)); err == nil {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	}
	must(t, s.SetResult(t.Context(), key("a"), cache.Record{}))
	if !stored("a") {
		t.Error("not written when the interval was over")
	}
	s = open(t, Config{Interval: time.Hour, Batch: 10})
	for i := range 10 {
		must(t, s.SetResult(t.Context(), key(fmt.Sprint(i)), cache.Record{}))
	}
	if !stored("9") {
		t.Error("not written when the batch was full")
	}
}

// What fails to be written is merged with what came meanwhile.
func TestRetryMerges(t *testing.T) {
	fail := true
	down := errors.New("down")
	s := open(t, Config{Interval: time.Hour})
	s.cfg.Barrier = func(context.Context) error {
		if !fail {
			return nil
		}
		// Between the batch's departure and its return:
		must(t, s.SetResult(t.Context(), key("replaced"), cache.Record{Trees: []cache.Tree{"new"}}))
		must(t, s.Delete(t.Context(), key("deleted")))
		_, err := s.Result(t.Context(), key("used"))
		must(t, err)
		must(t, s.SetContent(t.Context(), key("used"), 0, "late", key("late")))
		return down
	}
	for _, k := range []string{"replaced", "deleted", "used"} {
		must(t, s.SetResult(t.Context(), key(k), cache.Record{Trees: []cache.Tree{"old"}}))
		must(t, s.SetContent(t.Context(), key(k), 0, "early", key("early")))
	}
	if err := s.Flush(t.Context()); !errors.Is(err, down) {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if r, err := s.Peek(t.Context(), key("replaced")); err != nil || r.Trees[0] != "new" {
			t.Errorf("replaced: %+v, %v", r, err)
		}
		if _, err := s.Peek(t.Context(), key("deleted")); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("deleted: %v", err)
		}
		if r, err := s.Peek(t.Context(), key("used")); err != nil || r.UseCount != 1 {
			t.Errorf("used: %+v, %v", r, err)
		}
		for _, c := range []struct {
			k, sel string
			ok     bool
		}{{"replaced", "early", false}, {"deleted", "early", false}, {"used", "early", true}, {"used", "late", true}} {
			if _, err := s.Content(t.Context(), key(c.k), 0, cache.Selector(c.sel)); (err == nil) != c.ok {
				t.Errorf("content %v: %v", c, err)
			}
		}
	}
	check()
	fail = false
	must(t, s.Flush(t.Context()))
	check()
}

func TestDeadTrees(t *testing.T) {
	dead := map[cache.Tree]bool{}
	s := open(t, Config{Alive: func(t cache.Tree) bool { return !dead[t] }})
	must(t, s.SetResult(t.Context(), key("a"), cache.Record{Trees: []cache.Tree{"", "x", "y"}}))
	must(t, s.SetContent(t.Context(), key("a"), 0, "sel", key("c")))
	_, err := s.Result(t.Context(), key("a"))
	must(t, err)
	dead["y"] = true
	if _, err := s.Peek(t.Context(), key("a")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("Peek: %v", err)
	}
	if _, err := s.Result(t.Context(), key("a")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("Result: %v", err)
	}
	dead["y"] = false
	if _, err := s.Result(t.Context(), key("a")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("the record of a dead tree is back: %v", err)
	}
	if _, err := s.Content(t.Context(), key("a"), 0, "sel"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("the content of a dead tree is kept: %v", err)
	}
}

func TestEach(t *testing.T) {
	s := open(t, Config{Interval: time.Hour})
	for _, k := range []string{"a", "b", "c"} {
		must(t, s.SetResult(t.Context(), key(k), cache.Record{Name: k}))
	}
	must(t, s.Flush(t.Context()))
	must(t, s.Delete(t.Context(), key("a")))
	must(t, s.SetResult(t.Context(), key("b"), cache.Record{Name: "b2"}))
	must(t, s.SetResult(t.Context(), key("d"), cache.Record{Name: "d"}))
	_, err := s.Result(t.Context(), key("c"))
	must(t, err)
	var got []string
	must(t, s.Each(t.Context(), func(k cache.Key, r cache.Record) error {
		got = append(got, fmt.Sprintf("%s %d", r.Name, r.UseCount))
		return nil
	}))
	slices.Sort(got)
	if want := []string{"b2 0", "c 1", "d 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	stop := errors.New("stop")
	if err := s.Each(t.Context(), func(cache.Key, cache.Record) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestTidy(t *testing.T) {
	s := open(t, Config{Interval: time.Hour})
	must(t, s.SetResult(t.Context(), key("kept"), cache.Record{}))
	for _, k := range []string{"kept", "orphan"} {
		must(t, s.SetContent(t.Context(), key(k), 0, "x", key("c")))
	}
	must(t, s.SetLastBuild(t.Context(), "t", nil))
	must(t, s.Flush(t.Context()))
	must(t, s.Tidy(t.Context(), time.Now().Add(-time.Hour)))
	has := func(k string) bool {
		_, err := s.Content(t.Context(), key(k), 0, "x")
		return err == nil
	}
	if _, err := s.LastBuild(t.Context(), "t"); err != nil || !has("kept") || !has("orphan") {
		t.Error("tidied what is young")
	}
	must(t, s.Tidy(t.Context(), time.Now().Add(time.Hour)))
	if _, err := s.LastBuild(t.Context(), "t"); !errors.Is(err, cache.ErrNotFound) || !has("kept") || has("orphan") {
		t.Errorf("last build: %v; contents: %v, %v", err, has("kept"), has("orphan"))
	}
}

func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "actions.db")
	s := open(t, Config{Path: path})
	for i := range 1000 {
		must(t, s.SetResult(t.Context(), key(fmt.Sprint(i)), cache.Record{Name: strings.Repeat("x", 100)}))
	}
	must(t, s.Close())
	b, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, append(b[:8192:8192], bytes.Repeat([]byte{0xee}, len(b)-8192)...), 0o600))
	var log bytes.Buffer
	s = open(t, Config{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "damaged") {
		t.Errorf("log: %q", log.String())
	}
	if _, err := s.Result(t.Context(), key("1")); !errors.Is(err, cache.ErrNotFound) {
		t.Error(err)
	}
	must(t, s.SetResult(t.Context(), key("1"), cache.Record{Name: "new"}))
	must(t, s.Flush(t.Context()))
}

// While it runs, damage makes the store one that knows nothing.
func TestDamagedLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "actions.db")
	s := open(t, Config{Path: path, Interval: time.Hour})
	must(t, s.SetResult(t.Context(), key("a"), cache.Record{}))
	must(t, s.Flush(t.Context()))
	must(t, os.Truncate(path, 4096))
	for range 2 {
		if _, err := s.Result(t.Context(), key("a")); !errors.Is(err, cache.ErrNotFound) {
			t.Fatal(err)
		}
		must(t, s.SetResult(t.Context(), key("b"), cache.Record{}))
		must(t, s.Flush(t.Context()))
	}
	must(t, s.Each(t.Context(), func(cache.Key, cache.Record) error { return nil }))
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skip("SKIPPED: needs root: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, Config{Path: filepath.Join(dir, "actions.db"), Interval: time.Hour})
	t.Cleanup(func() { s.Close() })
	for i := range 2000 {
		must(t, s.SetResult(t.Context(), key(fmt.Sprint(i)), cache.Record{Name: strings.Repeat("x", 1000)}))
	}
	if err := s.Flush(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Flush: %v", err)
	}
	if r, err := s.Result(t.Context(), key("1999")); err != nil || r.Name == "" {
		t.Errorf("Result: %v", err)
	}
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=64m"))
	must(t, s.Flush(t.Context()))
	if r, err := s.storedRecord(key("0")); err != nil || r.Name == "" {
		t.Errorf("after the disk had room: %v", err)
	}
}

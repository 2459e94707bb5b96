package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
)

func open(t *testing.T, dir string) *Caches {
	t.Helper()
	c, err := OpenCaches(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func acquire(t *testing.T, c *Caches, r Request) *Cache {
	t.Helper()
	u, err := c.Acquire(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func release(t *testing.T, us ...*Cache) {
	t.Helper()
	for _, u := range us {
		if err := u.Release(); err != nil {
			t.Error(err)
		}
		if err := u.Release(); err != nil { // does nothing
			t.Error(err)
		}
	}
}

func TestCachesSharing(t *testing.T) {
	c := open(t, t.TempDir())
	a := acquire(t, c, Request{ID: "x"})
	b := acquire(t, c, Request{ID: "x"})
	p := acquire(t, c, Request{ID: "x", Sharing: Private})
	o := acquire(t, c, Request{ID: "x", Base: cache.Hash("other")})
	if a.Dir != b.Dir || a.Dir == p.Dir || a.Dir == o.Dir {
		t.Errorf("directories %s %s %s %s", a.Dir, b.Dir, p.Dir, o.Dir)
	}
	release(t, a, b, p, o)
	// The oldest is used again.
	q := acquire(t, c, Request{ID: "x", Sharing: Private})
	if q.Dir != a.Dir {
		t.Errorf("a free directory is not used again")
	}
	release(t, q)
}

func TestCachesLocked(t *testing.T) {
	c := open(t, t.TempDir())
	first := acquire(t, c, Request{ID: "x", Sharing: Locked})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Acquire(ctx, Request{ID: "x", Sharing: Locked}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a locked cache was had twice: %v", err)
	}
	var mu sync.Mutex
	holders, most := 1, 1
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			u, err := c.Acquire(t.Context(), Request{ID: "x", Sharing: Locked})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			holders++
			most = max(most, holders)
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			holders--
			mu.Unlock()
			release(t, u)
		})
	}
	mu.Lock()
	holders--
	mu.Unlock()
	release(t, first)
	all.Wait()
	if most != 1 {
		t.Errorf("%d had the locked cache at once", most)
	}
	if u, _ := c.Usage(t.Context()); len(u) != 1 {
		t.Errorf("%d directories, want 1", len(u))
	}
}

func TestCachesSurvive(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	u := acquire(t, c, Request{ID: "x", Description: "d", Fill: func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "base"), []byte("base"), 0o644)
	}})
	if err := os.WriteFile(filepath.Join(u.Dir, "f"), make([]byte, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(u.Dir, "f"), filepath.Join(u.Dir, "g")); err != nil {
		t.Fatal(err)
	}
	// Without Release, as after a crash; beside it one that was never finished.
	if err := os.MkdirAll(filepath.Join(dir, "unfinished", "files"), 0o755); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "unfinished")); !os.IsNotExist(err) {
		t.Errorf("an unfinished directory is still there: %v", err)
	}
	again := acquire(t, c, Request{ID: "x", Fill: func(context.Context, string) error { return errors.New("filled again") }})
	if again.Dir != u.Dir {
		t.Errorf("directory %s, want %s", again.Dir, u.Dir)
	}
	list, err := c.Usage(t.Context())
	if err != nil || len(list) != 1 || !list[0].InUse || list[0].Size < 100_000 || list[0].Size > 190_000 || list[0].Description != "d" {
		t.Errorf("usage %+v %v", list, err)
	}
	if err := c.Remove(t.Context(), list[0].Name); !errors.Is(err, ErrInUse) {
		t.Errorf("a directory in use was removed: %v", err)
	}
	release(t, again)
	if err := c.Remove(t.Context(), list[0].Name); err != nil {
		t.Error(err)
	}
	if err := c.Remove(t.Context(), list[0].Name); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCachesForget(t *testing.T) {
	c := open(t, t.TempDir())
	a, b := acquire(t, c, Request{ID: "a"}), acquire(t, c, Request{ID: "b"})
	release(t, a)
	if err := c.Forget(t.Context(), "a", "b"); err != nil {
		t.Error(err)
	}
	if u, _ := c.Usage(t.Context()); len(u) != 1 || u[0].ID != "b" {
		t.Errorf("usage %+v", u)
	}
	release(t, b)
}

func TestCachesFillFails(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	oops := errors.New("oops")
	waiting := make(chan error)
	_, err := c.Acquire(t.Context(), Request{ID: "x", Fill: func(context.Context, string) error {
		go func() { // waits for the directory that is being made, then makes its own
			u, err := c.Acquire(t.Context(), Request{ID: "x", Sharing: Locked})
			if err == nil {
				err = u.Release()
			}
			waiting <- err
		}()
		time.Sleep(5 * time.Millisecond)
		return oops
	}})
	if !errors.Is(err, oops) {
		t.Errorf("error %v", err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

package tree

import (
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
)

func sweep(t *testing.T, s *Store, roots ...cache.Tree) []cache.LayerID {
	t.Helper()
	gone, err := s.Sweep(t.Context(), roots)
	must(t, err)
	var ids []cache.LayerID
	for _, l := range gone {
		ids = append(ids, l.ID)
	}
	return ids
}

func TestSweep(t *testing.T) {
	c := config(t)
	c.Spare = time.Nanosecond
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	x := step(t, s, a, func(dir string) { write(t, dir+"/x", "1") })
	y := step(t, s, "", func(dir string) { write(t, dir+"/y", "1") })
	idX, idY := top(t, s, x).ID, top(t, s, y).ID
	must(t, s.Sync(t.Context()))
	l := s.Lease("build")
	must(t, l.Add(x))
	must(t, l.Add(x))
	must(t, l.Add(""))
	if err := l.Add("nope"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("lease of an unknown tree: %v", err)
	}
	if gone := sweep(t, s, b); !slices.Equal(gone, []cache.LayerID{idY}) {
		t.Errorf("swept %v, want %v", gone, idY)
	}
	if s.Has(y) || !s.Has(a) || !s.Has(x) {
		t.Error("swept what it should not, or not what it should")
	}
	if err := l.Add(y); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("lease of a swept tree: %v", err)
	}
	expect(t, mounted(t, s, x), "a=1", "x=1")
	l.Release()
	l.Release()
	if err := l.Add(b); err == nil {
		t.Error("a released lease takes trees")
	}
	if gone := sweep(t, s, b); !slices.Equal(gone, []cache.LayerID{idX}) {
		t.Errorf("swept %v, want %v", gone, idX)
	}
	must(t, s.Close())
	s = open(t, c)
	expect(t, mounted(t, s, b), "a=1", "b=1")
	if s.Has(x) || s.Has(y) {
		t.Error("swept trees are back")
	}
	if gone := sweep(t, s); len(gone) != 2 {
		t.Errorf("swept %v", gone)
	}
	empty(t, s, layersDir, trashDir, draftsDir, mountsDir)
}

// A tree is safe from its making until it is leased; then the lease decides.
func TestSweepSparesTheNew(t *testing.T) {
	s := newStore(t)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	if gone := sweep(t, s); len(gone) != 0 {
		t.Errorf("swept %v", gone)
	}
	l := s.Lease("build")
	must(t, l.Add(a))
	l.Release()
	if gone := sweep(t, s); len(gone) != 0 {
		t.Errorf("swept %v between two holders", gone)
	}
	must(t, s.Settle(t.Context()))
	if gone := sweep(t, s); len(gone) != 1 {
		t.Errorf("swept %v", gone)
	}
}

func TestSweepSparesWhatIsUsed(t *testing.T) {
	c := config(t)
	c.Spare = time.Nanosecond
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	use := func(begin func() (end func())) {
		t.Helper()
		end := begin()
		if gone := sweep(t, s); len(gone) != 0 {
			t.Fatalf("swept %v", gone)
		}
		end()
	}
	use(func() func() {
		v, err := s.View(t.Context(), a)
		must(t, err)
		return func() { must(t, v.Close()) }
	})
	use(func() func() {
		f, err := s.Fork(t.Context(), a)
		must(t, err)
		return func() { must(t, f.Discard()) }
	})
	use(func() func() {
		d, err := s.NewDraft(t.Context(), a)
		must(t, err)
		return func() { must(t, d.Discard()) }
	})
	if gone := sweep(t, s); len(gone) != 1 {
		t.Errorf("swept %v", gone)
	}
}

// A layer that is removed and had again does not meet its old self.
func TestSweepAndReturn(t *testing.T) {
	c := config(t)
	c.Spare = time.Nanosecond
	s := open(t, c)
	r := &registry{}
	chain := []ImageLayer{r.add(t, layer.Gzip, "a=1"), r.add(t, layer.Gzip, "b=1")}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.Sweep(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 30 {
		l := s.Lease("build")
		img := addImage(t, s, chain...)
		if err := l.Add(img); errors.Is(err, cache.ErrNotFound) {
			continue // in between; Spare is 0 here
		}
		must(t, s.Ensure(t.Context(), img, r, nil))
		expect(t, mounted(t, s, img), "a=1", "b=1")
		l.Release()
	}
	close(stop)
	wg.Wait()
	sweep(t, s)
	empty(t, s, layersDir, trashDir, draftsDir)
}

func TestSweepOnFullDisk(t *testing.T) {
	c := config(t)
	c.Spare = time.Nanosecond
	must(t, os.Mkdir(c.Dir, 0o755))
	mountTmpfs(t, c.Dir, "size=1m")
	s := open(t, c)
	t.Cleanup(func() { s.Close() })
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", string(make([]byte, 300_000))) })
	must(t, s.Sync(t.Context()))
	fill(t, c.Dir+"/filler")
	_, err := s.Sweep(t.Context(), nil)
	_ = err // the records may have found no room
	if s.Has(a) || freeBytes(t, c.Dir) < 250_000 {
		t.Errorf("%d bytes are free", freeBytes(t, c.Dir))
	}
	must(t, os.Remove(c.Dir+"/filler"))
	must(t, s.Close())
	s = open(t, c)
	t.Cleanup(func() { s.Close() })
	if s.Has(a) {
		t.Error("a tree without files is back")
	}
}

package tree

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/layer"
)

func TestReopen(t *testing.T) {
	c := config(t)
	s := open(t, c)
	r := &registry{}
	img := addImage(t, s, r.add(t, layer.Gzip, "img=1"), r.add(t, layer.Gzip, "img2=1"))
	lazy := addImage(t, s, r.add(t, layer.Gzip, "lazy=1"))
	must(t, s.Ensure(t.Context(), img, r, nil))
	a := step(t, s, img, func(dir string) { write(t, dir+"/a", "1") })
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	content, err := s.Content(t.Context(), b, cache.Root)
	must(t, err)
	want := layers(t, s, b)
	must(t, s.Close())

	s = open(t, c)
	expect(t, mounted(t, s, b), "a=1", "b=1", "img2=1", "img=1")
	if k, err := s.Content(t.Context(), b, cache.Root); err != nil || k != content {
		t.Errorf("content %v, %v; want %v", k, err, content)
	}
	if got := layers(t, s, b); fmt.Sprint(got) != fmt.Sprint(want) && !slices.EqualFunc(got, want, func(a, b LayerInfo) bool {
		return a.ID == b.ID && a.Content == b.Content && a.DiffID == b.DiffID && a.Ready == b.Ready && a.Size == b.Size &&
			a.Created.Equal(b.Created) && slices.Equal(a.Sources, b.Sources)
	}) {
		t.Errorf("layers\n%v, want\n%v", got, want)
	}
	must(t, s.Ensure(t.Context(), lazy, r, nil))
	expect(t, mounted(t, s, lazy), "lazy=1")
}

// What was not synced is gone after a crash, what was is there.
func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	c := config(t)
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	must(t, s.Sync(t.Context()))
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	draft, err := s.NewDraft(t.Context(), a)
	must(t, err)
	write(t, draft.Dir+"/x", "1")
	fork, err := s.Fork(t.Context(), a)
	must(t, err)
	write(t, fork.Dir+"/x", "1")
	view, err := s.View(t.Context(), b)
	must(t, err)
	crash(t, s)

	s = open(t, c)
	expect(t, mounted(t, s, a), "a=1")
	if s.Has(b) {
		t.Error("a tree that was not synced is there")
	}
	empty(t, s, draftsDir, mountsDir, trashDir)
	if names, _ := os.ReadDir(s.path(layersDir)); len(names) != 1 {
		t.Errorf("%d directories of layers", len(names))
	}
	for _, dir := range []string{fork.Dir, view.Dir} {
		if m, err := mountinfo.Mounted(dir); m || err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still mounted: %v, %v", dir, m, err)
		}
	}
}

// crash drops a store as a killed process does: nothing is written any more, and
// its mounts stay.
func crash(t *testing.T, s *Store) {
	t.Helper()
	s.root.Close()
	must(t, s.db.Close())
	// Close, which open arranged for, finds nothing to do.
	s.root = nil
	clear(s.dirtyLayers)
	clear(s.dirtyTrees)
}

func TestMissingDirectories(t *testing.T) {
	c := config(t)
	s := open(t, c)
	r := &registry{}
	img := addImage(t, s, r.add(t, layer.Gzip, "img=1"))
	must(t, s.Ensure(t.Context(), img, r, nil))
	a := step(t, s, img, func(dir string) { write(t, dir+"/a", "1") })
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	dirImg, dirA := s.path(layersDir, top(t, s, img).dirIn(s)), s.path(layersDir, top(t, s, a).dirIn(s))
	must(t, s.Close())
	must(t, os.RemoveAll(dirImg))
	must(t, os.Remove(dirA+"/index"))

	s = open(t, c)
	if s.Has(a) || s.Has(b) {
		t.Error("trees over a layer that is gone are there")
	}
	if l := top(t, s, img); l.Ready || l.Desc == nil {
		t.Errorf("the image's layer: %+v", l)
	}
	must(t, s.Ensure(t.Context(), img, r, nil))
	expect(t, mounted(t, s, img), "img=1")
	must(t, s.Close())
	s = open(t, c)
	expect(t, mounted(t, s, img), "img=1")
	if trees, _ := s.All(); len(trees) != 1 {
		t.Errorf("%d trees", len(trees))
	}
}

func TestDamagedIndex(t *testing.T) {
	c := config(t)
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	path := s.path(layersDir, top(t, s, a).dirIn(s))
	must(t, s.Close())
	b, err := os.ReadFile(path + "/index")
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(path+"/index", b, 0o600))
	s = open(t, c)
	expect(t, mounted(t, s, a), "a=1")
	must(t, s.Close())
	// Damaged together with the files there is no way back.
	must(t, os.WriteFile(path+"/index", b, 0o600))
	write(t, path+"/fs/a", "2")
	s = open(t, c)
	if _, err := s.Files(t.Context(), a); err == nil {
		t.Error("files that changed are taken for the layer's")
	}
}

func TestDamagedRecords(t *testing.T) {
	c := config(t)
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	x := step(t, s, "", func(dir string) { write(t, dir+"/x", "1") })
	idB, idX := top(t, s, b).ID, top(t, s, x).ID
	must(t, s.Sync(t.Context()))
	must(t, s.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(layersBucket)
		return errors.Join(
			bucket.Put([]byte(idB), []byte("{")),
			bucket.Put([]byte(idX), []byte(`{"dir":"../../../etc"}`)),
			// A chain that bites its tail, and one that hangs in the air.
			tx.Bucket(treesBucket).Put([]byte("loop"), []byte("loop "+idX)),
			tx.Bucket(treesBucket).Put([]byte("air"), []byte("nothing "+idX)),
		)
	}))
	must(t, s.Close())
	s = open(t, c)
	expect(t, mounted(t, s, a), "a=1")
	for _, tree := range []cache.Tree{b, x, "loop", "air"} {
		if s.Has(tree) {
			t.Errorf("%s is there", tree)
		}
	}
	must(t, s.Close())
	s = open(t, c) // what was dropped stays away
	if trees, layers := s.All(); len(trees) != 1 || len(layers) != 1 {
		t.Errorf("%v, %v", trees, layers)
	}
}

func TestDamagedDatabase(t *testing.T) {
	c := config(t)
	s := open(t, c)
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(c.Dir, dbFile), []byte(strings.Repeat("garbage", 5000)), 0o600))
	s = open(t, c)
	if s.Has(a) {
		t.Error("the tree is there")
	}
	empty(t, s, layersDir)
	step(t, s, "", func(dir string) { write(t, dir+"/a", "1") })
}

func TestOpenTwice(t *testing.T) {
	c := config(t)
	s := open(t, c)
	f, err := s.Fork(t.Context(), "")
	must(t, err)
	if s2, err := Open(c); err == nil {
		s2.Close()
		t.Fatal("opened twice")
	}
	// And the second one has cleaned nothing up.
	write(t, f.Dir+"/a", "1")
	a, err := f.Commit(t.Context())
	must(t, err)
	expect(t, mounted(t, s, a), "a=1")
}

// Killed at any moment, the store opens again, and every tree in it is whole.
func TestKill(t *testing.T) {
	if dir := os.Getenv("TREE_TEST_KILL"); dir != "" {
		churn(t, dir)
	}
	c := config(t)
	trees := 0
	for i := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "TREE_TEST_KILL="+filepath.Dir(c.Dir))
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		time.Sleep(time.Duration(150+rand.IntN(250)) * time.Millisecond)
		must(t, cmd.Process.Kill())
		cmd.Wait()
		trees += checkWhole(t, c, i)
	}
	if trees == 0 {
		t.Error("no tree survived, ever: nothing was tested")
	}
}

// churn makes and removes trees until it is killed.
func churn(t *testing.T, dir string) {
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	s, err := Open(Config{Dir: filepath.Join(dir, "trees"), Blobs: blobs, Spare: time.Nanosecond})
	must(t, err)
	go func() {
		for {
			must(t, s.Sync(t.Context()))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	var trees []cache.Tree
	for i := 0; ; i++ {
		parent := cache.Tree("")
		if len(trees) > 0 {
			parent = trees[rand.IntN(len(trees))]
		}
		l := s.Lease("test")
		if l.Add(parent) != nil {
			parent = ""
		}
		tree := step(t, s, parent, func(dir string) {
			for j := range 20 {
				write(t, fmt.Sprintf("%s/d%d/f%d", dir, i%10, j), strings.Repeat("x", rand.IntN(3000)))
			}
			os.RemoveAll(fmt.Sprintf("%s/d%d", dir, (i+3)%10))
		})
		trees = append(trees, tree)
		if len(trees) > 20 {
			trees = trees[10:]
			_, err := s.Sweep(t.Context(), trees)
			must(t, err)
		}
		l.Release()
	}
}

// checkWhole opens the store and compares every layer with its record.
func checkWhole(t *testing.T, c Config, round int) int {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer func() { must(t, s.Close()) }()
	empty(t, s, draftsDir, mountsDir, trashDir)
	trees, infos := s.All()
	for _, tree := range trees {
		if got := rescan(t, s, tree.Tree); got != infos[tree.Layer].Content {
			t.Errorf("round %d: layer %s is not what its record says", round, tree.Layer)
		}
		if _, err := s.Files(t.Context(), tree.Tree); err != nil {
			t.Error(err)
		}
	}
	if names, _ := os.ReadDir(s.path(layersDir)); len(names) != len(infos) {
		t.Errorf("round %d: %d directories for %d layers", round, len(names), len(infos))
	}
	return len(trees)
}

// On a full disk everything fails with ENOSPC, and leaves nothing.
func TestFullDisk(t *testing.T) {
	c := config(t)
	must(t, os.Mkdir(c.Dir, 0o755))
	mountTmpfs(t, c.Dir, "size=2m")
	s := open(t, c)
	t.Cleanup(func() { s.Close() }) // before the tmpfs goes
	a := step(t, s, "", func(dir string) { write(t, dir+"/a", strings.Repeat("x", 300_000)) })
	r := &registry{}
	img := addImage(t, s, r.add(t, layer.Gzip, "big="+strings.Repeat("y", 4<<20)))
	free := freeBytes(t, c.Dir)
	for name, do := range map[string]func() error{
		"fork": func() error {
			f, err := s.Fork(t.Context(), a)
			must(t, err)
			werr := os.WriteFile(f.Dir+"/big", make([]byte, 4<<20), 0o600)
			return errors.Join(werr, f.Discard())
		},
		"commit": func() error {
			f, err := s.Fork(t.Context(), a)
			must(t, err)
			for i := range 300 {
				if os.WriteFile(fmt.Sprintf("%s/f%d", f.Dir, i), make([]byte, 8<<10), 0o600) != nil {
					break
				}
			}
			_, err = f.Commit(t.Context()) // there is no room for the index
			return err
		},
		"unpack": func() error { return s.Ensure(t.Context(), img, r, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := do(); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%v", err)
			}
			empty(t, s, draftsDir, mountsDir, trashDir)
			if now := freeBytes(t, c.Dir); now < free {
				t.Errorf("%d bytes free, before %d", now, free)
			}
		})
	}
	b := step(t, s, a, func(dir string) { write(t, dir+"/b", "1") })
	must(t, s.Sync(t.Context()))
	if !s.Has(b) {
		t.Error("lost")
	}
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Bfree) * st.Bsize
}

func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

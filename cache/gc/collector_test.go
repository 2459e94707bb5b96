package gc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/action"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/image"
	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/cache/tree"
)

// world is a cache with all its stores.
type world struct {
	*Collector
	t     *testing.T
	dir   string
	clock time.Time // when the next record is used
}

func newWorld(t *testing.T, extras ...Extra) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounts need root")
	}
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	trees, err := tree.Open(tree.Config{Dir: filepath.Join(dir, "trees"), Blobs: blobs, Spare: 200 * time.Millisecond, Log: log})
	must(t, err)
	t.Cleanup(func() { must(t, trees.Close()) })
	actions, err := action.Open(action.Config{Path: filepath.Join(dir, "actions.db"), Barrier: trees.Sync, Alive: trees.Has, Log: log})
	must(t, err)
	t.Cleanup(func() { actions.Close() })
	images, err := image.Open(image.Config{Path: filepath.Join(dir, "images.db"), Log: log})
	must(t, err)
	t.Cleanup(func() { images.Close() })
	c := New(Config{Dir: dir, Trees: trees, Blobs: blobs, Actions: actions, Images: images, Extras: extras, Log: log, Spare: time.Hour})
	return &world{Collector: c, t: t, dir: dir, clock: time.Now().Add(-1000 * time.Hour)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func key(s string) cache.Key { return cache.Hash("test", []byte(s)) }

// step makes a tree with a file of size bytes over another one, and a record of
// it that was used an hour after the one before.
func (w *world) step(name string, parent cache.Tree, size int) cache.Tree {
	w.t.Helper()
	d, err := w.cfg.Trees.NewDraft(w.t.Context(), parent)
	must(w.t, err)
	must(w.t, os.WriteFile(filepath.Join(d.Dir, name), bytes.Repeat([]byte("x"), size), 0o600))
	made, err := d.Commit(w.t.Context(), nil)
	must(w.t, err)
	w.record(name, TypeRegular, made)
	return made
}

func (w *world) record(name, kind string, trees ...cache.Tree) {
	w.t.Helper()
	w.clock = w.clock.Add(time.Hour)
	must(w.t, w.cfg.Actions.SetResult(w.t.Context(), key(name), cache.Record{
		Trees: trees, Name: name, Kind: kind, Created: w.clock, LastUsed: w.clock, UseCount: 1,
	}))
}

func (w *world) top(t cache.Tree) tree.LayerInfo {
	w.t.Helper()
	ls, err := w.cfg.Trees.Layers(t)
	must(w.t, err)
	return ls[len(ls)-1]
}

// names lists the records that are left.
func (w *world) names() (out []string) {
	w.t.Helper()
	must(w.t, w.cfg.Actions.Each(w.t.Context(), func(_ cache.Key, r cache.Record) error {
		out = append(out, r.Name)
		for _, t := range r.Trees {
			if !w.cfg.Trees.Has(t) {
				w.t.Errorf("record %s names a tree that is gone", r.Name)
			}
		}
		return nil
	}))
	slices.Sort(out)
	return out
}

func (w *world) expect(want ...string) {
	w.t.Helper()
	if got := w.names(); !slices.Equal(got, want) {
		w.t.Errorf("left are %q, want %q", got, want)
	}
}

// prune returns the descriptions of what it removed.
func (w *world) prune(p Policy) (out []string) {
	w.t.Helper()
	must(w.t, w.Prune(w.t.Context(), p, func(r Record) error {
		out = append(out, r.Description)
		return nil
	}))
	slices.Sort(out)
	return out
}

func (w *world) usage(filters ...string) map[string]Record {
	w.t.Helper()
	rs, err := w.Usage(w.t.Context(), filters)
	must(w.t, err)
	out := map[string]Record{}
	for _, r := range rs {
		out[r.Description] = r
	}
	if len(out) != len(rs) {
		w.t.Errorf("records share descriptions: %+v", rs)
	}
	return out
}

const mb = 1 << 20

func TestUsage(t *testing.T) {
	w := newWorld(t)
	a := w.step("a", "", mb)
	b := w.step("b", a, 2*mb)
	w.step("c", a, 1000)
	_, _, err := w.cfg.Trees.Blob(t.Context(), w.top(b).ID, tree.BlobOptions{Compression: layer.Compression{Type: layer.Uncompressed}}, nil)
	must(t, err)
	lease := w.cfg.Trees.Lease("build")
	must(t, lease.Add(b))
	u := w.usage()
	if len(u) != 3 {
		t.Fatalf("usage: %+v", u)
	}
	idA := string(w.top(a).ID)
	for name, want := range map[string]struct {
		atLeast, atMost int64
		parents         []string
		inUse           bool
	}{
		"a": {mb, mb + 9000, nil, true},
		"b": {4 * mb, 4*mb + 19000, []string{idA}, true},
		"c": {1000, 10000, []string{idA}, false},
	} {
		r := u[name]
		if r.Size < want.atLeast || r.Size > want.atMost || !slices.Equal(r.Parents, want.parents) || r.InUse != want.inUse ||
			r.Mutable || r.RecordType != TypeRegular || r.UsageCount != 1 || r.LastUsedAt.IsZero() || r.CreatedAt.IsZero() {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if got := w.usage("description==a", "inuse==true,description==c"); len(got) != 1 {
		t.Errorf("filtered: %v", got)
	}
	if got := w.usage("type==regular,id==" + idA); len(got) != 1 {
		t.Errorf("filtered: %v", got)
	}
	if got := w.usage("type==" + TypeLocal); len(got) != 0 {
		t.Errorf("filtered: %v", got)
	}
	if _, err := w.Usage(t.Context(), []string{"=="}); err == nil {
		t.Error("a broken filter is taken")
	}
	lease.Release()
}

func TestPruneAll(t *testing.T) {
	w := newWorld(t)
	a := w.step("a", "", 1000)
	b := w.step("b", a, 1000)
	x := w.step("x", "", 1000)
	w.record("internal", TypeInternal, x)
	w.record("empty", TypeRegular, "")
	w.record("two", TypeRegular, a, b) // one of its trees lies over the other
	lease := w.cfg.Trees.Lease("build")
	must(t, lease.Add(b))
	if got := w.prune(Policy{}); len(got) != 0 {
		t.Errorf("removed %q", got)
	}
	w.expect("a", "b", "internal", "two") // x is the internal one's, too, but not its record
	lease.Release()
	if got := w.prune(Policy{}); !slices.Equal(got, []string{"b", "two"}) && !slices.Equal(got, []string{"two", "two"}) {
		t.Errorf("removed %q", got)
	}
	w.expect("internal")
	if got := w.prune(Policy{All: true}); len(got) != 1 {
		t.Errorf("removed %q", got)
	}
	w.expect()
	if u := w.usage(); len(u) != 0 {
		t.Errorf("usage: %v", u)
	}
}

func TestPruneKeepDurationAndFilter(t *testing.T) {
	w := newWorld(t)
	w.clock = time.Now().Add(-10 * time.Hour)
	old := w.step("old", "", 1000) // 9 hours ago
	w.step("over-old", old, 1000)  // 8
	w.clock = time.Now().Add(-2 * time.Hour)
	w.step("new", "", 1000)
	w.step("over-old-new", old, 1000)
	if got := w.prune(Policy{KeepDuration: 5 * time.Hour}); !slices.Equal(got, []string{"over-old"}) {
		t.Errorf("removed %q", got) // what the new one is built on stays
	}
	w.expect("new", "old", "over-old-new")
	if got := w.prune(Policy{Filters: []string{"description==new", "type==nothing"}}); !slices.Equal(got, []string{"new"}) {
		t.Errorf("removed %q", got)
	}
	if got := w.prune(Policy{Filters: []string{"id==" + string(w.top(old).ID)}}); len(got) != 0 {
		t.Errorf("removed %q", got)
	}
	w.expect("old", "over-old-new")
}

// Under a limit the least recently used goes first, and what others are built on
// after them.
func TestPruneLimit(t *testing.T) {
	w := newWorld(t)
	base := w.step("1-base", "", mb)
	w.step("2", "", mb)
	w.step("3", base, mb)
	w.step("4", "", mb)
	w.step("5", base, mb)
	if got := w.prune(Policy{MaxUsedSpace: 6 * mb}); len(got) != 0 {
		t.Errorf("removed %q below the limit", got)
	}
	if got := w.prune(Policy{MaxUsedSpace: 4*mb + mb/2}); !slices.Equal(got, []string{"2"}) {
		t.Errorf("removed %q", got)
	}
	if got := w.prune(Policy{MaxUsedSpace: 1, ReservedSpace: 3*mb + mb/2}); !slices.Equal(got, []string{"3"}) {
		t.Errorf("removed %q", got)
	}
	if got := w.prune(Policy{MaxUsedSpace: mb + mb/2}); !slices.Equal(got, []string{"4", "5"}) {
		t.Errorf("removed %q", got)
	}
	w.expect("1-base")
	free, err := w.free()
	must(t, err)
	if got := w.prune(Policy{MinFreeSpace: free / 2}); len(got) != 0 {
		t.Errorf("removed %q although enough is free", got)
	}
	if got := w.prune(Policy{MinFreeSpace: free * 2}); !slices.Equal(got, []string{"1-base"}) {
		t.Errorf("removed %q", got)
	}
}

// Records that share a tree keep it until the last of them goes.
func TestSharedTree(t *testing.T) {
	w := newWorld(t)
	a := w.step("a", "", mb)
	w.record("again", TypeRegular, a)
	if got := w.prune(Policy{Filters: []string{"description==a"}}); len(got) != 0 {
		t.Errorf("removed %q", got)
	}
	w.expect("again")
	if u := w.usage(); len(u) != 1 || u["again"].Size < mb {
		t.Errorf("usage: %v", u)
	}
}

// put stores a blob and returns its descriptor.
func (w *world) put(mediaType string, b []byte) ocispecs.Descriptor {
	w.t.Helper()
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	must(w.t, w.cfg.Blobs.Ingest(w.t.Context(), d, bytes.NewReader(b)))
	return d
}

// age makes all blobs old.
func (w *world) age() {
	w.t.Helper()
	old := time.Now().Add(-2 * time.Hour)
	must(w.t, filepath.WalkDir(filepath.Join(w.dir, "blobs", "blobs"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chtimes(p, old, old)
	}))
	// Asking for a blob counts, too; that is forgotten by a new store.
	s, err := blob.Open(filepath.Join(w.dir, "blobs"))
	must(w.t, err)
	w.cfg.Blobs = s
}

func TestBlobs(t *testing.T) {
	w := newWorld(t)
	a := w.step("a", "", mb)
	b := w.step("b", "", mb)
	o := tree.BlobOptions{Compression: layer.Compression{Type: layer.Gzip, Level: layer.DefaultLevel}, OCI: true}
	blobA, _, err := w.cfg.Trees.Blob(t.Context(), w.top(a).ID, o, nil)
	must(t, err)
	blobB, _, err := w.cfg.Trees.Blob(t.Context(), w.top(b).ID, o, nil)
	must(t, err)
	config := w.put(ocispecs.MediaTypeImageConfig, []byte("{}"))
	m, err := json.Marshal(ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: config, Layers: []ocispecs.Descriptor{blobA},
	})
	must(t, err)
	manifest := w.put(ocispecs.MediaTypeImageManifest, m)
	x, err := json.Marshal(ocispecs.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex,
		Manifests: []ocispecs.Descriptor{manifest, {MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("not here"), Size: 7}},
	})
	must(t, err)
	index := w.put(ocispecs.MediaTypeImageIndex, x)
	must(t, w.cfg.Images.Put(t.Context(), "app", index))
	damaged := w.put(ocispecs.MediaTypeImageManifest, []byte("{"))
	must(t, w.cfg.Images.Put(t.Context(), "damaged", damaged))
	stray := w.put("text/plain", []byte("stray"))
	// A build that is remembered: its manifest, with a layer of the cache and a
	// statement about it.
	statement := w.put("application/vnd.in-toto+json", []byte("{}"))
	r, err := json.Marshal(ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: config, Layers: []ocispecs.Descriptor{blobB, statement},
	})
	must(t, err)
	remembered := w.put(ocispecs.MediaTypeImageManifest, r)
	w.cfg.Roots = []Roots{roots{remembered}}

	has := func(what string, want bool, ds ...ocispecs.Descriptor) {
		t.Helper()
		for _, d := range ds {
			if _, err := w.cfg.Blobs.Store.Info(t.Context(), d.Digest); (err == nil) != want {
				t.Errorf("%s, %s: %v", what, d.MediaType, err)
			}
		}
	}
	if u := w.usage(); u["b"].Size < u["a"].Size+blobB.Size/2 {
		t.Errorf("the image's blob counts for the cache: %v", u)
	}
	must(t, w.Collect(t.Context()))
	has("fresh", true, stray, index, blobA, blobB)
	w.age()
	must(t, w.Collect(t.Context()))
	has("stray", false, stray)
	has("rooted", true, index, manifest, config, blobA, blobB, damaged, remembered, statement)
	// With their layers go the blobs that nothing else has, however young.
	w.put(blobB.MediaType, []byte("young"))
	must(t, w.cfg.Blobs.Store.Delete(t.Context(), blobB.Digest))
	_, _, err = w.cfg.Trees.Blob(t.Context(), w.top(b).ID, o, nil)
	must(t, err)
	if got := w.prune(Policy{}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("removed %q", got)
	}
	has("layer's", false, blobB)
	has("image's", true, blobA, index, manifest, config)
	must(t, w.cfg.Images.Delete(t.Context(), "app"))
	w.age()
	must(t, w.Collect(t.Context()))
	has("image's", false, blobA, index, manifest)
	has("remembered", true, remembered, statement, config)
}

// roots are Roots.
type roots []ocispecs.Descriptor

func (r roots) Roots(context.Context) ([]ocispecs.Descriptor, error) { return r, nil }

// shelf is an Extra.
type shelf struct {
	kept    []Kept
	err     error
	evicted []string
}

func (s *shelf) Usage(context.Context) ([]Kept, error) { return s.kept, nil }

func (s *shelf) Evict(_ context.Context, id string) error {
	if s.err != nil {
		return s.err
	}
	s.evicted = append(s.evicted, id)
	s.kept = slices.DeleteFunc(s.kept, func(k Kept) bool { return k.ID == id })
	return nil
}

func TestExtras(t *testing.T) {
	s := &shelf{}
	w := newWorld(t, s)
	a := w.step("a", "", mb)
	must(t, w.cfg.Actions.Delete(t.Context(), key("a")))
	hours := func(n int) time.Time { return time.Now().Add(-time.Duration(n) * time.Hour) }
	s.kept = []Kept{
		{Record: Record{ID: "m1", Mutable: true, Size: mb, LastUsedAt: hours(9), RecordType: TypeCacheMount, Description: "mount 1"}},
		{Record: Record{ID: "m2", Mutable: true, Size: mb, LastUsedAt: hours(8), RecordType: TypeCacheMount, Description: "mount 2", InUse: true}},
		{Record: Record{ID: "l1", Size: 10, LastUsedAt: hours(7), RecordType: TypeLocal, Description: "local 1"}, Trees: []cache.Tree{a}},
	}
	if u := w.usage(); len(u) != 3 || u["local 1"].Size < mb+10 || u["local 1"].ID != string(w.top(a).ID) || !u["mount 2"].InUse {
		t.Errorf("usage: %v", u)
	}
	must(t, w.Collect(t.Context())) // sweeps: but the tree is kept
	if !w.cfg.Trees.Has(a) {
		t.Fatal("the tree of an extra is gone")
	}
	s.err = fmt.Errorf("mount 1 %w", ErrInUse)
	if got := w.prune(Policy{Filters: []string{"mutable"}}); len(got) != 0 {
		t.Errorf("removed %q", got)
	}
	s.err = errors.New("broken")
	if err := w.Prune(t.Context(), Policy{}, func(Record) error { return nil }); !errors.Is(err, s.err) {
		t.Errorf("err = %v", err)
	}
	s.err = nil
	if got := w.prune(Policy{MaxUsedSpace: 2*mb + mb/2}); !slices.Equal(got, []string{"mount 1"}) {
		t.Errorf("removed %q", got)
	}
	if got := w.prune(Policy{Filters: []string{"type==" + TypeLocal}}); !slices.Equal(got, []string{"local 1"}) {
		t.Errorf("removed %q", got)
	}
	if w.cfg.Trees.Has(a) {
		t.Error("the tree is left")
	}
	if got := w.prune(Policy{All: true}); len(got) != 0 || !slices.Equal(s.evicted, []string{"m1", "l1"}) {
		t.Errorf("removed %q, evicted %q", got, s.evicted)
	}
}

// What a long-running build makes is collected as it grows, and what it holds is
// not.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.cfg.Every = 10 * time.Millisecond
	w.cfg.Policies = []Policy{{MaxUsedSpace: 2*mb + mb/2}}
	a := w.step("a", "", mb)
	lease := w.cfg.Trees.Lease("build")
	must(t, lease.Add(a))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	for i := range 5 {
		w.step(fmt.Sprint("b", i), "", mb)
	}
	w.Kick()
	for begin := time.Now(); len(w.names()) > 2; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("left are %q", w.names())
		}
	}
	cancel()
	must(t, <-done)
	w.expect("a", "b4")
	lease.Release()
}

func TestPolicyKeep(t *testing.T) {
	const gb = 1e9
	for _, c := range []struct {
		p          Policy
		used, free int64
		want       int64
	}{
		{Policy{}, 5 * gb, gb, 0},
		{Policy{MaxUsedSpace: 3 * gb}, 5 * gb, gb, 3 * gb},
		{Policy{MaxUsedSpace: 9 * gb}, 5 * gb, gb, 5 * gb},
		{Policy{ReservedSpace: 2 * gb}, 5 * gb, gb, 2 * gb},
		{Policy{MinFreeSpace: 3 * gb}, 5 * gb, gb, 3 * gb},
		{Policy{MinFreeSpace: 3 * gb}, 5 * gb, 4 * gb, 5 * gb},
		{Policy{MinFreeSpace: 30 * gb}, 5 * gb, gb, 0},
		{Policy{MinFreeSpace: 30 * gb, ReservedSpace: gb}, 5 * gb, gb, gb},
		{Policy{MaxUsedSpace: 4 * gb, MinFreeSpace: 3 * gb, ReservedSpace: gb}, 5 * gb, gb, 3 * gb},
		{Policy{MaxUsedSpace: 2 * gb, MinFreeSpace: 3 * gb, ReservedSpace: gb}, 5 * gb, gb, 2 * gb},
	} {
		if got := c.p.keep(c.used, c.free); got != c.want {
			t.Errorf("%+v keeps %d of %d with %d free, want %d", c.p, got, c.used, c.free, c.want)
		}
	}
}

func TestSpace(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "512MB": 512 << 20, "1000": 1000, `"10%"`: 100, "2gb": 2 << 30, "0": 0, "100%": 1000,
	} {
		var s Space
		if err := s.UnmarshalText([]byte(text)); err != nil || s.Of(1000) != want {
			t.Errorf("%q is %d, %v; want %d", text, s.Of(1000), err, want)
		}
	}
	for _, text := range []string{"x", "-1", "101%", "%", "-5%", "1XB"} {
		var s Space
		if err := s.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	ps := DefaultPolicies(Limits{}, 1e12)
	if len(ps) != 4 || ps[2].MaxUsedSpace != 100e9 || ps[2].ReservedSpace != 10e9 || ps[2].MinFreeSpace != 200e9 || !ps[3].All {
		t.Errorf("%+v", ps)
	}
	ps = DefaultPolicies(Limits{MaxUsed: Space{Percent: 50}}, 1000)
	if ps[2].MaxUsedSpace != 500 || ps[2].ReservedSpace != 0 {
		t.Errorf("%+v", ps[2])
	}
}

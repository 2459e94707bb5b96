package layer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	ctdarchive "github.com/containerd/containerd/v2/pkg/archive"

	"github.com/buildd/buildd/cache/digest"
)

// randomTar makes a tar of names that meet: replaced, linked, written through
// links.
func randomTar(t *testing.T, r *rand.Rand) []byte {
	t.Helper()
	names := []string{"a", "b", "c", "d"}
	path := func() string {
		p := names[r.IntN(4)]
		for r.IntN(2) == 0 {
			p += "/" + names[r.IntN(4)]
		}
		return []string{"", "", "./", "/", "x/../", "../"}[r.IntN(6)] + p
	}
	var es []ent
	for i := range 1 + r.IntN(12) {
		var e ent
		switch r.IntN(7) {
		case 0, 1, 2:
			e = f(path(), fmt.Sprint(i))
		case 3, 4:
			e = d(path())
		case 5:
			e = l(path(), []string{"a", "/b", "../c", "d/a", "nosuch", "."}[r.IntN(6)])
		case 6:
			e = h(path(), path())
		}
		e.Uid, e.Mode = r.IntN(3), int64(0o600+r.IntN(0o200))
		es = append(es, e)
	}
	return tarOf(t, es...)
}

// TestUnpackIsWhatContainerdApplies compares layers without whiteouts with what
// containerd, hence BuildKit and Docker, makes of them.
func TestUnpackIsWhatContainerdApplies(t *testing.T) {
	needRoot(t)
	same, failed := 0, 0
	for seed := range uint64(150) {
		b := randomTar(t, rand.New(rand.NewPCG(seed, 3)))
		theirs, ours := t.TempDir(), t.TempDir()
		_, terr := ctdarchive.Apply(t.Context(), theirs, bytes.NewReader(b))
		x, err := Unpack(t.Context(), bytes.NewReader(b), ours, UnpackOptions{})
		if err != nil && terr != nil {
			failed++
			continue
		}
		if tolerated(terr) {
			continue
		}
		if (err == nil) != (terr == nil) {
			t.Fatalf("seed %d: %v; containerd: %v\n%s", seed, err, terr, strings.Join(listTar(t, b), "\n"))
		}
		want, err := digest.Scan(t.Context(), theirs, digest.ScanOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := plain(t, x), plain(t, want); got.Content() != want.Content() {
			t.Fatalf("seed %d: got\n%scontainerd\n%sof\n%s", seed, list(got), list(want), strings.Join(listTar(t, b), "\n"))
		}
		same++
	}
	if same < 25 || failed < 25 {
		t.Errorf("%d of the tars gave equal files, %d an error of both: too few to tell anything", same, failed)
	}
}

// tolerated are errors of containerd that Unpack need not have: a hard link to
// itself, and the time of a directory that a later entry replaced.
func tolerated(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "link ") || strings.HasPrefix(err.Error(), "lstat ") || strings.Contains(err.Error(), "UtimesNanoAt"))
}

// plain is an index without what concerns other layers: a directory that took a
// file's place is opaque here, and the same on disk otherwise.
func plain(t *testing.T, x *digest.Index) *digest.Index {
	t.Helper()
	var b digest.Builder
	for e := range x.All() {
		e.Opaque = false
		b.Add(e)
	}
	y, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	return y
}

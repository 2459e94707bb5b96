package tree

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/buildd/buildd/cache/layer"
)

func TestImageMadeHereIsNotUnpackedAgain(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	d, err := s.NewDraft(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Dir, "f"), []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	tr, err := d.Commit(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	ls, err := s.Layers(tr)
	if err != nil {
		t.Fatal(err)
	}
	desc, diffID, err := s.Blob(ctx, ls[0].ID, BlobOptions{Compression: layer.Compression{Type: layer.Gzip, Level: layer.DefaultLevel}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.AddImage(ctx, []ImageLayer{{DiffID: diffID, Desc: desc, Source: "own"}})
	if err != nil {
		t.Fatal(err)
	}
	if got != tr {
		t.Errorf("the image of tree %s is tree %s", tr, got)
	}
}

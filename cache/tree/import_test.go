package tree

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
)

// exported makes a layer and returns it as it goes to another store.
func exported(t *testing.T, s *Store) (cache.Tree, Header, []byte) {
	t.Helper()
	base := step(t, s, "", func(dir string) {
		write(t, filepath.Join(dir, "d/gone"), "1")
		write(t, filepath.Join(dir, "o/hidden"), "1")
	})
	tr := step(t, s, base, func(dir string) {
		write(t, filepath.Join(dir, "d/f"), "content")
		must(t, os.Link(filepath.Join(dir, "d/f"), filepath.Join(dir, "d/g")))
		must(t, os.Remove(filepath.Join(dir, "d/gone")))
		must(t, os.RemoveAll(filepath.Join(dir, "o")))
		must(t, os.Mkdir(filepath.Join(dir, "o"), 0o751))
		must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
		must(t, os.Chmod(dir, 0o711))
	})
	layers, err := s.Layers(tr)
	must(t, err)
	h, err := s.Header(layers[1].ID)
	must(t, err)
	var b bytes.Buffer
	must(t, s.Export(t.Context(), h.ID, &b))
	return tr, h, b.Bytes()
}

func TestImportIsTheSameLayer(t *testing.T) {
	a, b := newStore(t), newStore(t)
	tr, h, data := exported(t, a)
	alone, err := b.Import(t.Context(), h, bytes.NewReader(data))
	must(t, err)
	again, err := b.Import(t.Context(), h, strings.NewReader("not read"))
	if err != nil || again != alone {
		t.Errorf("second import: %s, %v, want %s", again, err, alone)
	}
	layers, err := a.Layers(tr)
	must(t, err)
	got, err := b.Layers(alone)
	must(t, err)
	if len(got) != 1 || got[0].ID != layers[1].ID || got[0].Content != layers[1].Content || !got[0].Ready || got[0].Size != layers[1].Size {
		t.Errorf("layer is %+v, want %+v", got, layers[1])
	}
	av, err := a.Files(t.Context(), tr)
	must(t, err)
	bv, err := b.Files(t.Context(), alone)
	must(t, err)
	if g, w := bv.Layers()[0].Index.Entries(), av.Layers()[1].Index.Entries(); !reflect.DeepEqual(g, w) {
		t.Errorf("entries are\n%+v\nwant\n%+v", g, w)
	}
	// It lies on the other store's layers as it did on its own.
	below := importAlone(t, a, b, layers[0].ID)
	both, err := b.Append(below, h.ID)
	must(t, err)
	v, err := b.View(t.Context(), both)
	must(t, err)
	defer v.Close()
	w, err := a.View(t.Context(), tr)
	must(t, err)
	defer w.Close()
	if g, w := listing(t, v.Dir), listing(t, w.Dir); !reflect.DeepEqual(g, w) {
		t.Errorf("mounted it shows %q, want %q", g, w)
	}
	var buf bytes.Buffer
	must(t, b.Export(t.Context(), h.ID, &buf))
	if !bytes.Equal(buf.Bytes(), data) {
		t.Error("it is not passed on as it came")
	}
}

func importAlone(t *testing.T, from, to *Store, id cache.LayerID) cache.Tree {
	t.Helper()
	h, err := from.Header(id)
	must(t, err)
	var b bytes.Buffer
	must(t, from.Export(t.Context(), id, &b))
	tr, err := to.Import(t.Context(), h, &b)
	must(t, err)
	return tr
}

func TestImportRefuses(t *testing.T) {
	a, b := newStore(t), newStore(t)
	_, h, data := exported(t, a)
	other := h
	other.Content[0]++
	path := h
	path.ID = "../../../../tmp/x"
	chain := h
	chain.ID = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for says, c := range map[string]struct {
		h Header
		b []byte
	}{
		"announced was":             {other, data},
		"32 hexadecimal digits":     {path, data},
		"want 32 hex":               {chain, data},
		"unexpected EOF":            {h, data[:len(data)-1]},
		"more than the index lists": {h, append(bytes.Clone(data), 0)},
		"SHA-256":                   {h, append(bytes.Clone(data[:len(data)-1]), 'X')},
	} {
		if _, err := b.Import(t.Context(), c.h, bytes.NewReader(c.b)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
	for _, dir := range []string{draftsDir, layersDir, trashDir} {
		if left, _ := os.ReadDir(b.path(dir)); len(left) > 0 {
			t.Errorf("left behind in %s: %v", dir, left)
		}
	}
	// Of the store that has it, too.
	if _, err := a.Import(t.Context(), other, bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), "another layer of that ID") {
		t.Errorf("error %v", err)
	}
}

func TestImportTwiceAtOnce(t *testing.T) {
	a, b := newStore(t), newStore(t)
	_, h, data := exported(t, a)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := b.Import(t.Context(), h, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if dirs, _ := os.ReadDir(b.path(layersDir)); len(dirs) != 1 {
		t.Errorf("%d directories of one layer", len(dirs))
	}
}

func TestImportSurvives(t *testing.T) {
	a, c := newStore(t), config(t)
	_, h, data := exported(t, a)
	b, err := Open(c)
	must(t, err)
	tr, err := b.Import(t.Context(), h, bytes.NewReader(data))
	must(t, err)
	must(t, b.Close())
	b = open(t, c)
	if layers, err := b.Layers(tr); err != nil || !layers[0].Ready || layers[0].Content != h.Content {
		t.Errorf("%+v %v", layers, err)
	}
	if _, err := b.Sweep(t.Context(), nil); err != nil || b.Has(tr) {
		t.Errorf("what nobody holds stays: %v", err)
	}
}

// TestAddLayers moves an image layer by layer.
func TestAddLayers(t *testing.T) {
	a, b := newStore(t), newStore(t)
	r := &registry{}
	img := addImage(t, a, r.add(t, layer.Gzip, "etc", "etc/a=1"), r.add(t, layer.Zstd, "etc/.wh.a=", "usr/lib/x=y"), r.add(t, layer.Uncompressed, "etc/c=3"))
	layers, err := a.Layers(img)
	must(t, err)
	var chain []Header
	for _, l := range layers {
		h, err := a.Header(l.ID)
		must(t, err)
		chain = append(chain, h)
	}
	if _, err := b.AddLayer(chain[1]); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("without the one below: %v", err)
	}
	wrong := chain[0]
	wrong.ID = chain[1].ID
	if _, err := b.AddLayer(wrong); err == nil || !strings.Contains(err.Error(), "its ID is") {
		t.Errorf("error %v", err)
	}
	var ids []cache.LayerID
	for _, h := range chain {
		_, err := b.AddLayer(h)
		must(t, err)
		ids = append(ids, h.ID)
		must(t, b.cfg.Blobs.Ingest(t.Context(), h.Image.Desc, bytes.NewReader(r.blobs[h.Image.Desc.Digest])))
		if err := a.Export(t.Context(), h.ID, &bytes.Buffer{}); err == nil {
			t.Error("a layer of an image was exported")
		}
	}
	tr, err := b.Append("", ids...)
	must(t, err)
	if tr != img {
		t.Errorf("tree is %s, want %s", tr, img)
	}
	must(t, b.Ensure(t.Context(), tr, nil, nil))
	must(t, a.Ensure(t.Context(), img, r, nil))
	ca, err := a.Content(t.Context(), img, cache.Root)
	must(t, err)
	cb, err := b.Content(t.Context(), tr, cache.Root)
	must(t, err)
	if ca != cb {
		t.Errorf("content %s, want %s", cb, ca)
	}
}

// TestAddRemoteLayers moves layers that a remote cache told of.
func TestAddRemoteLayers(t *testing.T) {
	a, b := newStore(t), newStore(t)
	r := &registry{}
	ids, err := a.AddRemote(t.Context(), []RemoteLayer{
		{ImageLayer: r.add(t, layer.Gzip, "etc", "etc/a=1"), Parent: -1}, {ImageLayer: r.add(t, layer.Zstd, "etc/b=2"), Parent: 0},
	})
	must(t, err)
	for _, id := range ids {
		h, err := a.Header(id)
		must(t, err)
		wrong := h
		wrong.Parent = "another"
		if _, err := b.AddLayer(wrong); err == nil {
			t.Error("a layer over another one goes by the same ID")
		}
		_, err = b.AddLayer(h)
		must(t, err)
		must(t, b.cfg.Blobs.Ingest(t.Context(), h.Image.Desc, bytes.NewReader(r.blobs[h.Image.Desc.Digest])))
	}
	var contents [2]cache.Key
	for i, s := range []*Store{a, b} {
		tr, err := s.Append("", ids...)
		must(t, err)
		must(t, s.Ensure(t.Context(), tr, r, nil))
		contents[i], err = s.Content(t.Context(), tr, cache.Root)
		must(t, err)
	}
	if contents[0] != contents[1] {
		t.Errorf("contents %v", contents)
	}
}

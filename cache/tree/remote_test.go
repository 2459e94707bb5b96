package tree

import (
	"context"
	"errors"
	"slices"
	"testing"

	ocidigest "github.com/opencontainers/go-digest"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
)

// told turns layers of an image into what a remote cache tells of them.
func told(source string, chain ...ImageLayer) (out []RemoteLayer) {
	for i, l := range chain {
		l.Source = source
		out = append(out, RemoteLayer{ImageLayer: l, Parent: i - 1})
	}
	return out
}

// testImage is an image whose second layer needs the first one to be unpacked.
func testImage(t *testing.T, p *registry) []ImageLayer {
	t.Helper()
	return []ImageLayer{
		p.add(t, layer.Gzip, "bin", "bin/sh=shell", "etc", "etc/a=1"),
		p.add(t, layer.Gzip, "etc/.wh.a=", "bin/bash->bin/sh"),
	}
}

// remoteTree makes a tree of layers that a remote cache tells of.
func remoteTree(t *testing.T, s *Store, chain ...RemoteLayer) cache.Tree {
	t.Helper()
	ids, err := s.AddRemote(t.Context(), chain)
	must(t, err)
	tr, err := s.Append("", ids...)
	must(t, err)
	return tr
}

func TestRemoteLayersAreLazy(t *testing.T) {
	s := newStore(t)
	p := &registry{}
	img := testImage(t, p)
	tr := remoteTree(t, s, told("cache", img...)...)
	infos, err := s.Layers(tr)
	must(t, err)
	if len(infos) != len(img) || infos[0].Ready || p.opens.Load() > 0 || !slices.Equal(infos[0].Sources, []string{"cache"}) {
		t.Errorf("%+v, %d blobs opened", infos, p.opens.Load())
	}
	if again := remoteTree(t, s, told("cache", img...)...); again != tr {
		t.Error("the same layers give another tree")
	}
	must(t, s.Ensure(t.Context(), tr, p, nil))
	want, err := s.AddImage(t.Context(), img)
	must(t, err)
	must(t, s.Ensure(t.Context(), want, p, nil))
	if a, b := mounted(t, s, tr), mounted(t, s, want); !slices.Equal(a, b) {
		t.Errorf("files differ: %q, %q", a, b)
	}
}

// Who tells of another blob for a layer that is known does not change that layer,
// and gets a tree with another content.
func TestRemoteLayersDoNotReplace(t *testing.T) {
	s := newStore(t)
	p := &registry{}
	img := testImage(t, p)
	known, err := s.AddImage(t.Context(), img)
	must(t, err)
	same := remoteTree(t, s, told("cache", img...)...)
	if same != known {
		t.Error("an image's own layers are not recognised")
	}
	lies := slices.Clone(img)
	lies[0].Desc.Digest = ocidigest.FromString("evil")
	evil := remoteTree(t, s, told("evil", lies...)...)
	infos, err := s.Layers(known)
	must(t, err)
	if infos[0].Desc.Digest != img[0].Desc.Digest || slices.Contains(infos[0].Sources, "evil") {
		t.Errorf("a known layer was changed: %+v", infos[0])
	}
	a, err := s.Content(t.Context(), known, cache.Root)
	must(t, err)
	b, err := s.Content(t.Context(), evil, cache.Root)
	must(t, err)
	if evil == known || a == b {
		t.Error("another blob passes for the same content")
	}
	// With the files here the diff ID is proven, whatever the blob.
	must(t, s.Ensure(t.Context(), known, p, nil))
	if tr := remoteTree(t, s, told("evil", lies...)...); tr != known {
		t.Error("files that are here are not used")
	}
}

func TestRemoteLayersThatAreLost(t *testing.T) {
	for name, spoil := range map[string]func(*registry, []ImageLayer){
		"gone":          func(p *registry, l []ImageLayer) { p.blobs = nil },
		"other bytes":   func(p *registry, l []ImageLayer) { p.blobs[l[0].Desc.Digest] = []byte("x") },
		"wrong diff ID": func(p *registry, l []ImageLayer) { l[0].DiffID = ocidigest.FromString("lie") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			p := &registry{}
			img := testImage(t, p)
			spoil(p, img)
			tr := remoteTree(t, s, told("cache", img...)...)
			lease := s.Lease("build")
			defer lease.Release()
			must(t, lease.Add(tr))
			if err := s.Ensure(t.Context(), tr, p, nil); !errors.Is(err, cache.ErrLost) {
				t.Errorf("ensure: %v", err)
			}
			if err := lease.Add(tr); !errors.Is(err, cache.ErrNotFound) {
				t.Errorf("lease: %v", err)
			}
			if s.Obtainable(t.Context(), tr, func(string) bool { return true }) {
				t.Error("a lost layer counts as obtainable")
			}
		})
	}
}

func TestObtainable(t *testing.T) {
	s := newStore(t)
	p := &registry{}
	img := testImage(t, p)
	tr := remoteTree(t, s, told("cache", img...)...)
	reach := func(b bool) func(string) bool { return func(string) bool { return b } }
	if !s.Obtainable(t.Context(), tr, reach(true)) || s.Obtainable(t.Context(), tr, reach(false)) {
		t.Error("sources do not count")
	}
	must(t, s.Ensure(t.Context(), tr, p, nil))
	if !s.Obtainable(t.Context(), tr, reach(false)) {
		t.Error("what is here does not count")
	}
	if !s.Obtainable(t.Context(), "", reach(false)) || s.Obtainable(t.Context(), "none", reach(true)) {
		t.Error("empty or unknown tree")
	}
}

func TestRemoteHeaders(t *testing.T) {
	a, b := newStore(t), newStore(t)
	p := &registry{}
	img := testImage(t, p)
	tr := remoteTree(t, a, told("cache", img...)...)
	infos, err := a.Layers(tr)
	must(t, err)
	for _, i := range infos {
		h, err := a.Header(i.ID)
		must(t, err)
		_, err = b.AddLayer(h)
		must(t, err)
		h.Image.Desc.Digest = ocidigest.FromString("another")
		if _, err := b.AddLayer(h); err == nil {
			t.Error("a layer with the ID of another was taken")
		}
	}
	ca, err := a.Content(context.Background(), tr, cache.Root)
	must(t, err)
	var ids []cache.LayerID
	for _, i := range infos {
		ids = append(ids, i.ID)
	}
	other, err := b.Append("", ids...)
	must(t, err)
	if cb, err := b.Content(t.Context(), other, cache.Root); err != nil || ca != cb || other != tr {
		t.Errorf("content differs between stores: %v", err)
	}
}

func TestRemoteLayersRefused(t *testing.T) {
	s := newStore(t)
	img := testImage(t, &registry{})
	for name, spoil := range map[string]func(*RemoteLayer){
		"parent after it": func(l *RemoteLayer) { l.Parent = 1 },
		"no parent":       func(l *RemoteLayer) { l.Parent = -2 },
		"diff ID":         func(l *RemoteLayer) { l.DiffID = "sha256:../x" },
		"digest":          func(l *RemoteLayer) { l.Desc.Digest = "x" },
		"size":            func(l *RemoteLayer) { l.Desc.Size = -1 },
		"media type":      func(l *RemoteLayer) { l.Desc.MediaType = "text/html" },
	} {
		chain := told("cache", img...)
		spoil(&chain[1])
		if _, err := s.AddRemote(t.Context(), chain); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if len(s.layers) > 0 {
		t.Error("something was added all the same")
	}
}

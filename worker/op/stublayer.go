package op

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
)

// keptStubLayers is how many layers of stubs are kept for the next step. The
// steps of one Dockerfile mostly need one and the same.
const keptStubLayers = 64

// stubLayers keeps layers of stubs, for making one costs more than all else that
// is done to mount a root file system.
type stubLayers struct {
	mu   sync.Mutex // guards kept
	kept []stubLayer
}

type stubLayer struct {
	key   cache.Key
	id    cache.LayerID
	lease *tree.Lease
}

func (l *stubLayers) find(key cache.Key) (cache.LayerID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.kept {
		if s.key == key {
			return s.id, true
		}
	}
	return "", false
}

// keep takes s in, and drops the oldest one that is too many.
func (l *stubLayers) keep(s stubLayer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, s)
	if len(l.kept) > keptStubLayers {
		l.kept[0].lease.Release()
		l.kept = append([]stubLayer(nil), l.kept[1:]...)
	}
}

func (l *stubLayers) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.kept {
		s.lease.Release()
	}
	l.kept = nil
}

// withStubs returns a tree of t, whose files view shows, and one more layer that
// holds the stubs.
func (w *Worker) withStubs(ctx context.Context, t cache.Tree, view *digest.View, stubs []stub) (cache.Tree, error) {
	key, err := stubKey(view, stubs)
	if err != nil {
		return "", err
	}
	if id, ok := w.stubs.find(key); ok {
		return w.Trees.Append(t, id)
	}
	l, err := w.newLayer(ctx, t)
	if err != nil {
		return "", err
	}
	for _, s := range stubs {
		if err := s.write(l.Draft); err != nil {
			return "", errors.Join(fmt.Errorf("make mount point: %w", err), l.draft.Discard())
		}
	}
	out, err := l.commit(ctx)
	if err != nil {
		return "", err
	}
	layers, err := w.Trees.Layers(out)
	if err != nil {
		return "", err
	}
	s := stubLayer{key: key, id: layers[len(layers)-1].ID, lease: w.Trees.Lease("mount points")}
	alone, err := w.Trees.Append("", s.id)
	if err == nil {
		err = s.lease.Add(alone)
	}
	if err != nil {
		return "", err
	}
	w.stubs.keep(s)
	return out, nil
}

// stubKey says what a layer of stubs depends on: the stubs, and the directories
// in which they lie, whose metadata the layer repeats.
func stubKey(view *digest.View, stubs []stub) (cache.Key, error) {
	var parts [][]byte
	seen := map[string]bool{}
	for _, s := range stubs {
		parts = append(parts, fmt.Appendf(nil, "%+v", s))
		at := "/"
		for _, name := range append([]string{""}, elements(s.path)...) {
			if name != "" {
				at = clean(at + "/" + name)
			}
			if seen[at] {
				continue
			}
			seen[at] = true
			if at == s.path {
				break // is not there
			}
			e, err := view.Lstat(at)
			if isNotExist(err) {
				break
			}
			if err != nil {
				return cache.Key{}, err
			}
			parts = append(parts, fmt.Appendf(nil, "%s %o %d:%d %d %q", at, e.Mode, e.UID, e.GID, e.ModTime.UnixNano(), e.Xattrs))
		}
	}
	return cache.Hash("stub layer", parts...), nil
}

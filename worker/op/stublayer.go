package op

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

// keptStubLayers is how many layers of stubs are remembered for the next step. The
// steps of one Dockerfile mostly need one and the same.
const keptStubLayers = 64

// stubLayers remembers layers of stubs, for making one costs more than all else
// that is done to mount a root file system. It holds none of them: one that was
// evicted is made again.
type stubLayers struct {
	mu    sync.Mutex // guards known
	known map[cache.Key]cache.LayerID
}

func (l *stubLayers) find(key cache.Key) (cache.LayerID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, ok := l.known[key]
	return id, ok
}

func (l *stubLayers) remember(key cache.Key, id cache.LayerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) >= keptStubLayers {
		l.known = map[cache.Key]cache.LayerID{}
	}
	l.known[key] = id
}

// withStubs returns a tree of t, whose files view shows, and one more layer that
// holds the stubs.
func (w *Worker) withStubs(ctx context.Context, t cache.Tree, view *digest.View, stubs []stub) (cache.Tree, error) {
	key, err := stubKey(view, stubs)
	if err != nil {
		return "", err
	}
	if id, ok := w.stubs.find(key); ok {
		if out, err := w.Trees.Append(t, id); !errors.Is(err, cache.ErrNotFound) {
			return out, err
		}
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
	w.stubs.remember(key, layers[len(layers)-1].ID)
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

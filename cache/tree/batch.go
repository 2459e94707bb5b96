package tree

import (
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/buildd/buildd/cache"
)

// batch is what one Sync writes; a nil value deletes.
type batch struct {
	layers   map[cache.LayerID][]byte
	trees    map[cache.Tree][]byte
	newFiles bool
}

func (b *batch) empty() bool { return len(b.layers) == 0 && len(b.trees) == 0 }

func (b *batch) write(tx *bbolt.Tx) error {
	for id, v := range b.layers {
		if err := putLayer(tx, id, v); err != nil {
			return err
		}
	}
	for t, v := range b.trees {
		if err := putTree(tx, t, v); err != nil {
			return err
		}
	}
	return nil
}

// takeBatch encodes all that is dirty and makes it clean.
func (s *Store) takeBatch() (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &batch{layers: map[cache.LayerID][]byte{}, trees: map[cache.Tree][]byte{}}
	for id := range s.dirtyLayers {
		b.layers[id] = nil
		r, ok := s.layers[id]
		if !ok {
			continue
		}
		v, err := json.Marshal(r)
		if err != nil {
			return nil, fmt.Errorf("write record of layer %s: %w", id, err)
		}
		b.layers[id] = v
		b.newFiles = b.newFiles || r.Dir != ""
	}
	for t := range s.dirtyTrees {
		b.trees[t] = nil
		if n, ok := s.trees[t]; ok {
			b.trees[t] = encodeTree(n)
		}
	}
	clear(s.dirtyLayers)
	clear(s.dirtyTrees)
	return b, nil
}

// putBack makes dirty again what could not be written.
func (s *Store) putBack(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range b.layers {
		s.dirtyLayers[id] = struct{}{}
	}
	for t := range b.trees {
		s.dirtyTrees[t] = struct{}{}
	}
}

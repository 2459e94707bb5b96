package remotecache

import (
	"context"
	"errors"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
)

// inline is a cache in the config of the exported image.
type inline struct{}

func inlineStore(attrs) (store, error) {
	return inline{}, nil
}

func (inline) name() string { return "exporting inline cache" }

func (inline) write(context.Context, session.Client, *remote.Document, []remote.Blob, func(string) func(error)) (map[string]string, error) {
	return nil, errors.New("an inline cache is exported with its image")
}

// Inline returns what an image of tree t carries, nil if there is nothing to
// carry.
func (s *Set) Inline(t cache.Tree, steps []*solver.Known) ([]byte, error) {
	d, err := remote.MakeInline(s.c.Trees, t, remoteSteps(steps, func(cache.Tree) bool { return true }))
	if err != nil || d == nil || len(d.Layers) == 0 {
		return nil, err
	}
	return d.EncodeInline()
}

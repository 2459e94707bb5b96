package op

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/moby/buildkit/solver/pb"
)

// treeMount is a tree that is mounted for a container.
type treeMount struct {
	input    cache.Tree
	view     *digest.View
	writable bool
	// sel is the part of the tree that the container sees, resolved.
	sel   string
	isDir bool
	// output is the index of the op's output that the tree becomes, or none.
	output int64
	// stubs are what the tree has only while it is mounted.
	stubs []stub

	dir  string // where it is mounted
	fork *tree.Fork
}

// newTreeMount plans the mount of a tree; t is that of m's input.
func (w *Worker) newTreeMount(ctx context.Context, m *pb.Mount, t cache.Tree) (*treeMount, error) {
	view, err := w.Trees.Files(ctx, t)
	if err != nil {
		return nil, err
	}
	tm := &treeMount{input: t, view: view, writable: !m.Readonly, output: m.Output}
	if tm.sel, err = view.Resolve(clean(m.Selector), true); err != nil {
		return nil, err
	}
	e, err := view.Lstat(tm.sel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q: not found in what is mounted: %w", clean(m.Selector), fs.ErrNotExist)
	}
	tm.isDir = isDir(e)
	return tm, err
}

// source is the path to bind into the container. What is mounted is changed by
// nobody before the container runs, and sel has no links in it.
func (t *treeMount) source() string {
	if t.sel == "/" {
		return t.dir
	}
	return t.dir + t.sel
}

// mount mounts the tree, with its stubs. done unmounts it unless it was
// committed.
func (t *treeMount) mount(ctx context.Context, w *Worker, lease *tree.Lease) (done func() error, err error) {
	of := t.input
	if len(t.stubs) > 0 {
		if of, err = w.withStubs(ctx, of, t.view, t.stubs); err != nil {
			return nil, err
		}
		if err := lease.Add(of); err != nil {
			return nil, err
		}
	}
	if !t.writable {
		v, err := w.Trees.View(ctx, of)
		if err != nil {
			return nil, err
		}
		t.dir = v.Dir
		return v.Close, nil
	}
	if t.fork, err = w.Trees.Fork(ctx, of); err != nil {
		return nil, err
	}
	t.dir = t.fork.Dir
	return func() error {
		if t.fork == nil {
			return nil
		}
		return t.fork.Discard()
	}, nil
}

// commit returns the output: the input and what was written over it, without the
// stubs.
func (t *treeMount) commit(ctx context.Context, s *sandbox) (cache.Tree, error) {
	if t.fork == nil {
		return t.input, nil
	}
	w := s.w
	if s.owner.uid != 0 || s.owner.gid != 0 {
		t.fork.OwnNew(s.owner.uid, s.owner.gid)
	}
	out, err := t.fork.Commit(ctx)
	if err != nil {
		return "", err
	}
	t.fork = nil
	if len(t.stubs) == 0 {
		return out, nil
	}
	// It lies over the stubs and is not the result: without a lease that lets go of
	// it again it would be spared for minutes.
	if err := s.lease.Add(out); err != nil {
		return "", err
	}
	layers, err := w.Trees.Layers(out)
	if err != nil {
		return "", err
	}
	return w.Trees.Append(t.input, layers[len(layers)-1].ID)
}

package op

import (
	"context"
	"fmt"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/draft"
	"github.com/moby/buildkit/solver/pb"
)

// FileActionError says which action of a file op went wrong.
type FileActionError struct {
	Index int
	Err   error
}

func (e *FileActionError) Error() string { return e.Err.Error() }
func (e *FileActionError) Unwrap() error { return e.Err }

// File runs a file op. Nothing is mounted: each layer is written as a draft.
func (w *Worker) File(ctx context.Context, r Request) (_ []cache.Tree, err error) {
	if err := w.check(r); err != nil {
		return nil, err
	}
	op := r.Op.GetFile()
	plan, err := planFile(op.Actions, len(r.Inputs))
	if err != nil {
		return nil, err
	}
	f := &fileRun{
		w: w, plan: plan, inputs: r.Inputs, actions: op.Actions, now: time.Now(),
		lease: w.Trees.Lease("file-" + newID()), results: make([]result, len(op.Actions)),
	}
	defer f.lease.Release()
	defer f.discard()
	for _, i := range plan.order {
		if err := f.run(ctx, i); err != nil {
			return nil, &FileActionError{Index: i, Err: err}
		}
	}
	out := make([]cache.Tree, len(plan.outputs))
	for i, a := range plan.outputs {
		out[i] = f.results[a].tree
	}
	return out, nil
}

// fileRun is one file op that runs.
type fileRun struct {
	w       *Worker
	plan    *filePlan
	inputs  []cache.Tree
	actions []*pb.FileAction
	now     time.Time
	lease   *tree.Lease
	results []result
}

// result is what an action made: a tree, or a layer that the next action goes on
// with.
type result struct {
	tree cache.Tree
	open *openLayer
}

type openLayer struct {
	draft *tree.Draft
	*draft.Draft
}

func (f *fileRun) discard() {
	for _, r := range f.results {
		if r.open != nil {
			r.open.draft.Discard()
		}
	}
}

// tree returns the tree that the input index i stands for.
func (f *fileRun) tree(i int64) cache.Tree {
	if i == none {
		return ""
	}
	if r := f.plan.reference(i); r >= 0 {
		return f.results[r].tree
	}
	return f.inputs[i]
}

func (f *fileRun) run(ctx context.Context, i int) error {
	a := f.actions[i]
	l, err := f.layer(ctx, a.Input)
	if err != nil {
		return err
	}
	if err := f.act(ctx, l, a); err != nil {
		l.draft.Discard()
		return err
	}
	if f.plan.handOver[i] {
		f.results[i].open = l
		return nil
	}
	t, err := l.commit(ctx)
	if err != nil {
		return err
	}
	f.results[i].tree = t
	if a.Output != none { // the caller's to lease
		return nil
	}
	return f.lease.Add(t)
}

// layer returns the layer to write over input i.
func (f *fileRun) layer(ctx context.Context, i int64) (*openLayer, error) {
	if r := f.plan.reference(i); r >= 0 && f.results[r].open != nil {
		l := f.results[r].open
		f.results[r].open = nil
		return l, nil
	}
	return f.w.newLayer(ctx, f.tree(i))
}

func (w *Worker) newLayer(ctx context.Context, parent cache.Tree) (*openLayer, error) {
	view, err := w.Trees.Files(ctx, parent)
	if err != nil {
		return nil, err
	}
	td, err := w.Trees.NewDraft(ctx, parent)
	if err != nil {
		return nil, err
	}
	d, err := draft.New(td.Dir, view, draft.Options{UserXattr: w.UserXattr, IgnoreOwner: w.IgnoreOwner})
	if err != nil {
		td.Discard()
		return nil, err
	}
	return &openLayer{draft: td, Draft: d}, nil
}

// commit ends the writing; the layer is gone if it fails.
func (l *openLayer) commit(ctx context.Context) (cache.Tree, error) {
	var b digest.Builder
	entries, err := l.Finish()
	for _, e := range entries {
		b.Add(e)
	}
	var x *digest.Index
	if err == nil {
		x, err = b.Index()
	}
	if err != nil {
		l.draft.Discard()
		return "", fmt.Errorf("finish layer: %w", err)
	}
	t, err := l.draft.Commit(ctx, x)
	if err != nil {
		l.draft.Discard()
		return "", err
	}
	return t, nil
}

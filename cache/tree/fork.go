package tree

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
)

// Fork is a writable mount over a tree. Either Commit or Discard ends it; what
// comes after that does nothing. It keeps the tree from being removed.
type Fork struct {
	// Dir is the mounted root directory.
	Dir string

	draft   *Draft
	mounted bool
}

// Fork mounts a tree so that it can be written over. All layers must be Ready.
// What is written survives no crash before Commit and Sync.
func (s *Store) Fork(ctx context.Context, t cache.Tree) (_ *Fork, err error) {
	d, err := s.newDraft(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("fork tree %s: %w", t, err)
	}
	f := &Fork{Dir: s.path(mountsDir, d.id), draft: d}
	defer func() {
		if err != nil {
			err = fmt.Errorf("fork tree %s: %w", t, errors.Join(err, f.Discard()))
		}
	}()
	lowers, err := s.lowers(ctx, d.parent, 1)
	if err != nil {
		return nil, err
	}
	work := s.path(draftsDir, d.id, workName)
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, err
	}
	if err := s.mount(overlay{lowers: lowers, upper: d.Dir, work: work}, f.Dir); err != nil {
		return nil, err
	}
	f.mounted = true
	return f, nil
}

// Commit unmounts and makes what was written a layer over the tree. A file of
// the mount that is still open is an error, as it could still be written to.
// After an error nothing of the fork is left.
func (f *Fork) Commit(ctx context.Context) (cache.Tree, error) {
	if f.draft.done {
		return "", errors.New("commit fork: it has ended already")
	}
	err := f.unmount(unmount)
	if err == nil {
		// The kernel's scratch space, with the mark that a volatile mount leaves.
		err = os.RemoveAll(f.draft.store.path(draftsDir, f.draft.id, workName))
	}
	if err != nil {
		return "", fmt.Errorf("commit fork: %w", errors.Join(err, f.Discard()))
	}
	return f.draft.Commit(ctx, nil)
}

// Discard unmounts and removes what was written.
func (f *Fork) Discard() error {
	return errors.Join(f.unmount(detach), f.draft.Discard())
}

func (f *Fork) unmount(how func(string) error) error {
	if !f.mounted {
		return nil
	}
	if err := how(f.Dir); err != nil {
		return err
	}
	f.mounted = false
	if err := os.Remove(f.Dir); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}

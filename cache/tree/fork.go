package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

// Fork is a writable mount over a tree. Either Commit or Discard ends it; what
// comes after that does nothing. It keeps the tree from being removed.
type Fork struct {
	// Dir is the mounted root directory.
	Dir string

	draft   *Draft
	mounted bool
	owner   string // of new files, as in digest.OwnerXattr
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

// OwnNew has Commit take what is new for another user's, of whom Config.IgnoreOwner
// says that he cannot be had here: files and directories that the tree has not,
// unless somebody was named as their owner already.
func (f *Fork) OwnNew(uid, gid uint32) { f.owner = digest.FormatOwner(uid, gid) }

// ownNew leaves symbolic links and the like out, which cannot have the attribute.
func (f *Fork) ownNew(ctx context.Context) error {
	below := digest.NewView(nil)
	if p := f.draft.parent; p != nil {
		var err error
		if below, err = f.draft.store.Files(ctx, p.name); err != nil {
			return err
		}
	}
	return filepath.WalkDir(f.draft.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == f.draft.Dir || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		if _, err := below.Lstat(strings.TrimPrefix(path, f.draft.Dir)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		err = unix.Lsetxattr(path, digest.OwnerXattr, []byte(f.owner), unix.XATTR_CREATE)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return os.NewSyscallError("keep owner", err)
	})
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
		err = removeWork(f.draft.store.path(draftsDir, f.draft.id, workName))
	}
	if err == nil && f.owner != "" {
		err = f.ownNew(ctx)
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
	if err := unix.Rmdir(f.Dir); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove mount point: %w", &os.PathError{Op: "rmdir", Path: f.Dir, Err: err})
	}
	return nil
}

// removeWork removes the kernel's scratch space: mostly empty directories with
// known names, the inmost being the mark that a volatile mount leaves.
func removeWork(dir string) error {
	for _, name := range []string{"work/incompat/volatile", "work/incompat", "work", ""} {
		switch err := unix.Rmdir(filepath.Join(dir, name)); err {
		case nil, unix.ENOENT:
		default:
			return os.RemoveAll(dir)
		}
	}
	return nil
}

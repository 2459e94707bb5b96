package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Bound is a part of a directory, or a file system, mounted at a path of its own.
type Bound struct {
	Path  string
	IsDir bool
}

// Bind mounts what sel leads to within dir at the path at, which it makes.
// Symbolic links in sel are resolved as if dir were the root, by the kernel, so
// that whoever changes dir meanwhile cannot make them lead out of it. A path
// that does not exist is fs.ErrNotExist.
func Bind(dir, sel, at string) (*Bound, error) {
	fd, st, err := openInside(dir, sel)
	if err != nil {
		return nil, &fs.PathError{Op: "mount", Path: sel, Err: err}
	}
	defer unix.Close(fd)
	b := &Bound{Path: at, IsDir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	if b.IsDir {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err == nil {
		if err = clone(fd, at); err != nil {
			err = errors.Join(err, os.Remove(at))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mount part %q: %w", sel, err)
	}
	return b, nil
}

// NewTmpfs mounts an empty file system of at most size bytes, 0 for half of the
// memory, at the directory at, which it makes.
func NewTmpfs(at string, size int64) (*Bound, error) {
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, fmt.Errorf("mount tmpfs: %w", err)
	}
	opts := "mode=1777"
	if size > 0 {
		opts += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("mount tmpfs at %s: %w", at, err), os.Remove(at))
	}
	return &Bound{Path: at, IsDir: true}, nil
}

// Close unmounts it.
func (b *Bound) Close() error { return unmount(b.Path) }

func openInside(dir, sel string) (int, *unix.Stat_t, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil, err
	}
	defer unix.Close(root)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	var fd int
	for range 128 { // the kernel gives up when a rename races with it
		if fd, err = unix.Openat2(root, sel, how); err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, &st, nil
}

// clone mounts what fd refers to at path.
func clone(fd int, path string) error {
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("clone mount: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach mount at %s: %w", path, err)
	}
	return nil
}

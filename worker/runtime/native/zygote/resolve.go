package zygote

import (
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A path inside a container's root is the image's word. It is only ever
// resolved by these functions: every symbolic link, absolute or not, and every
// ".." stays inside the root.

// open opens the file at p inside root as a place (O_PATH), following links.
func (root fd) open(p string, flags uint64) (fd, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	n, err := retry(func() (int, error) { return unix.Openat2(int(root), relative(p), &how) })
	if err != nil {
		return noFD, &os.PathError{Op: "open in container", Path: p, Err: err}
	}
	return fd(n), nil
}

func relative(p string) string {
	if p = strings.TrimLeft(path.Clean(p), "/"); p != "" {
		return p
	}
	return "."
}

// openDir opens the directory p inside root and makes what of it is missing.
func (root fd) openDir(p string) (fd, error) {
	dir, err := root.open(p, unix.O_DIRECTORY)
	if !os.IsNotExist(err) {
		return dir, err
	}
	parent, name, err := root.openParent(p)
	if err != nil {
		return noFD, err
	}
	defer parent.close()
	if err := unix.Mkdirat(int(parent), name, 0o755); err != nil && err != unix.EEXIST {
		return noFD, &os.PathError{Op: "make directory in container", Path: p, Err: err}
	}
	return parent.openName(name, p, unix.O_DIRECTORY)
}

// openFile opens the file p inside root, of any type but a directory, and makes
// an empty one if there is none.
func (root fd) openFile(p string) (fd, error) {
	f, err := root.open(p, 0)
	if !os.IsNotExist(err) {
		return f, err
	}
	parent, name, err := root.openParent(p)
	if err != nil {
		return noFD, err
	}
	defer parent.close()
	if err := unix.Mknodat(int(parent), name, unix.S_IFREG|0o644, 0); err != nil && err != unix.EEXIST {
		return noFD, &os.PathError{Op: "make file in container", Path: p, Err: err}
	}
	return parent.openName(name, p, 0)
}

// openParent opens the directory that p lies in, making it if it is missing, and
// returns the last element of p.
func (root fd) openParent(p string) (fd, string, error) {
	p = path.Clean("/" + p)
	if p == "/" {
		return noFD, "", &os.PathError{Op: "open in container", Path: p, Err: unix.EISDIR}
	}
	dir, err := root.openDir(path.Dir(p))
	return dir, path.Base(p), err
}

// openName opens what was just made in dir. A link there, which can be only a
// dangling one, is refused.
func (dir fd) openName(name, p string, flags int) (fd, error) {
	n, err := unix.Openat(int(dir), name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, 0)
	if err != nil {
		return noFD, &os.PathError{Op: "open in container", Path: p, Err: err}
	}
	f := fd(n)
	if mode, err := f.mode(); err != nil || mode == unix.S_IFLNK {
		f.close()
		return noFD, &os.PathError{Op: "open in container: a link that leads nowhere", Path: p, Err: unix.ELOOP}
	}
	return f, nil
}

// mode returns the type of a file, S_IFDIR and so on.
func (f fd) mode() (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(f), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return 0, err
	}
	return st.Mode & unix.S_IFMT, nil
}

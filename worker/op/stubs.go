package op

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/worker/draft"
	"golang.org/x/sys/unix"
)

// stub is a path that a tree must have before something can be mounted on it,
// or a process can start in it.
type stub struct {
	path     string // resolved, within the tree
	isDir    bool
	uid, gid uint32
}

// place is a mount as the container will see it.
type place struct {
	path  string // resolved
	isDir bool
	// of is the tree that is mounted, if its mount points can be prepared; sel is
	// the part of it.
	of  *treeMount
	sel string
}

// layout knows what will be mounted where in a container.
type layout struct {
	root   *treeMount
	places []place // in the order of the mounts
}

// find returns the tree that holds the absolute path p once all places are
// mounted, and p's place in it; nil if it is none that can be prepared.
func (l *layout) find(p string) (*treeMount, string, error) {
	p, err := l.root.view.Resolve(p, true)
	if err != nil {
		return nil, "", err
	}
	for i := len(l.places) - 1; i >= 0; i-- { // a later one lies on top
		at := l.places[i]
		rest, ok := strings.CutPrefix(p, at.path)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		if at.of == nil || !at.isDir && rest != "" {
			return nil, "", nil
		}
		in := path.Join(at.sel, rest)
		if resolved, err := at.of.view.Resolve(in, true); err != nil || resolved != in {
			return nil, "", err // a link here counts from the container's root: the runtime knows
		}
		return at.of, in, nil
	}
	return l.root, p, nil
}

// mountOn plans a mount at dest and notes the mount point that it needs.
func (l *layout) mountOn(dest string, isDir bool, of *treeMount, sel string) error {
	t, in, err := l.find(dest)
	if err != nil {
		return fmt.Errorf("mount %s: %w", dest, err)
	}
	if t != nil {
		if err := t.need(stub{path: in, isDir: isDir}); err != nil {
			return fmt.Errorf("mount %s: %w", dest, err)
		}
	}
	resolved, err := l.root.view.Resolve(dest, true)
	if err != nil {
		return fmt.Errorf("mount %s: %w", dest, err)
	}
	l.places = append(l.places, place{path: resolved, isDir: isDir, of: of, sel: sel})
	return nil
}

// need notes s unless the tree has it.
func (t *treeMount) need(s stub) error {
	e, err := t.view.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.stubs = append(t.stubs, s)
		return nil
	}
	if err != nil {
		return err
	}
	switch isDir := e.Mode&unix.S_IFMT == unix.S_IFDIR; {
	case isDir && !s.isDir:
		return fmt.Errorf("%s is a directory, but what is mounted is a file", s.path)
	case !isDir && s.isDir:
		return fmt.Errorf("%s is not a directory", s.path)
	}
	return nil
}

func (s stub) write(d *draft.Draft) error {
	a := draft.Attr{Mode: 0o755, UID: s.uid, GID: s.gid, ModTime: time.Unix(0, 0)}
	if s.isDir {
		return d.MkdirAll(s.path, a)
	}
	if err := d.MkdirAll(path.Dir(s.path), a); err != nil {
		return err
	}
	if _, err := d.Lstat(s.path); err == nil { // two mounts at one place
		return nil
	}
	return d.WriteBytes(s.path, nil, a)
}

// isDir reports whether e is a directory.
func isDir(e digest.Entry) bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// elements are the names in a clean absolute path.
func elements(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

// isNotExist also reports true for a path below something that is no directory.
func isNotExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

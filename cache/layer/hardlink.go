package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// hardlink links name to another path of this layer, or of one below.
func (u *unpacker) hardlink(parent *node, name, target string, e digest.Entry) error {
	t, err := u.linkTarget(path.Clean("/" + target)[1:])
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(target), err)
	}
	old := parent.kids[name]
	if old != nil && old.ino == t.ino {
		return nil // a link to itself, or one that is there already
	}
	if old != nil {
		for n := t; n != nil; n = n.parent {
			if n == old {
				return fmt.Errorf("hard link to %s: the link would take its directory's place", quote(target))
			}
		}
		if err := u.remove(old); err != nil {
			return err
		}
	}
	tfd, err := openBeneath(u.rootFD, t.parent.path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(target), err)
	}
	defer unix.Close(tfd)
	fd, err := u.open(parent)
	if err != nil {
		return err
	}
	if err := unix.Linkat(tfd, t.name(), fd, name, 0); err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(target), err)
	}
	newNode(parent, name, t.ino)
	return u.redescribe(fd, name, &t.ino.e, e)
}

// redescribe gives an inode what a hard link's header says, where that differs.
func (u *unpacker) redescribe(fd int, name string, old *digest.Entry, e digest.Entry) error {
	want := *old
	want.UID, want.GID, want.ModTime = e.UID, e.GID, e.ModTime
	want.Xattrs = union(old.Xattrs, e.Xattrs)
	if !old.IsSymlink() {
		want.Mode = old.Mode&unix.S_IFMT | e.Mode&0o7777
	}
	if want.UID == old.UID && want.GID == old.GID && want.Mode == old.Mode &&
		want.ModTime.Equal(old.ModTime) && maps.Equal(want.Xattrs, old.Xattrs) {
		return nil
	}
	*old = want
	return u.describeAt(fd, name, old)
}

// linkTarget finds what a hard link names; the last element is not followed.
func (u *unpacker) linkTarget(name string) (*node, error) {
	dir, base := split(name)
	if base == "" {
		return nil, unix.EPERM // a directory
	}
	p, err := resolve(u.root, dir)
	if err != nil {
		return nil, err
	}
	at := p.last(u.root)
	if len(p.nodes) == len(p.names) {
		if n := at.kids[base]; n != nil {
			if n.ino.e.Whiteout {
				return nil, fs.ErrNotExist
			}
			if n.ino.e.IsDir() {
				return nil, fmt.Errorf("it is a directory: %w", unix.EPERM)
			}
			return n, nil
		}
	}
	return u.copyUp(at, append(p.names[len(p.nodes):], base))
}

// copyUp copies a file from the layers below into this one, to the path that
// names make below the directory at.
func (u *unpacker) copyUp(at *node, names []string) (*node, error) {
	for n := at; n != nil; n = n.parent {
		if n.ino.e.Opaque || !n.ino.e.IsDir() {
			return nil, fs.ErrNotExist // this layer hides it
		}
	}
	lower, err := u.lowerView()
	if err != nil || lower == nil {
		return nil, errors.Join(fs.ErrNotExist, err)
	}
	e, ok, err := lowerAt(lower, join(at.path, strings.Join(names, "/")))
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, fs.ErrNotExist
	case e.IsDir():
		return nil, fmt.Errorf("it is a directory: %w", unix.EPERM)
	}
	parent, base := at, names[len(names)-1]
	for _, name := range names[:len(names)-1] {
		if parent, err = u.implied(parent, name); err != nil {
			return nil, err
		}
	}
	var src io.Reader
	if e.IsRegular() {
		f, err := lower.Open(e.Path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		src = f
	}
	if err := u.create(parent, base, e, src, false); err != nil {
		return nil, fmt.Errorf("copy it up: %w", err)
	}
	n := parent.kids[base]
	if n == nil {
		return nil, errors.New("copy it up: devices cannot be created here")
	}
	if n.ino.e.Hash != e.Hash {
		return nil, errors.New("copy it up: its bytes are not those that were indexed")
	}
	return n, nil
}

// union has what b says where both say something.
func union(a, b map[string]string) map[string]string {
	if len(a) == 0 {
		return b
	}
	a = maps.Clone(a)
	maps.Copy(a, b)
	return a
}

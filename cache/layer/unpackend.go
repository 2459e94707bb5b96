package layer

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// finish describes the directories, which nothing is created in any more, and
// indexes the layer.
func (u *unpacker) finish() (*digest.Index, error) {
	lower, err := u.lowerView()
	if err != nil {
		return nil, err
	}
	if u.root.ino.e.Opaque && lower != nil {
		if err := u.hideLower(lower); err != nil {
			return nil, err
		}
	}
	if u.root.ino.implied && lower != nil {
		e, err := lower.Lstat("/")
		if err != nil {
			return nil, err
		}
		e.Opaque = u.root.ino.e.Opaque
		u.root.ino.e = e
	}
	b := &digest.Builder{}
	if err := u.settle(u.root, false, b); err != nil {
		return nil, err
	}
	return b.Index()
}

// hideLower spells out what an opaque root hides: overlay heeds the mark in
// directories below the root only.
func (u *unpacker) hideLower(lower *digest.View) error {
	below, err := lower.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range below {
		if err := u.whiteout(u.root, e.Path); err != nil {
			return fmt.Errorf("hide %s: %w", quote(e.Path), err)
		}
	}
	return nil
}

// settle adds n and all below it to the index, what lies in a directory before
// the directory is described: it may become one that cannot be entered. hidden
// says that nothing below this layer shows through at n.
func (u *unpacker) settle(n *node, hidden bool, b *digest.Builder) error {
	if n.ino.implied && n.parent != nil && !hidden && u.o.Lower != nil {
		if err := u.inherit(n); err != nil {
			return err
		}
	}
	covered := hidden || n.ino.e.Opaque
	for _, name := range slices.Sorted(maps.Keys(n.kids)) {
		k := n.kids[name]
		if k.ino.e.Whiteout {
			idle, err := u.idle(k, hidden || covered && n.parent != nil)
			if err != nil {
				return err
			}
			if idle {
				if err := u.remove(k); err != nil {
					return err
				}
				continue
			}
		}
		if err := u.settle(k, covered, b); err != nil {
			return err
		}
	}
	if n.ino.e.IsDir() {
		if err := u.settleDir(n); err != nil {
			return fmt.Errorf("directory %s: %w", quote(n.path), err)
		}
	}
	e := n.ino.e
	e.Path, e.Hardlink = n.path, ""
	switch {
	case n.ino.first == nil:
		n.ino.first = n
	case !e.IsDir():
		e.Hardlink = n.ino.first.path
	}
	b.Add(e)
	return nil
}

// inherit makes a directory that the tar left out like the one below.
func (u *unpacker) inherit(n *node) error {
	e, ok, err := lowerAt(u.o.Lower, n.path)
	if err != nil || !ok || !e.IsDir() {
		return err
	}
	e.Opaque = n.ino.e.Opaque
	n.ino.e = e
	return nil
}

// idle tells whether a whiteout hides nothing: whether an opaque directory does
// already, or nothing is there. Overlay lists such a whiteout where its directory
// is not merged with another one.
func (u *unpacker) idle(n *node, hidden bool) (bool, error) {
	if hidden || u.o.Lower == nil {
		return hidden, nil
	}
	_, ok, err := lowerAt(u.o.Lower, n.path)
	return !ok, err
}

func (u *unpacker) settleDir(n *node) error {
	fd, err := openBeneath(u.rootFD, n.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if n.ino.e.Opaque {
		name := digest.OpaqueXattr(u.o.UserXattr)
		if err := unix.Fsetxattr(fd, name, []byte("y"), 0); err != nil {
			return fmt.Errorf("set extended attribute %q: %w", name, err)
		}
	}
	return u.describe(fd, &n.ino.e)
}

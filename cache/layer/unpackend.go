package layer

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// finish describes the directories, which nothing is created in any more, and
// indexes the layer.
func (u *unpacker) finish() (*digest.Index, error) {
	if u.root.ino.e.Opaque && u.o.Lower != nil {
		if err := u.hideLower(); err != nil {
			return nil, err
		}
	}
	u.forget()
	b := &digest.Builder{}
	if err := u.settle(u.root, b); err != nil {
		return nil, err
	}
	return b.Index()
}

// hideLower spells out what an opaque root hides: overlay heeds the mark in
// directories below the root only.
func (u *unpacker) hideLower() error {
	below, err := u.o.Lower.ReadDir("/")
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
// the directory is described: it may become one that cannot be entered.
func (u *unpacker) settle(n *node, b *digest.Builder) error {
	for _, name := range slices.SortedFunc(maps.Keys(n.kids), strings.Compare) {
		if err := u.settle(n.kids[name], b); err != nil {
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

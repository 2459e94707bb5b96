package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// node is a path of the layer being unpacked. The tree of nodes mirrors the
// directory on disk, so that names are resolved without asking the disk, and
// whatever a name resolves to is a path without symbolic links.
type node struct {
	path   string // "" is the layer's root
	parent *node
	kids   map[string]*node // nil unless it is a directory
	ino    *inode
}

// inode is what the paths of one file share. Its entry's Path is not used.
type inode struct {
	e       digest.Entry
	implied bool  // a directory that nothing describes yet, to be like the one below
	first   *node // the path that the index lists as the one linked to
}

func newNode(parent *node, name string, ino *inode) *node {
	n := &node{parent: parent, ino: ino}
	if parent != nil {
		n.path = join(parent.path, name)
		parent.kids[name] = n
	}
	if ino.e.IsDir() {
		n.kids = map[string]*node{}
	}
	return n
}

func (n *node) name() string {
	_, name := split(n.path)
	return name
}

// maxLinks is how many symbolic links a name may go through, as in digest.View.
const maxLinks = 255

// place is a directory that a name leads to, which may not be there yet.
type place struct {
	names []string // from the root, without links
	nodes []*node  // those of names that are there
}

// resolve goes along a clean path, through the links of this layer: containerd
// does so, too. Links of layers below do not take part, as the tar is that of
// an upper directory. ".." stops at the root.
func resolve(root *node, path string) (place, error) {
	var p place
	links := 0
	for rest := path; rest != ""; {
		var el string
		el, rest, _ = strings.Cut(rest, "/")
		switch el {
		case "", ".":
			continue
		case "..":
			if n := len(p.names); n > 0 {
				p.names = p.names[:n-1]
				p.nodes = p.nodes[:min(len(p.nodes), n-1)]
			}
			continue
		}
		next := p.next(root, el)
		if next != nil && next.ino.e.IsSymlink() {
			if links++; links > maxLinks {
				return p, unix.ELOOP
			}
			if strings.HasPrefix(next.ino.e.Link, "/") {
				p = place{}
			}
			rest = next.ino.e.Link + "/" + rest
			continue
		}
		p.names = append(p.names, el)
		if next != nil {
			p.nodes = append(p.nodes, next)
		}
	}
	return p, nil
}

// next is what el names in p, nil if that is not there.
func (p place) next(root *node, el string) *node {
	if len(p.nodes) != len(p.names) {
		return nil
	}
	return p.last(root).kids[el]
}

// last is the deepest node of p that is there.
func (p place) last(root *node) *node {
	if len(p.nodes) == 0 {
		return root
	}
	return p.nodes[len(p.nodes)-1]
}

// parent returns the directory for an entry, made with its parents if the tar
// left it out.
func (u *unpacker) parent(dir string) (*node, error) {
	if u.lastDir != nil && u.lastName == dir {
		return u.lastDir, nil
	}
	p, err := resolve(u.root, dir)
	if err != nil {
		return nil, err
	}
	n := p.last(u.root)
	for _, name := range p.names[len(p.nodes):] {
		if n, err = u.implied(n, name); err != nil {
			return nil, err
		}
	}
	// A whiteout may stand in the directory's place.
	if n.ino.e.Whiteout {
		if n, err = u.implied(n.parent, n.name()); err != nil {
			return nil, err
		}
	}
	if !n.ino.e.IsDir() {
		return nil, fmt.Errorf("%s is a %s: %w", quote(n.path), typeName(n.ino.e), unix.ENOTDIR)
	}
	u.lastName, u.lastDir = dir, n
	return n, nil
}

// implied makes a directory that the tar has no entry for.
func (u *unpacker) implied(parent *node, name string) (*node, error) {
	if parent.ino.e.Whiteout {
		var err error
		if parent, err = u.implied(parent.parent, parent.name()); err != nil {
			return nil, err
		}
	}
	if !parent.ino.e.IsDir() {
		return nil, fmt.Errorf("%s is a %s: %w", quote(parent.path), typeName(parent.ino.e), unix.ENOTDIR)
	}
	fresh := parent.kids[name] == nil
	n, err := u.mkdir(parent, name, impliedDir())
	if err != nil {
		return nil, fmt.Errorf("create parent %s: %w", quote(join(parent.path, name)), err)
	}
	n.ino.implied = fresh // what was replaced hid the one below
	return n, nil
}

// impliedDir is a directory that nothing describes.
func impliedDir() digest.Entry {
	return digest.Entry{Mode: unix.S_IFDIR | 0o755, ModTime: epoch}
}

// lowerAt looks a path up without following links.
func lowerAt(v *digest.View, path string) (digest.Entry, bool, error) {
	e, err := v.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ELOOP):
		return e, false, nil
	case err != nil:
		return e, false, err
	}
	return e, e.Path == path, nil
}

// mkdir creates a directory, in the place of anything that this layer has there:
// that hides what is below, a whiteout in particular, so nothing may show through
// the directory.
func (u *unpacker) mkdir(parent *node, name string, e digest.Entry) (*node, error) {
	old := parent.kids[name]
	if old != nil {
		if err := u.remove(old); err != nil {
			return nil, err
		}
	}
	fd, err := u.open(parent)
	if err != nil {
		return nil, err
	}
	// What the directory is to be is set at the end: a setgid bit or a default
	// ACL must not pass to what is created in it, nor its time change again.
	if err := unix.Mkdirat(fd, name, 0o700); err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	e.Opaque = old != nil
	return newNode(parent, name, &inode{e: e}), nil
}

// open returns a descriptor of a directory, which is good until the next call.
func (u *unpacker) open(n *node) (int, error) {
	if u.openDir == n {
		return u.openFD, nil
	}
	at, rel := u.rootFD, n.path
	if u.openDir != nil && u.openDir == n.parent {
		at, rel = u.openFD, n.name() // the way down, step by step
	}
	fd, err := openBeneath(at, rel, unix.O_PATH|unix.O_DIRECTORY)
	u.forget()
	if err != nil {
		return -1, fmt.Errorf("open directory %s: %w", quote(n.path), err)
	}
	u.openDir, u.openFD = n, fd
	return fd, nil
}

// forget drops what is remembered of directories.
func (u *unpacker) forget() {
	if u.openDir != nil {
		unix.Close(u.openFD)
		u.openDir = nil
	}
}

// remove deletes n and all below it, as a later entry takes its place.
func (u *unpacker) remove(n *node) error {
	for _, k := range n.kids {
		if err := u.remove(k); err != nil {
			return err
		}
	}
	u.lastDir = nil
	fd, err := u.open(n.parent)
	if err != nil {
		return err
	}
	flags := 0
	if n.ino.e.IsDir() {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(fd, n.name(), flags); err != nil {
		return fmt.Errorf("replace %s: %w", quote(n.path), err)
	}
	if u.openDir == n {
		u.forget()
	}
	delete(n.parent.kids, n.name())
	return nil
}

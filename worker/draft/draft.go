package draft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"golang.org/x/sys/unix"
)

// View is what a Draft lies over or is copied from; a *digest.View.
type View interface {
	// Lstat resolves links in all but the last element.
	Lstat(path string) (digest.Entry, error)
	ReadDir(path string) ([]digest.Entry, error)
	Resolve(path string, followLast bool) (string, error)
	// HostPath says where a resolved path lies.
	HostPath(path string) (string, error)
	Open(path string) (*os.File, error)
}

// Options say how a Draft is written to disk.
type Options struct {
	// UserXattr writes user.overlay.opaque, which needs no privilege, rather
	// than trusted.overlay.opaque.
	UserXattr bool
	// IgnoreOwner keeps an owner that may not be set in the extended attribute
	// user.buildd.owner.
	IgnoreOwner bool
	// NoLinks copies files even where nothing about them changes, for a
	// directory that is written to afterwards.
	NoLinks bool
}

// Attr is the metadata of a path that is written.
type Attr struct {
	// Mode holds permission bits, set-ID and sticky bits (07777).
	Mode     uint32
	UID, GID uint32
	ModTime  time.Time
	Xattrs   map[string]string
}

// attrOf returns the metadata that e has.
func attrOf(e digest.Entry) Attr {
	return Attr{Mode: e.Mode & 0o7777, UID: e.UID, GID: e.GID, ModTime: e.ModTime, Xattrs: e.Xattrs}
}

// Draft is a layer in the making.
type Draft struct {
	dir  string
	base View
	o    Options
	root *node
}

// node is a path that the layer holds.
type node struct {
	e    digest.Entry // without Path and Hardlink
	kids map[string]*node
	// below says of a directory that what the base has there shows through.
	below bool
	// links is shared by the names of one inode; nil for an inode of one name.
	links *links
}

type links struct{ first string }

func (n *node) isDir() bool { return n.e.Mode&unix.S_IFMT == unix.S_IFDIR && !n.e.Whiteout }

// New starts a layer in the empty directory dir. base is what the layer lies
// over; nil is nothing. The root directory keeps the metadata that it has in
// base.
func New(dir string, base View, o Options) (*Draft, error) {
	root := digest.Entry{Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}
	if base != nil {
		e, err := base.Lstat("/")
		switch {
		case err == nil:
			root = e
		case !errors.Is(err, fs.ErrNotExist): // nothing below
			return nil, fmt.Errorf("stat root of what lies below: %w", err)
		}
	}
	root.Path, root.Opaque, root.Hardlink = "", false, ""
	d := &Draft{dir: dir, base: base, o: o, root: &node{e: root, kids: map[string]*node{}, below: base != nil}}
	if err := d.apply("/", &root); err != nil {
		return nil, err
	}
	return d, nil
}

// names splits a clean absolute path.
func names(p string) []string {
	if p == "/" {
		return nil
	}
	return strings.Split(p[1:], "/")
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// host is where p lies on disk, if the layer holds it. All directories on the
// way are made by the Draft and none is a link.
func (d *Draft) host(p string) string { return d.dir + p }

// find returns the layer's node of p, nil if it has none, and whether the base
// shows through at p.
func (d *Draft) find(p string) (*node, bool) {
	n, below := d.root, d.root.below
	for _, name := range names(p) {
		n = n.kids[name]
		if n == nil {
			return nil, below
		}
		below = n.below
	}
	return n, below
}

// lower returns what the base has at the resolved path p, hidden or not.
func (d *Draft) lower(p string) (digest.Entry, bool, error) {
	if d.base == nil {
		return digest.Entry{}, false, nil
	}
	e, err := d.base.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return e, false, nil
	}
	return e, err == nil, err
}

// Lstat returns the entry of p, whose directories must be resolved.
func (d *Draft) Lstat(p string) (digest.Entry, error) {
	p = path.Clean("/" + p)
	n, below := d.find(p)
	if n != nil && !n.e.Whiteout {
		return n.e, nil
	}
	if n == nil && below {
		e, ok, err := d.lower(p)
		if ok || err != nil {
			return e, err
		}
	}
	return digest.Entry{}, &fs.PathError{Op: "lstat", Path: p, Err: syscall.ENOENT}
}

// ReadDir returns the entries of the resolved directory p, sorted by name; each
// Path holds the name only.
func (d *Draft) ReadDir(p string) ([]digest.Entry, error) {
	p = path.Clean("/" + p)
	n, below := d.find(p)
	if n != nil && !n.isDir() {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: syscall.ENOTDIR}
	}
	var out []digest.Entry
	if below {
		lower, err := d.base.ReadDir(p)
		if err != nil && (n == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)) {
			return nil, err
		}
		for _, e := range lower {
			e.Path = path.Base(e.Path)
			if n == nil || n.kids[e.Path] == nil {
				out = append(out, e)
			}
		}
	} else if n == nil {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: syscall.ENOENT}
	}
	if n != nil {
		for name, k := range n.kids {
			if !k.e.Whiteout {
				e := k.e
				e.Path = name
				out = append(out, e)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// maxLinks is how many symbolic links a path may lead through.
const maxLinks = 255

// Resolve returns where p leads within the draft: a clean absolute path without
// links, but for its last element unless followLast. What does not exist is
// kept as written.
func (d *Draft) Resolve(p string, followLast bool) (string, error) {
	return d.resolveIn("/", p, followLast)
}

// resolveIn resolves p as if the resolved directory root were the root, and
// returns the whole path.
func (d *Draft) resolveIn(root, p string, followLast bool) (string, error) {
	todo := names(path.Clean("/" + p))
	cur := "/"
	for followed := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			cur = path.Dir(cur)
			continue
		}
		next := join(cur, name)
		e, err := d.Lstat(path.Join(root, next))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return "", err
		}
		if err != nil || e.Mode&unix.S_IFMT != unix.S_IFLNK || len(todo) == 0 && !followLast {
			cur = next
			continue
		}
		if followed++; followed > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: p, Err: syscall.ELOOP}
		}
		if path.IsAbs(e.Link) {
			cur = "/"
		}
		todo = append(strings.Split(e.Link, "/"), todo...)
	}
	return path.Join(root, cur), nil
}

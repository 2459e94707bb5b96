package draft

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"syscall"

	"github.com/buildd/buildd/cache/digest"
	"golang.org/x/sys/unix"
)

// parent returns the node of the directory that holds p, copied up if need be.
func (d *Draft) parent(op, p string) (*node, error) {
	if p == "/" {
		return nil, &fs.PathError{Op: op, Path: p, Err: syscall.EEXIST}
	}
	n, err := d.copyUp(path.Dir(p))
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: p, Err: errno(err)}
	}
	return n, nil
}

func errno(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, fs.ErrNotExist) {
		return syscall.ENOENT
	}
	return err
}

// copyUp makes the layer hold the existing directory p, with the metadata that
// it has below.
func (d *Draft) copyUp(p string) (*node, error) {
	n, at := d.root, ""
	for _, name := range names(p) {
		at += "/" + name
		k := n.kids[name]
		if k == nil {
			e, ok, err := digest.Entry{}, false, error(nil)
			if n.below {
				e, ok, err = d.lower(at)
			}
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, syscall.ENOENT
			}
			if e.Mode&unix.S_IFMT != unix.S_IFDIR {
				return nil, syscall.ENOTDIR
			}
			e.Path, e.Opaque = "", false
			k = &node{e: e, kids: map[string]*node{}, below: true}
			if err := os.Mkdir(d.host(at), 0o700); err != nil {
				return nil, err
			}
			if err := d.apply(at, &k.e); err != nil {
				return nil, err
			}
			n.kids[name] = k
		}
		if k.e.Whiteout {
			return nil, syscall.ENOENT
		}
		if !k.isDir() {
			return nil, syscall.ENOTDIR
		}
		n = k
	}
	return n, nil
}

// clear makes room for something new at p: what the layer holds there goes. What
// lies below p is hidden by what comes.
func (d *Draft) clear(parent *node, p string) error {
	name := path.Base(p)
	if parent.kids[name] == nil {
		return nil
	}
	if err := os.RemoveAll(d.host(p)); err != nil {
		return fmt.Errorf("remove %s: %w", p, errno(err))
	}
	delete(parent.kids, name)
	return nil
}

// vacate is the first half of every creation: it fails if p exists, and removes
// a whiteout.
func (d *Draft) vacate(op, p string) (*node, error) {
	parent, err := d.parent(op, p)
	if err != nil {
		return nil, err
	}
	if _, err := d.Lstat(p); err == nil {
		return nil, &fs.PathError{Op: op, Path: p, Err: syscall.EEXIST}
	}
	return parent, d.clear(parent, p)
}

// Mkdir makes the directory p. Its directory must exist, p must not.
func (d *Draft) Mkdir(p string, a Attr) error {
	p = path.Clean("/" + p)
	parent, err := d.parent("mkdir", p)
	if err != nil {
		return err
	}
	hides := false
	if parent.below {
		if _, hides, err = d.lower(p); err != nil {
			return err
		}
	}
	if k := parent.kids[path.Base(p)]; k != nil && !k.e.Whiteout || k == nil && hides {
		return &fs.PathError{Op: "mkdir", Path: p, Err: syscall.EEXIST}
	}
	return d.mkdir(parent, p, a, hides)
}

// mkdir makes a directory; hides says that something lies below, of which
// nothing may show through.
func (d *Draft) mkdir(parent *node, p string, a Attr, hides bool) error {
	if err := d.clear(parent, p); err != nil {
		return err
	}
	n := &node{e: entry(unix.S_IFDIR, a), kids: map[string]*node{}}
	if err := os.Mkdir(d.host(p), 0o700); err != nil {
		return fmt.Errorf("make directory %s: %w", p, errno(err))
	}
	if hides {
		name := "trusted.overlay.opaque"
		if d.o.UserXattr {
			name = "user.overlay.opaque"
		}
		if err := unix.Lsetxattr(d.host(p), name, []byte("y"), 0); err != nil {
			return fmt.Errorf("mark directory %s opaque: %w", p, err)
		}
		n.e.Opaque = true
	}
	if err := d.apply(p, &n.e); err != nil {
		return err
	}
	parent.kids[path.Base(p)] = n
	return nil
}

// MkdirAll makes the directory p and those that it needs, all with the metadata
// a. Directories that exist stay as they are.
func (d *Draft) MkdirAll(p string, a Attr) error {
	p, err := d.Resolve(p, true)
	if err != nil {
		return err
	}
	at, exists := "", true
	for _, name := range names(p) {
		at += "/" + name
		if exists {
			e, err := d.Lstat(at)
			if err == nil {
				if e.Mode&unix.S_IFMT != unix.S_IFDIR {
					return &fs.PathError{Op: "mkdir", Path: at, Err: syscall.ENOTDIR}
				}
				continue
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			exists = false
		}
		if err := d.Mkdir(at, a); err != nil {
			return err
		}
	}
	return nil
}

// SetAttr gives the existing directory p the metadata a; extended attributes
// are added to those that it has.
func (d *Draft) SetAttr(p string, a Attr) error {
	n, err := d.copyUp(path.Clean("/" + p))
	if err != nil {
		return &fs.PathError{Op: "set attributes of", Path: p, Err: errno(err)}
	}
	e := n.e
	e.Mode, e.UID, e.GID, e.ModTime = unix.S_IFDIR|a.Mode&0o7777, a.UID, a.GID, a.ModTime
	e.Xattrs = maps.Clone(n.e.Xattrs)
	if e.Xattrs == nil {
		e.Xattrs = a.Xattrs
	} else {
		maps.Copy(e.Xattrs, a.Xattrs)
	}
	if err := d.apply(p, &e); err != nil {
		return err
	}
	n.e = e
	return nil
}

// WriteFile makes the regular file p of what r gives. p must not exist.
func (d *Draft) WriteFile(p string, r io.Reader, a Attr) error {
	p = path.Clean("/" + p)
	parent, err := d.vacate("create", p)
	if err != nil {
		return err
	}
	h := sha256.New()
	n := &node{e: entry(unix.S_IFREG, a)}
	n.e.Size, err = d.create(p, &n.e, io.TeeReader(r, h))
	if err != nil {
		return err
	}
	n.e.Hash = [32]byte(h.Sum(nil))
	parent.kids[path.Base(p)] = n
	return nil
}

// WriteBytes is WriteFile of b.
func (d *Draft) WriteBytes(p string, b []byte, a Attr) error {
	return d.WriteFile(p, bytes.NewReader(b), a)
}

// create writes a new file to disk.
func (d *Draft) create(p string, e *digest.Entry, r io.Reader) (n int64, err error) {
	f, err := os.OpenFile(d.host(p), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, fmt.Errorf("create %s: %w", p, errno(err))
	}
	n, err = io.Copy(f, r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", p, errno(err))
	}
	if err := d.apply(p, e); err != nil {
		return 0, err
	}
	return n, d.utimes(p, e.ModTime)
}

// Symlink makes p a symbolic link to target. p must not exist.
func (d *Draft) Symlink(target, p string, a Attr) error {
	p = path.Clean("/" + p)
	a.Mode = 0o777
	e := entry(unix.S_IFLNK, a)
	e.Link = target
	return d.special("symlink", p, e, func(host string) error { return os.Symlink(target, host) })
}

// Mknod makes p a device, fifo or socket of the type that is in mode
// (unix.S_IFMT). p must not exist.
func (d *Draft) Mknod(p string, mode uint32, major, minor uint32, a Attr) error {
	p = path.Clean("/" + p)
	if mode&unix.S_IFMT == unix.S_IFCHR && major == 0 && minor == 0 {
		return &fs.PathError{Op: "mknod", Path: p, Err: errors.New("character device 0,0 cannot be kept in a layer")}
	}
	e := entry(mode&unix.S_IFMT, a)
	e.Major, e.Minor = major, minor
	return d.special("mknod", p, e, func(host string) error {
		return unix.Mknod(host, mode&unix.S_IFMT|0o600, int(unix.Mkdev(major, minor)))
	})
}

func (d *Draft) special(op, p string, e digest.Entry, mk func(host string) error) error {
	parent, err := d.vacate(op, p)
	if err != nil {
		return err
	}
	if err := mk(d.host(p)); err != nil {
		return &fs.PathError{Op: op, Path: p, Err: errno(err)}
	}
	if err := d.apply(p, &e); err != nil {
		return err
	}
	if err := d.utimes(p, e.ModTime); err != nil {
		return err
	}
	parent.kids[path.Base(p)] = &node{e: e}
	return nil
}

// Link makes p another name of the file old, which the layer must hold. p must
// not exist.
func (d *Draft) Link(old, p string) error {
	old, p = path.Clean("/"+old), path.Clean("/"+p)
	n, _ := d.find(old)
	if n == nil || n.e.Whiteout || n.isDir() {
		return &fs.PathError{Op: "link", Path: old, Err: syscall.ENOENT}
	}
	parent, err := d.vacate("link", p)
	if err != nil {
		return err
	}
	if err := unix.Linkat(unix.AT_FDCWD, d.host(old), unix.AT_FDCWD, d.host(p), 0); err != nil {
		return &fs.PathError{Op: "link", Path: p, Err: err}
	}
	if n.links == nil {
		n.links = &links{}
	}
	k := *n
	parent.kids[path.Base(p)] = &k
	return nil
}

// Remove removes p and all that is in it. p must be resolved and exist.
func (d *Draft) Remove(p string) error {
	p = path.Clean("/" + p)
	if p == "/" {
		return &fs.PathError{Op: "remove", Path: p, Err: syscall.EBUSY}
	}
	if _, err := d.Lstat(p); err != nil {
		return err
	}
	parent, err := d.parent("remove", p)
	if err != nil {
		return err
	}
	if err := d.clear(parent, p); err != nil {
		return err
	}
	if !parent.below {
		return nil
	}
	if _, ok, err := d.lower(p); !ok || err != nil {
		return err
	}
	if err := unix.Mknod(d.host(p), unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("write whiteout for %s: %w", p, err)
	}
	parent.kids[path.Base(p)] = &node{e: digest.Entry{Whiteout: true}}
	return nil
}

func entry(typ uint32, a Attr) digest.Entry {
	return digest.Entry{Mode: typ | a.Mode&0o7777, UID: a.UID, GID: a.GID, ModTime: a.ModTime, Xattrs: a.Xattrs}
}

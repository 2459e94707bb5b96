package draft

import (
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"golang.org/x/sys/unix"
)

// apply writes owner, extended attributes and mode to disk, in this order: a
// change of owner clears set-ID bits and file capabilities. It must only be
// given what the Draft itself created.
func (d *Draft) apply(p string, e *digest.Entry) error {
	host := d.host(p)
	link := e.Mode&unix.S_IFMT == unix.S_IFLNK
	if err := d.chown(host, e, link); err != nil {
		return fmt.Errorf("set owner %d:%d of %s: %w", e.UID, e.GID, p, err)
	}
	if !link {
		// No umask takes part, and a setgid directory must not pass its bit on.
		if err := unix.Fchmodat(unix.AT_FDCWD, host, e.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("set mode %o of %s: %w", e.Mode&0o7777, p, err)
		}
	}
	return d.setXattrs(p, e)
}

// chown sets the owner, or writes down what it should be where that is not
// possible: for an owner that this user namespace does not know. Links and
// special files take no such note; their owner is lost.
func (d *Draft) chown(host string, e *digest.Entry, link bool) error {
	err := unix.Lchown(host, int(e.UID), int(e.GID))
	switch {
	case !d.o.IgnoreOwner:
		return err
	case link:
		return nil
	case err == nil: // a directory that has changed hands may have a note left
		err = unix.Lremovexattr(host, digest.OwnerXattr)
	default:
		err = unix.Lsetxattr(host, digest.OwnerXattr, []byte(digest.FormatOwner(e.UID, e.GID)), 0)
	}
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// setXattrs writes the attributes in the order of their names. One that this
// process or this file system may not have is left out of e as well, so that e
// says what is on disk.
func (d *Draft) setXattrs(p string, e *digest.Entry) error {
	if len(e.Xattrs) == 0 {
		return nil
	}
	names := make([]string, 0, len(e.Xattrs))
	for name := range e.Xattrs {
		names = append(names, name)
	}
	sort.Strings(names)
	kept := make(map[string]string, len(names))
	for _, name := range names {
		err := unix.Lsetxattr(d.host(p), name, []byte(e.Xattrs[name]), 0)
		switch {
		case err == nil:
			kept[name] = e.Xattrs[name]
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		default:
			return fmt.Errorf("set attribute %s of %s: %w", name, p, err)
		}
	}
	e.Xattrs = kept
	if len(kept) == 0 {
		e.Xattrs = nil
	}
	return nil
}

func (d *Draft) utimes(p string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("set time %s of %s: %w", t, p, err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, d.host(p), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time of %s: %w", p, err)
	}
	return nil
}

// Finish sets the times of all directories and returns the layer's entries,
// sorted by path. Nothing may be written after it.
func (d *Draft) Finish() ([]digest.Entry, error) {
	var out []digest.Entry
	var groups []*links // of out, nil where an inode has one name
	var walk func(p string, n *node) error
	walk = func(p string, n *node) error {
		e := n.e
		e.Path = p[1:]
		out = append(out, e)
		groups = append(groups, n.links)
		if !n.isDir() {
			return nil
		}
		for name, k := range n.kids {
			if err := walk(join(p, name), k); err != nil {
				return err
			}
		}
		return d.utimes(p, n.e.ModTime)
	}
	if err := walk("/", d.root); err != nil {
		return nil, err
	}
	for i, g := range groups {
		if g != nil && (g.first == "" || out[i].Path < g.first) {
			g.first = out[i].Path
		}
	}
	for i, g := range groups {
		if g != nil && out[i].Path != g.first {
			out[i].Hardlink = g.first
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

package draft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"
)

const (
	typeMask = unix.S_IFMT
	dirMode  = unix.S_IFDIR
)

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

// CopyOptions say how files are copied. Nil means: as the source has it.
type CopyOptions struct {
	Owner *Owner
	// Mode maps the mode of a source, file type included, to the permission
	// bits of its copy. It is not asked for symbolic links.
	Mode func(mode uint32) uint32
	// ParentMode are the permission bits of directories that are made on the way
	// to the destination; 0 is 0755.
	ParentMode uint32
	Time       *time.Time
	// Contents copies what is in a directory, not the directory.
	Contents bool
	// FollowLinks copies what a symbolic link leads to that is itself named as
	// the source.
	FollowLinks bool
	// Include and Exclude are patterns of moby/patternmatcher, relative to the
	// source.
	Include, Exclude []string
	// Replace lets a source take the place of a destination of another type.
	Replace bool
	// Now is the time of directories that are made without Time.
	Now time.Time
}

func (o *CopyOptions) parentAttr() Attr {
	a := Attr{Mode: o.ParentMode, ModTime: o.Now}
	if a.Mode == 0 {
		a.Mode = 0o755
	}
	if o.Owner != nil {
		a.UID, a.GID = o.Owner.UID, o.Owner.GID
	}
	if o.Time != nil {
		a.ModTime = *o.Time
	}
	return a
}

// attr is the metadata that the copy of e gets.
func (o *CopyOptions) attr(e digest.Entry) Attr {
	a := attrOf(e)
	if o.Owner != nil {
		a.UID, a.GID = o.Owner.UID, o.Owner.GID
	}
	if o.Mode != nil && e.Mode&typeMask != unix.S_IFLNK {
		a.Mode = o.Mode(e.Mode) & 0o7777
	}
	if o.Time != nil {
		a.ModTime = *o.Time
	}
	return a
}

// copier is one call of Copy.
type copier struct {
	*Draft
	src              View
	o                CopyOptions
	include, exclude *patternmatcher.PatternMatcher
	// pending are the directories on the way to the present one; those that no
	// pattern has asked for yet are made when something in them is copied.
	pending []pendingDir
	// copied maps the place of an inode to its first copy, so that hard links
	// stay hard links.
	copied map[string]string
	soon   []placement
}

type pendingDir struct {
	e      digest.Entry
	target string
	made   bool
}

// Copy copies from in src to the path to, as BuildKit's FileActionCopy does:
// into to if that is an existing directory or ends in a slash, else under the
// name to. Directories are merged with existing ones, whose metadata they take
// over but for the topmost.
func (d *Draft) Copy(ctx context.Context, src View, from, to string, o CopyOptions) error {
	c := &copier{Draft: d, src: src, o: o, copied: map[string]string{}}
	if err := c.patterns(); err != nil {
		return err
	}
	// "/dir/" and "/dir/." ask for the directory itself.
	ensure := to
	if base := to[strings.LastIndexByte(to, '/')+1:]; base != "" && base != "." {
		ensure = path.Dir(path.Clean("/" + to))
	}
	if err := d.MkdirAll(ensure, o.parentAttr()); err != nil {
		return err
	}
	dest, err := d.Resolve(to, true)
	if err != nil {
		return err
	}
	resolved, err := src.Resolve(path.Clean("/"+from), o.FollowLinks)
	if err != nil {
		return err
	}
	e, err := src.Lstat(resolved)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%q: not found: %w", path.Clean("/"+from), errno(err))
		}
		return &fs.PathError{Op: "lstat", Path: path.Clean("/" + from), Err: errno(err)}
	}
	if dest, err = c.target(e, path.Base(path.Clean("/"+from)), dest); err != nil {
		return err
	}
	if err := c.copy(ctx, resolved, "", dest, e, false, matched{}); err != nil {
		return err
	}
	return c.flush(ctx)
}

func (c *copier) patterns() (err error) {
	if len(c.o.Include) > 0 {
		if c.include, err = patternmatcher.New(c.o.Include); err != nil {
			return fmt.Errorf("include patterns %q: %w", c.o.Include, err)
		}
	}
	if len(c.o.Exclude) > 0 {
		if c.exclude, err = patternmatcher.New(c.o.Exclude); err != nil {
			return fmt.Errorf("exclude patterns %q: %w", c.o.Exclude, err)
		}
	}
	return nil
}

// target chooses the path of the copy of e and makes its directory.
func (c *copier) target(e digest.Entry, name, dest string) (string, error) {
	isDir := e.Mode&typeMask == dirMode
	have, err := c.Lstat(dest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	exists := err == nil
	if isDir && !c.o.Contents && exists || !isDir && exists && have.Mode&typeMask == dirMode {
		dest = path.Join(dest, name)
	}
	dir := path.Dir(dest)
	if isDir && c.o.Contents && !exists {
		dir = dest
	}
	return dest, c.MkdirAll(dir, c.o.parentAttr())
}

// matched is what the patterns said about a directory, which saves matching the
// elements of its path again for all that is in it.
type matched struct{ include, exclude patternmatcher.MatchInfo }

// chosen reports whether the patterns want rel, and whether they exclude it.
func (c *copier) chosen(rel string, above matched) (wanted, excluded bool, m matched, err error) {
	if rel == "" {
		return true, false, m, nil
	}
	wanted = true
	if c.include != nil {
		if wanted, m.include, err = c.include.MatchesUsingParentResults(rel, above.include); err != nil {
			return false, false, m, fmt.Errorf("match include patterns: %w", err)
		}
	}
	if c.exclude != nil {
		if excluded, m.exclude, err = c.exclude.MatchesUsingParentResults(rel, above.exclude); err != nil {
			return false, false, m, fmt.Errorf("match exclude patterns: %w", err)
		}
	}
	return wanted && !excluded, excluded, m, nil
}

// copy copies the resolved path from, which is rel within the source, to target.
// overwrite lets an existing directory take over the metadata of its source.
func (c *copier) copy(ctx context.Context, from, rel, target string, e digest.Entry, overwrite bool, above matched) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	wanted, excluded, m, err := c.chosen(rel, above)
	if err != nil {
		return err
	}
	isDir := e.Mode&typeMask == dirMode
	if !wanted && !isDir {
		return nil
	}
	if wanted {
		if err := c.replace(target, isDir); err != nil {
			return err
		}
		if err := c.makePending(); err != nil {
			return err
		}
	}
	if !isDir {
		return c.copyFile(ctx, from, target, e)
	}
	p := pendingDir{e: e, target: target, made: wanted}
	if wanted {
		if err := c.copyDir(target, e, overwrite); err != nil {
			return err
		}
	}
	if excluded && !c.exclude.Exclusions() {
		return nil
	}
	c.pending = append(c.pending, p)
	defer func() { c.pending = c.pending[:len(c.pending)-1] }()
	entries, err := c.src.ReadDir(from)
	if err != nil {
		return err
	}
	for _, k := range entries {
		name := path.Base(k.Path)
		if err := c.copy(ctx, join(from, name), path.Join(rel, name), join(target, name), k, true, m); err != nil {
			return err
		}
	}
	return nil
}

// replace removes a target of another type if that was asked for.
func (c *copier) replace(target string, isDir bool) error {
	if !c.o.Replace {
		return nil
	}
	have, err := c.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || isDir && have.Mode&typeMask == dirMode {
		return err
	}
	return c.Remove(target)
}

func (c *copier) makePending() error {
	for i := range c.pending {
		p := &c.pending[i]
		if p.made {
			continue
		}
		made, err := c.makeDir(p.target, p.e)
		if err != nil {
			return err
		}
		if !made { // as BuildKit has it, of what exists only the mode is taken over
			have, err := c.Lstat(p.target)
			if err != nil {
				return err
			}
			a := attrOf(have)
			a.Mode = p.e.Mode & 0o7777
			if err := c.SetAttr(p.target, a); err != nil {
				return err
			}
		}
		p.made = true
	}
	return nil
}

// makeDir makes target unless it is a directory already.
func (c *copier) makeDir(target string, e digest.Entry) (made bool, err error) {
	have, err := c.Lstat(target)
	if err == nil {
		if have.Mode&typeMask != dirMode {
			return false, fmt.Errorf("cannot copy to non-directory: %s", target)
		}
		return false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, c.Mkdir(target, c.o.attr(e))
}

func (c *copier) copyDir(target string, e digest.Entry, overwrite bool) error {
	made, err := c.makeDir(target, e)
	if made || err != nil {
		return err
	}
	a := c.o.attr(e)
	if !overwrite { // the destination's own top keeps all but its time
		have, err := c.Lstat(target)
		if err != nil {
			return err
		}
		t := a.ModTime
		a = attrOf(have)
		a.ModTime = t
	}
	return c.SetAttr(target, a)
}

// copyFile copies what is no directory.
func (c *copier) copyFile(ctx context.Context, from, target string, e digest.Entry) error {
	if have, err := c.Lstat(target); err == nil {
		if have.Mode&typeMask == dirMode {
			return fmt.Errorf("cannot replace to directory %s with file", target)
		}
		if err := c.overwrite(target); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	a := c.o.attr(e)
	switch e.Mode & typeMask {
	case unix.S_IFREG:
		return c.copyRegular(ctx, from, target, e, a)
	case unix.S_IFLNK:
		return c.Symlink(e.Link, target, a)
	case unix.S_IFSOCK: // a socket that nobody listens on: an empty file marks its place
		return c.WriteFile(target, strings.NewReader(""), a)
	case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		return c.Mknod(target, e.Mode, e.Major, e.Minor, a)
	default:
		return fmt.Errorf("copy %s: file type %o is unknown", from, e.Mode&typeMask)
	}
}

func (c *copier) copyRegular(ctx context.Context, from, target string, e digest.Entry, a Attr) error {
	id, err := c.src.HostPath(from)
	if err != nil {
		return err
	}
	if e.Hardlink != "" { // of the same layer
		id = strings.TrimSuffix(id, from) + "/" + e.Hardlink
	}
	if first, ok := c.copied[id]; ok {
		if n, _ := c.find(first); n != nil && n.e.Mode&typeMask == unix.S_IFREG && n.e.Hash == e.Hash {
			if err := c.flush(ctx); err != nil {
				return err
			}
			return c.Link(first, target)
		}
	}
	c.copied[id] = target
	return c.placeSoon(target, from, e, a)
}

// overwrite makes the existing file p disappear so that another can take its
// name. What lies below needs no whiteout: the new file hides it.
func (d *Draft) overwrite(p string) error {
	parent, err := d.parent("replace", p)
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
	parent.kids[path.Base(p)] = &node{e: digest.Entry{Whiteout: true}}
	return nil
}

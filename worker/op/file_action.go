package op

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/worker/draft"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

func (f *fileRun) act(ctx context.Context, l *openLayer, a *pb.FileAction) error {
	owner, err := f.owner(ctx, l, a)
	if err != nil {
		return err
	}
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		return f.copy(ctx, l, a.SecondaryInput, x.Copy, owner)
	case *pb.FileAction_Mkfile:
		return f.mkfile(l, x.Mkfile, owner)
	case *pb.FileAction_Mkdir:
		return f.mkdir(l, x.Mkdir, owner)
	case *pb.FileAction_Symlink:
		return f.symlink(l, x.Symlink, owner)
	case *pb.FileAction_Rm:
		return f.rm(l, x.Rm)
	default:
		return fmt.Errorf("file action of type %T is unknown", a.Action)
	}
}

// time is that of what an action creates: -1 is now.
func (f *fileRun) time(ts int64) time.Time {
	if ts == -1 {
		return f.now
	}
	return time.Unix(0, ts)
}

func (f *fileRun) attr(mode uint32, ts int64, owner *draft.Owner) draft.Attr {
	a := draft.Attr{Mode: mode, ModTime: f.time(ts)}
	if owner != nil {
		a.UID, a.GID = owner.UID, owner.GID
	}
	return a
}

// mkfile replaces a file, but not a directory.
func (f *fileRun) mkfile(l *openLayer, m *pb.FileActionMkFile, owner *draft.Owner) error {
	p, err := l.Resolve(m.Path, true)
	if err != nil {
		return err
	}
	e, err := l.Lstat(p)
	switch {
	case err == nil && e.Mode&unix.S_IFMT == unix.S_IFDIR:
		return &fs.PathError{Op: "mkfile", Path: p, Err: syscall.EISDIR}
	case err == nil:
		if err := l.Remove(p); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return l.WriteFile(p, bytes.NewReader(m.Data), f.attr(uint32(m.Mode)&0o777, m.Timestamp, owner))
}

func (f *fileRun) mkdir(l *openLayer, m *pb.FileActionMkDir, owner *draft.Owner) error {
	a := f.attr(uint32(m.Mode)&0o777, m.Timestamp, owner)
	if m.MakeParents {
		return l.MkdirAll(m.Path, a)
	}
	p, err := l.Resolve(m.Path, true)
	if err != nil {
		return err
	}
	if _, err := l.Lstat(p); err == nil { // BuildKit leaves alone what exists, of whatever type
		return nil
	}
	return l.Mkdir(p, a)
}

func (f *fileRun) symlink(l *openLayer, s *pb.FileActionSymlink, owner *draft.Owner) error {
	p, err := l.Resolve(s.Newpath, true)
	if err != nil {
		return err
	}
	return l.Symlink(s.Oldpath, p, f.attr(0, s.Timestamp, owner))
}

func (f *fileRun) rm(l *openLayer, r *pb.FileActionRm) error {
	paths := []string{clean(r.Path)}
	if r.AllowWildcard {
		var err error
		if paths, err = draft.Glob(l, r.Path, false); err != nil {
			return err
		}
	}
	for _, p := range paths {
		// A link in the last element is what is to be removed.
		dir, err := l.Resolve(path.Dir(p), true)
		if err != nil {
			return err
		}
		p := path.Join(dir, path.Base(p))
		err = l.Remove(p)
		if r.AllowNotFound && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fileRun) copy(ctx context.Context, l *openLayer, from int64, c *pb.FileActionCopy, owner *draft.Owner) error {
	src, err := f.w.Trees.Files(ctx, f.tree(from))
	if err != nil {
		return err
	}
	dest := keepSlash(c.Dest)
	if !c.CreateDestPath {
		if err := parentExists(l, dest); err != nil {
			return err
		}
	}
	if err := required(src, c); err != nil {
		return err
	}
	paths := []string{clean(c.Src)}
	if c.AllowWildcard {
		if paths, err = draft.Glob(src, c.Src, c.FollowSymlink); err != nil {
			return err
		}
		if len(paths) == 0 {
			if c.AllowEmptyWildcard {
				return nil
			}
			return fmt.Errorf("%s: %w", clean(c.Src), errNoMatch)
		}
	}
	o, err := f.copyOptions(c, owner)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if c.AttemptUnpackDockerCompatibility {
			done, err := f.unpack(ctx, l, src, p, dest, o)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := l.Copy(ctx, src, p, dest, *o); err != nil {
			return err
		}
	}
	return nil
}

var errNoMatch = fmt.Errorf("not found: no file matches: %w", fs.ErrNotExist)

func (f *fileRun) copyOptions(c *pb.FileActionCopy, owner *draft.Owner) (*draft.CopyOptions, error) {
	o := &draft.CopyOptions{
		Owner: owner, Now: f.now, Contents: c.DirCopyContents, FollowLinks: c.FollowSymlink,
		Include: c.IncludePatterns, Exclude: c.ExcludePatterns, Replace: c.AlwaysReplaceExistingDestPaths,
	}
	if c.Timestamp != -1 {
		t := f.time(c.Timestamp)
		o.Time = &t
	}
	switch {
	case c.ModeStr != "":
		mode, err := parseMode(c.ModeStr)
		if err != nil {
			return nil, err
		}
		o.Mode = mode
	case c.Mode != -1:
		o.Mode = fixedMode(c.Mode)
		o.ParentMode = uint32(c.Mode) & 0o777
	}
	return o, nil
}

// keepSlash cleans p but for a slash or "/." at its end, which asks for a
// directory.
func keepSlash(p string) string {
	out := clean(p)
	if out != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")) {
		out += "/"
	}
	return out
}

func parentExists(l *openLayer, dest string) error {
	p, err := l.Resolve(dest, true)
	if err == nil {
		_, err = l.Lstat(path.Dir(p))
	}
	if err != nil {
		return fmt.Errorf("stat directory of %s: %w", dest, err)
	}
	return nil
}

// required checks the paths that must be there whatever the patterns say.
func required(src *digest.View, c *pb.FileActionCopy) error {
	if len(c.IncludePatterns) == 0 {
		return nil
	}
	for _, p := range c.RequiredPaths {
		if _, err := src.Lstat(clean(p)); err != nil {
			return fmt.Errorf("%q: not found: %w", clean(p), err)
		}
	}
	return nil
}

// unpack unpacks p into the directory dest if it is an archive.
func (f *fileRun) unpack(ctx context.Context, l *openLayer, src *digest.View, p, dest string, o *draft.CopyOptions) (bool, error) {
	e, err := src.Stat(p)
	if err != nil || e.Mode&unix.S_IFMT != unix.S_IFREG || e.Size == 0 {
		return false, nil // copying says what is wrong
	}
	file, err := src.Open(p)
	if err != nil {
		return false, err
	}
	defer file.Close()
	r, ok, err := draft.OpenArchive(file)
	if err != nil || !ok {
		return false, err
	}
	defer r.Close()
	a := draft.Attr{Mode: 0o755, ModTime: f.now}
	if o.Owner != nil {
		a.UID, a.GID = o.Owner.UID, o.Owner.GID
	}
	if o.Time != nil {
		a.ModTime = *o.Time
	}
	if err := l.MkdirAll(dest, a); err != nil {
		return false, err
	}
	if err := l.Extract(ctx, r, dest, draft.ExtractOptions{Owner: o.Owner, Now: a.ModTime}); err != nil {
		return false, fmt.Errorf("unpack %s: %w", p, err)
	}
	return true, nil
}

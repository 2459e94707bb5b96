package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// extractor places an archive's entries in a file system that is there already.
type extractor struct {
	*files
	o        ArchiveOptions
	root     int
	dirTimes []dirTime

	// The directory that is open, by the name that it was asked for. It stays the
	// right one until something is removed.
	dir   string
	dirFD int // -1 if none is
}

// dirTime is what a directory's time is set to when nothing is created in it
// any more.
type dirTime struct {
	path string
	time time.Time
}

func newExtractor(ctx context.Context, root int, o ArchiveOptions) *extractor {
	f := newFiles(ctx)
	f.keepOwner, f.laxXattrs = o.IgnoreOwner, true
	// Directories that are there may pass their group on to new files.
	f.uid, f.gid = math.MaxUint32, math.MaxUint32
	return &extractor{files: f, o: o, root: root, dirFD: -1}
}

func (x *extractor) close() {
	x.forget()
	unix.Close(x.root)
}

func (x *extractor) forget() {
	if x.dirFD >= 0 {
		unix.Close(x.dirFD)
		x.dirFD = -1
	}
}

func (x *extractor) entries(a *archive) error {
	for last := ""; ; {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		hdr, err := a.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read the entry after %s: %w", quote(last), err)
		}
		if err := x.entry(hdr, a.tr); err != nil {
			return fmt.Errorf("entry %s: %w", quote(hdr.Name), err)
		}
		last = hdr.Name
	}
	return x.setTimes()
}

func (x *extractor) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := path.Clean("/" + hdr.Name)[1:]
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return errors.New("has no name")
		}
		return nil // the destination stays what it is
	}
	e, err := headerEntry(hdr)
	if err != nil {
		return err
	}
	if x.o.Owner != nil {
		e.UID, e.GID = x.o.Owner.UID, x.o.Owner.GID
	}
	if e.Mode&unix.S_IFMT == unix.S_IFCHR && e.Major == 0 && e.Minor == 0 {
		return errors.New("a character device 0,0 would be a whiteout to overlay")
	}
	dir, base := split(name)
	fd, err := x.open(dir)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.directory(fd, name, base, e)
	case tar.TypeLink:
		return x.hardlink(fd, dir, base, hdr.Linkname, e)
	}
	if fd, err = x.clear(fd, dir, base); err != nil {
		return err
	}
	if e.IsRegular() {
		e.Size = hdr.Size
		return x.regular(fd, base, &e, r, isSparse(hdr))
	}
	err = x.special(fd, base, &e)
	if e.IsDevice() && errors.Is(err, unix.EPERM) && x.o.IgnoreOwner {
		return nil // a user namespace: no device would work there
	}
	return err
}

// open opens a directory, made with its parents if it is missing.
func (x *extractor) open(dir string) (int, error) {
	if x.dirFD >= 0 && x.dir == dir {
		return x.dirFD, nil
	}
	x.forget()
	fd, err := openInRoot(x.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == unix.ENOENT {
		fd, err = x.mkdirAll(dir)
	}
	if err != nil {
		return -1, fmt.Errorf("open directory %s: %w", quote(dir), err)
	}
	x.dir, x.dirFD = dir, fd
	return fd, nil
}

// mkdirAll makes what is missing of dir, and opens it.
func (x *extractor) mkdirAll(dir string) (int, error) {
	fd, err := openInRoot(x.root, "", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	done := ""
	for el := range strings.SplitSeq(dir, "/") {
		done = join(done, el)
		sub, err := openInRoot(x.root, done, unix.O_PATH|unix.O_DIRECTORY)
		if err == unix.ENOENT {
			// A link that leads nowhere makes this fail with EEXIST.
			if err = unix.Mkdirat(fd, el, 0o700); err == nil {
				e := impliedDir()
				e.ModTime = time.Now()
				if err = x.describeDir(fd, el, &e); err == nil {
					sub, err = openInRoot(x.root, done, unix.O_PATH|unix.O_DIRECTORY)
				}
			}
		}
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = sub
	}
	return fd, nil
}

func (x *extractor) describeDir(dir int, name string, e *digest.Entry) error {
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return x.describe(fd, e)
}

// directory makes a directory, or describes the one that is there anew.
func (x *extractor) directory(fd int, name, base string, e digest.Entry) error {
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		dir, _ := split(name)
		if fd, err = x.clear(fd, dir, base); err != nil {
			return err
		}
		if err := unix.Mkdirat(fd, base, 0o700); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
	}
	x.dirTimes = append(x.dirTimes, dirTime{name, e.ModTime})
	return x.describeDir(fd, base, &e)
}

// clear removes what is at a name, and returns the directory's descriptor, which
// may be another one then.
func (x *extractor) clear(fd int, dir, base string) (int, error) {
	err := unix.Unlinkat(fd, base, 0)
	switch err {
	case unix.ENOENT:
		return fd, nil
	case nil:
	case unix.EISDIR, unix.EPERM:
		if err := removeAll(fd, base); err != nil {
			return -1, fmt.Errorf("replace: %w", err)
		}
	default:
		return -1, fmt.Errorf("replace: %w", err)
	}
	// The name may have led to the directory that is open by another path.
	x.forget()
	return x.open(dir)
}

// removeAll removes a directory and all in it, but nothing that is mounted there.
func removeAll(dir int, name string) error {
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV
	fd, err := openat2(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, resolve)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, sub := range names {
		err := unix.Unlinkat(fd, sub, 0)
		if err == unix.EISDIR || err == unix.EPERM {
			err = removeAll(fd, sub)
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// hardlink links a name to a file that is there, from the archive or not.
func (x *extractor) hardlink(fd int, dir, base, target string, e digest.Entry) error {
	fail := func(err error) error { return fmt.Errorf("hard link to %s: %w", quote(target), err) }
	tdir, tbase := split(path.Clean("/" + target)[1:])
	if tbase == "" {
		return fail(unix.EPERM)
	}
	tfd, err := openInRoot(x.root, tdir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(tfd)
	var st, old unix.Stat_t
	if err := unix.Fstatat(tfd, tbase, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fail(fmt.Errorf("it is a directory: %w", unix.EPERM))
	}
	same := unix.Fstatat(fd, base, &old, unix.AT_SYMLINK_NOFOLLOW) == nil && old.Dev == st.Dev && old.Ino == st.Ino
	if !same {
		if fd, err = x.clear(fd, dir, base); err != nil {
			return err
		}
		if err := unix.Linkat(tfd, tbase, fd, base, 0); err != nil {
			return fail(err)
		}
	}
	e.Mode |= st.Mode & unix.S_IFMT
	return x.describeAt(fd, base, &e)
}

// setTimes sets the times of directories, of a directory that is named twice the
// last one.
func (x *extractor) setTimes() error {
	x.forget()
	for _, d := range x.dirTimes {
		fd, err := openInRoot(x.root, d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
			continue // a later entry took its place
		}
		if err != nil {
			return fmt.Errorf("directory %s: %w", quote(d.path), err)
		}
		err = x.times(fd, "", unix.AT_EMPTY_PATH, d.time)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("directory %s: %w", quote(d.path), err)
		}
	}
	return nil
}

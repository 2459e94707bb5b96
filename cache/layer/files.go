package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// files creates files by their names in open directories.
type files struct {
	ctx  context.Context
	buf  []byte
	hash hash.Hash
	// uid and gid are what new files belong to without being given away.
	uid, gid uint32
	// keepOwner puts an owner that cannot be set into digest.OwnerXattr.
	keepOwner bool
	// laxXattrs leaves out attributes that may not be set, too, not only those
	// that the file system or the file's type cannot have.
	laxXattrs bool
}

const copyBuffer = 1 << 20

var emptyHash = sha256.Sum256(nil)

func newFiles(ctx context.Context) *files {
	return &files{
		ctx: ctx, buf: make([]byte, copyBuffer), hash: sha256.New(),
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()),
	}
}

// regular creates a file of e.Size bytes and sets e.Hash, and e.Xattrs to what
// could be set.
func (f *files) regular(dir int, name string, e *digest.Entry, r io.Reader, sparse bool) (err error) {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer func() {
		if cerr := unix.Close(fd); cerr != nil && err == nil {
			err = fmt.Errorf("close file: %w", cerr)
		}
	}()
	if e.Hash, err = f.fill(fd, r, e.Size, sparse); err != nil {
		return err
	}
	return f.describe(fd, e)
}

// fill writes size bytes from r to a new file and returns their hash.
func (f *files) fill(fd int, r io.Reader, size int64, sparse bool) (sum [32]byte, err error) {
	if size == 0 {
		return emptyHash, nil
	}
	f.hash.Reset()
	for done := int64(0); done < size; {
		if err := f.ctx.Err(); err != nil {
			return sum, err
		}
		p := f.buf[:min(int64(len(f.buf)), size-done)]
		if _, err := io.ReadFull(r, p); err != nil {
			return sum, fmt.Errorf("read %d bytes, %d are there: %w", size, done, noEOF(err))
		}
		f.hash.Write(p)
		if sparse {
			err = writeSparse(fd, p, done)
		} else {
			err = writeAll(fd, p)
		}
		if err != nil {
			return sum, fmt.Errorf("write file: %w", err)
		}
		done += int64(len(p))
	}
	if sparse {
		if err := unix.Ftruncate(fd, size); err != nil {
			return sum, fmt.Errorf("write file: %w", err)
		}
	}
	f.hash.Sum(sum[:0])
	return sum, nil
}

func writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && err != unix.EINTR {
			return err
		}
		p = p[max(0, n):]
	}
	return nil
}

// writeSparse writes p at an offset, but for blocks of zeros, which a new file
// has anyway.
func writeSparse(fd int, p []byte, off int64) error {
	const block = 4096
	for len(p) > 0 {
		b := p[:min(block, len(p))]
		for rest := b; !isZero(b) && len(rest) > 0; {
			n, err := unix.Pwrite(fd, rest, off+int64(len(b)-len(rest)))
			if err != nil && err != unix.EINTR {
				return err
			}
			rest = rest[max(0, n):]
		}
		p, off = p[len(b):], off+int64(len(b))
	}
	return nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// describe gives an open file or directory owner, attributes, mode and time, in
// this order: chown takes setuid bits and security.capability away.
func (f *files) describe(fd int, e *digest.Entry) error {
	if e.UID != f.uid || e.GID != f.gid || e.IsDir() {
		if err := f.owner(func() error { return unix.Fchown(fd, int(e.UID), int(e.GID)) },
			func(v string) error { return unix.Fsetxattr(fd, digest.OwnerXattr, []byte(v), 0) }, e); err != nil {
			return err
		}
	}
	if err := f.xattrs(e, func(k, v string) error { return unix.Fsetxattr(fd, k, []byte(v), 0) }); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, e.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return f.times(fd, "", unix.AT_EMPTY_PATH, e.ModTime)
}

// special creates a symbolic link, a device, a fifo or, for an upper directory,
// a whiteout.
func (f *files) special(dir int, name string, e *digest.Entry) error {
	if e.Whiteout {
		if err := unix.Mknodat(dir, name, unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("create whiteout: %w", err)
		}
		return nil
	}
	var err error
	if e.IsSymlink() {
		err = unix.Symlinkat(e.Link, dir, name)
	} else {
		err = unix.Mknodat(dir, name, e.Mode&unix.S_IFMT|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", typeName(*e), err)
	}
	return f.describeAt(dir, name, e)
}

func typeName(e digest.Entry) string {
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "regular file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	default:
		return "device"
	}
}

// describeAt is describe for a name, which is no directory.
func (f *files) describeAt(dir int, name string, e *digest.Entry) error {
	const nofollow = unix.AT_SYMLINK_NOFOLLOW
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	set := func(k, v string) error { return unix.Lsetxattr(path, k, []byte(v), 0) }
	if err := f.owner(func() error { return unix.Fchownat(dir, name, int(e.UID), int(e.GID), nofollow) },
		func(v string) error { return set(digest.OwnerXattr, v) }, e); err != nil {
		return err
	}
	if err := f.xattrs(e, set); err != nil {
		return err
	}
	if !e.IsSymlink() {
		if err := unix.Fchmodat(dir, name, e.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return f.times(dir, name, nofollow, e.ModTime)
}

func (f *files) owner(chown func() error, keep func(string) error, e *digest.Entry) error {
	err := chown()
	if err == nil {
		return nil
	}
	if f.keepOwner && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL)) {
		err = keep(digest.FormatOwner(e.UID, e.GID))
		if !e.IsRegular() && !e.IsDir() {
			return nil // other types have no user.* attributes: the owner is lost on disk
		}
	}
	if err != nil {
		return fmt.Errorf("set owner %d:%d: %w", e.UID, e.GID, err)
	}
	return nil
}

// xattrs sets e's attributes and drops those that the file cannot have.
func (f *files) xattrs(e *digest.Entry, set func(k, v string) error) error {
	if len(e.Xattrs) == 0 {
		return nil
	}
	e.Xattrs = maps.Clone(e.Xattrs)
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		err := set(k, e.Xattrs[k])
		// user.* exists for regular files and directories only (xattr(7)).
		typed := errors.Is(err, unix.EPERM) && !e.IsRegular() && !e.IsDir()
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOTSUP), typed, f.laxXattrs && errors.Is(err, unix.EPERM):
			delete(e.Xattrs, k)
		default:
			return fmt.Errorf("set extended attribute %q: %w", k, err)
		}
	}
	return nil
}

func (f *files) times(fd int, name string, flags int, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.UtimesNanoAt(fd, name, []unix.Timespec{ts, ts}, flags); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

package local

import (
	"errors"
	"fmt"

	"github.com/buildd/buildd/cache/digest"
	"golang.org/x/sys/unix"
)

// setAttrs gives a file the owner, mode, attributes and time of e. The file is
// fd, or if fd is negative the last element of path, not followed.
func setAttrs(c Config, fd int, path string, e digest.Entry) error {
	if err := setOwner(c, fd, path, e); err != nil {
		return err
	}
	if !e.IsSymlink() { // after the owner, which clears setuid and capabilities
		if err := chmod(fd, path, e.Mode&0o7777); err != nil {
			return fmt.Errorf("set mode %o: %w", e.Mode&0o7777, err)
		}
	}
	for k, v := range e.Xattrs {
		if err := setXattr(fd, path, k, v); err != nil && !isUnsupported(err) {
			return fmt.Errorf("set attribute %s: %w", k, err)
		}
	}
	return setTime(fd, path, e)
}

func setOwner(c Config, fd int, path string, e digest.Entry) error {
	if int(e.UID) == unix.Geteuid() && int(e.GID) == unix.Getegid() {
		return nil // as it was made
	}
	var err error
	if fd >= 0 {
		err = unix.Fchown(fd, int(e.UID), int(e.GID))
	} else {
		err = unix.Lchown(path, int(e.UID), int(e.GID))
	}
	if err == nil {
		return nil
	}
	if !c.IgnoreOwner || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("set owner %d:%d: %w", e.UID, e.GID, err)
	}
	if err := setXattr(fd, path, digest.OwnerXattr, digest.FormatOwner(e.UID, e.GID)); err != nil && !isUnsupported(err) {
		return fmt.Errorf("keep owner %d:%d: %w", e.UID, e.GID, err)
	}
	return nil
}

func chmod(fd int, path string, mode uint32) error {
	if fd >= 0 {
		return unix.Fchmod(fd, mode)
	}
	return unix.Chmod(path, mode)
}

func setXattr(fd int, path, name, value string) error {
	if fd >= 0 {
		return unix.Fsetxattr(fd, name, []byte(value), 0)
	}
	return unix.Lsetxattr(path, name, []byte(value), 0)
}

// isUnsupported tells whether the file system or the lack of privileges refuses
// an attribute, which builds have to live with.
func isUnsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
}

func setTime(fd int, path string, e digest.Entry) error {
	ts, err := unix.TimeToTimespec(e.ModTime)
	if err != nil {
		return fmt.Errorf("set time %s: %w", e.ModTime, err)
	}
	times := []unix.Timespec{ts, ts}
	if fd >= 0 {
		err = unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	} else {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

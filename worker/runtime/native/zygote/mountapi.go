package zygote

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// fd is a descriptor that its owner closes.
type fd int

const noFD = fd(-1)

func (f fd) close() {
	if f >= 0 {
		unix.Close(int(f))
	}
}

// cloneMount returns a detached copy of the mount at path, or of the part of it
// below path; with recursive, of what is mounted there as well.
func cloneMount(dir fd, path string, recursive bool) (fd, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	n, err := retry(func() (int, error) { return unix.OpenTree(int(dir), path, flags) })
	if err != nil {
		return noFD, &os.PathError{Op: "open mount", Path: path, Err: err}
	}
	return fd(n), nil
}

// setAttr changes a mount's attributes (MOUNT_ATTR_) and propagation (MS_).
func (f fd) setAttr(set, clr, propagation uint64, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if set&unix.MOUNT_ATTR__ATIME != 0 {
		clr |= unix.MOUNT_ATTR__ATIME
	}
	attr := unix.MountAttr{Attr_set: set, Attr_clr: clr, Propagation: propagation}
	return unix.MountSetattr(int(f), "", flags, &attr)
}

// attach moves a detached mount over target.
func (f fd) attach(target fd) error {
	return unix.MoveMount(int(f), "", int(target), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// newMount makes a detached mount of a new file system. The kernel's own words
// on a refused option are part of the error.
func newMount(fstype, source string, data []string, attrs uint64) (fd, error) {
	n, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return noFD, fmt.Errorf("open file system %s: %w", fstype, err)
	}
	ctx := fd(n)
	defer ctx.close()
	if source != "" {
		if err := unix.FsconfigSetString(n, "source", source); err != nil {
			return noFD, ctx.explain(fmt.Errorf("set source of %s: %w", fstype, err))
		}
	}
	for _, o := range data {
		name, value, ok := strings.Cut(o, "=")
		if ok {
			err = unix.FsconfigSetString(n, name, value)
		} else {
			err = unix.FsconfigSetFlag(n, name)
		}
		if err != nil {
			return noFD, ctx.explain(fmt.Errorf("set option %s of %s: %w", o, fstype, err))
		}
	}
	if err := unix.FsconfigCreate(n); err != nil {
		return noFD, ctx.explain(fmt.Errorf("create file system %s: %w", fstype, err))
	}
	m, err := unix.Fsmount(n, unix.FSMOUNT_CLOEXEC, int(attrs))
	if err != nil {
		return noFD, ctx.explain(fmt.Errorf("mount %s: %w", fstype, err))
	}
	return fd(m), nil
}

// explain adds what the kernel noted in a file system context to err.
func (f fd) explain(err error) error {
	buf := make([]byte, 1024)
	n, e := unix.Read(int(f), buf)
	if e != nil || n <= 2 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(buf[2:n])))
}

// retry calls f until it is not interrupted. openat2 says EAGAIN if something was
// renamed while it looked.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR && err != unix.EAGAIN {
			return n, err
		}
	}
}

package op

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// liveRoot is a directory that containers write to while it is read here: the
// kernel resolves every path within it, links too.
type liveRoot string

// open opens p without the effects that opening a device or a fifo has.
func (r liveRoot) open(p string) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, &fs.PathError{Op: "open", Path: p, Err: err} }
	root, err := unix.Open(string(r), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(root)
	rel := strings.TrimLeft(p, "/")
	if rel == "" {
		rel = "."
	}
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

// Open opens a regular file for reading.
func (r liveRoot) Open(p string) (*os.File, error) {
	at, err := r.open(p)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(at.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.EINVAL}
	}
	f, err := os.Open(procPath(at))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: errnoOf(err)}
	}
	return f, nil
}

// procPath opens what f, which may be open for its path alone, refers to again.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func errnoOf(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

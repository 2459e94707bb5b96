package draft

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Open opens the regular file that p leads to.
func (d *Draft) Open(p string) (*os.File, error) {
	p, err := d.Resolve(p, true)
	if err != nil {
		return nil, err
	}
	e, err := d.Lstat(p)
	if err != nil {
		return nil, err
	}
	if e.Mode&typeMask != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.EINVAL}
	}
	if n, _ := d.find(p); n == nil {
		return d.base.Open(p)
	}
	return os.OpenFile(d.host(p), os.O_RDONLY|unix.O_NOFOLLOW, 0)
}

package op

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// maxRead bounds one answer of ReadFile, as a gRPC message is bounded.
const maxRead = 16 << 20

// ReadFile returns length bytes of a regular file from offset on; length -1 is
// all of it. mount is the index of the mount that holds it, and name its path
// there. Processes may be running.
func (c *Container) ReadFile(mount int, name string, offset, length int64) ([]byte, error) {
	if offset < 0 || length < -1 {
		return nil, fmt.Errorf("read %s: range of %d bytes from %d", name, length, offset)
	}
	r, err := c.files(mount, name)
	if err != nil {
		return nil, err
	}
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	whole := length == -1
	if whole || length > maxRead+1 { // callers ask for one more to see whether there is more
		length = maxRead + 1
	}
	b, err := io.ReadAll(io.NewSectionReader(f, offset, min(length, math.MaxInt64-offset)))
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errnoOf(err)}
	}
	if whole && len(b) > maxRead {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", name, maxRead)
	}
	return b, nil
}

// ReadDir describes what is in a directory, sorted by name.
func (c *Container) ReadDir(mount int, name string) ([]*fstypes.Stat, error) {
	r, err := c.files(mount, name)
	if err != nil {
		return nil, err
	}
	at, err := r.open(name)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	dir, err := os.OpenFile(procPath(at), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errnoOf(err)}
	}
	defer dir.Close()
	entries, err := os.ReadDir(procPath(dir))
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errnoOf(err)}
	}
	var out []*fstypes.Stat
	for _, e := range entries {
		s, err := statAt(dir, e.Name(), unix.O_NOFOLLOW)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "stat", Path: path.Join(name, e.Name()), Err: errnoOf(err)}
		}
		out = append(out, s)
	}
	return out, nil
}

// StatFile describes a file, links followed. A link that leads out of the mount
// is described itself, for the caller may know what it leads to.
func (c *Container) StatFile(mount int, name string) (*fstypes.Stat, error) {
	r, err := c.files(mount, name)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenFile(string(r), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: errnoOf(err)}
	}
	defer root.Close()
	rel := strings.TrimPrefix(clean(name), "/")
	if rel == "" {
		rel = "."
	}
	s, err := statAt(root, rel, 0)
	if errors.Is(err, syscall.EXDEV) {
		s, err = statAt(root, rel, unix.O_NOFOLLOW)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: errnoOf(err)}
	}
	s.Path = path.Base(name)
	return s, nil
}

// files returns the directory of a mount, which it mounts if no process has been
// started yet.
func (c *Container) files(mount int, name string) (liveRoot, error) {
	if err := checkPath("path", name); err != nil {
		return "", err
	}
	if !path.IsAbs(name) {
		return "", fmt.Errorf("path %q: want an absolute path", name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released {
		return "", errReleased
	}
	if mount < 0 || mount >= len(c.s.req.mounts) {
		return "", fmt.Errorf("mount %d of %d", mount, len(c.s.req.mounts))
	}
	if err := c.s.mountTrees(c.ctx); err != nil {
		return "", err
	}
	m := c.s.req.mounts[mount]
	if m.Dest == "/" {
		return liveRoot(c.s.root().dir), nil
	}
	for _, p := range c.s.mounts {
		if p.m == m && p.isDir && p.Type == "bind" {
			return liveRoot(p.Source), nil
		}
	}
	return "", fmt.Errorf("mount %s has no files that can be read", m.Dest)
}

// statAt describes the file name beneath dir.
func statAt(dir *os.File, name string, flags uint64) (*fstypes.Stat, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &fstypes.Stat{
		Path: filepath.Base(name), Mode: uint32(fi.Mode() &^ fs.ModeSocket), ModTime: fi.ModTime().UnixNano(),
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.Uid, s.Gid = st.Uid, st.Gid
	}
	if !fi.IsDir() {
		s.Size = fi.Size()
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", b)
		if err != nil {
			return nil, err
		}
		s.Linkname = string(b[:n])
	}
	return s, nil
}

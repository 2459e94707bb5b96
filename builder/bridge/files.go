package bridge

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/buildd/buildd/cache/digest"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// maxRead bounds what a frontend may read of a file in one call.
const maxRead = 256 << 20

func readFile(v *digest.View, req gwclient.ReadRequest) ([]byte, error) {
	f, err := v.Open(req.Filename)
	if err != nil {
		return nil, pathError("open", req.Filename, err)
	}
	defer f.Close()
	var in io.Reader = f
	if rg := req.Range; rg != nil {
		if rg.Offset < 0 || rg.Length < 0 {
			return nil, fmt.Errorf("read %s: offset %d and length %d must not be negative", req.Filename, rg.Offset, rg.Length)
		}
		if _, err := f.Seek(int64(rg.Offset), io.SeekStart); err != nil {
			return nil, fmt.Errorf("read %s: %w", req.Filename, err)
		}
		in = io.LimitReader(f, int64(rg.Length))
	}
	b, err := io.ReadAll(io.LimitReader(in, maxRead+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", req.Filename, err)
	}
	if len(b) > maxRead {
		return nil, fmt.Errorf("read %s: the file is larger than %d bytes: ask for a range of it", req.Filename, maxRead)
	}
	return b, nil
}

func statFile(v *digest.View, req gwclient.StatRequest) (*fstypes.Stat, error) {
	e, err := v.Lstat(req.Path)
	if err != nil {
		return nil, pathError("stat", req.Path, err)
	}
	return stat(e), nil
}

func readDir(v *digest.View, req gwclient.ReadDirRequest) ([]*fstypes.Stat, error) {
	es, err := v.ReadDir(req.Path)
	if err != nil {
		return nil, pathError("read directory", req.Path, err)
	}
	var out []*fstypes.Stat
	for _, e := range es {
		if req.IncludePattern != "" {
			ok, err := path.Match(req.IncludePattern, path.Base(e.Path))
			if err != nil {
				return nil, fmt.Errorf("include pattern %q: %w", req.IncludePattern, err)
			}
			if !ok {
				continue
			}
		}
		out = append(out, stat(e))
	}
	return out, nil
}

// pathError gives an error of a view the form that frontends test for.
func pathError(op, p string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: op, Path: p, Err: unix.ENOENT}
	}
	return fmt.Errorf("%s %s: %w", op, p, err)
}

// stat gives an entry the form that it has on the wire: the path is the base
// name, the mode Go's.
func stat(e digest.Entry) *fstypes.Stat {
	s := &fstypes.Stat{
		Path: path.Base(e.Path), Mode: uint32(fileMode(e.Mode)), Uid: e.UID, Gid: e.GID, Size: e.Size,
		ModTime: e.ModTime.UnixNano(), Linkname: e.Link, Devmajor: int64(e.Major), Devminor: int64(e.Minor),
	}
	if e.Path == "" {
		s.Path = "/"
	}
	for k, v := range e.Xattrs {
		if s.Xattrs == nil {
			s.Xattrs = map[string][]byte{}
		}
		s.Xattrs[k] = []byte(v)
	}
	return s
}

// fileMode gives st_mode the form that Go has it in.
func fileMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	for bit, mode := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			out |= mode
		}
	}
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		out |= fs.ModeDir
	case unix.S_IFLNK:
		out |= fs.ModeSymlink
	case unix.S_IFIFO:
		out |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		out |= fs.ModeSocket
	case unix.S_IFBLK:
		out |= fs.ModeDevice
	case unix.S_IFCHR:
		out |= fs.ModeDevice | fs.ModeCharDevice
	}
	return out
}

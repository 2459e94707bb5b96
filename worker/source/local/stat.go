package local

import (
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// metadataName is the file that lists all files of a transfer of metadata. No
// client can send one of that name in such a transfer.
const metadataName = ".fsutil-metadata"

// setBits are the bits beside permissions.
var setBits = [...]struct {
	mode fs.FileMode
	unix uint32
}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}}

// entryOf reads what a client says of a file, whose path is known to be in
// order. Regular files have no Hash yet.
func entryOf(st *types.Stat) (digest.Entry, error) {
	e := digest.Entry{
		Path: st.Path, UID: st.Uid, GID: st.Gid,
		ModTime: time.Unix(0, st.ModTime).UTC(),
	}
	m := fs.FileMode(st.Mode)
	e.Mode = uint32(m.Perm())
	for _, b := range setBits {
		if m&b.mode != 0 {
			e.Mode |= b.unix
		}
	}
	switch m.Type() {
	case 0:
		e.Mode |= unix.S_IFREG
		e.Size = st.Size
		e.Hardlink = st.Linkname
		if e.Size < 0 {
			return e, fmt.Errorf("file %q has the size %d", st.Path, st.Size)
		}
	case fs.ModeDir:
		e.Mode |= unix.S_IFDIR
	case fs.ModeSymlink:
		e.Mode = unix.S_IFLNK | 0o777
		e.Link = st.Linkname
		if e.Link == "" || strings.ContainsRune(e.Link, 0) {
			return e, fmt.Errorf("symbolic link %q leads to %q", st.Path, st.Linkname)
		}
	case fs.ModeNamedPipe:
		e.Mode |= unix.S_IFIFO
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		// Builds must not reach devices of this host, and a character device 0,0
		// would remove files.
		return e, fmt.Errorf("%q is a device: exclude it in .dockerignore", st.Path)
	default:
		return e, fmt.Errorf("%q has the file type %v, which cannot be sent", st.Path, m.Type())
	}
	for k, v := range st.Xattrs {
		if digest.KeepXattr(k) && !e.IsSymlink() {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[k] = string(v)
		}
	}
	return e, nil
}

// sameStat tells whether two files are the same as far as can be told without
// reading them. Names and links to them are not compared.
func sameStat(a, b digest.Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Link == b.Link &&
		maps.Equal(a.Xattrs, b.Xattrs) &&
		(a.IsDir() || a.Size == b.Size && a.ModTime.Equal(b.ModTime))
}

package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

const (
	// paxXattr introduces an extended attribute's name in a PAX record.
	paxXattr = "SCHILY.xattr."
	// paxRoot marks an entry "./" that Pack wrote. Other ones are left alone, as
	// containerd does: what they say of the root directory is an accident of how
	// the tar was made, mode 0700 of a temporary directory for instance.
	paxRoot = "BUILDD.root"
)

// Names of layer.md, "Whiteouts". Names that begin with whiteoutMeta are AUFS's
// own but for the opaque whiteout.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// The largest device numbers that mknod takes.
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// headerEntry describes what a tar's header makes, but for its path and, of a
// hard link, its type. What may follow in the stream (size, hash) is not set.
func headerEntry(hdr *tar.Header) (digest.Entry, error) {
	e := digest.Entry{Mode: uint32(hdr.Mode & 0o7777), ModTime: boundTime(hdr.ModTime)}
	// (uid_t)-1 names nobody: chown takes it for "leave it".
	if hdr.Uid < 0 || hdr.Uid >= math.MaxUint32 || hdr.Gid < 0 || hdr.Gid >= math.MaxUint32 {
		return e, fmt.Errorf("owner %d:%d: want 0 to %d", hdr.Uid, hdr.Gid, math.MaxUint32-1)
	}
	e.UID, e.GID = uint32(hdr.Uid), uint32(hdr.Gid)
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Mode |= unix.S_IFREG
	case tar.TypeLink: // the type is that of what it links to
	case tar.TypeDir:
		e.Mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		e.Mode, e.Link = unix.S_IFLNK|0o777, hdr.Linkname
	case tar.TypeFifo:
		e.Mode |= unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		if hdr.Devmajor < 0 || hdr.Devmajor > maxMajor || hdr.Devminor < 0 || hdr.Devminor > maxMinor {
			return e, fmt.Errorf("device %d,%d: want up to %d,%d", hdr.Devmajor, hdr.Devminor, maxMajor, maxMinor)
		}
		e.Major, e.Minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
		if hdr.Typeflag == tar.TypeChar {
			e.Mode |= unix.S_IFCHR
		} else {
			e.Mode |= unix.S_IFBLK
		}
	default:
		return e, fmt.Errorf("unknown type %q", hdr.Typeflag)
	}
	for k, v := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !digest.KeepXattr(name) {
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = v
	}
	return e, nil
}

// isSparse tells whether a header's file has holes.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// boundTime is t, or 1970 for what a 64-bit count of nanoseconds since then
// cannot say, as containerd and Docker have it.
func boundTime(t time.Time) time.Time {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return time.Unix(0, 0)
	}
	return t
}

var errWhiteoutName = errors.New("want the name of a file after " + whiteoutPrefix)

// whiteoutOf returns the name that an entry named base whites out.
func whiteoutOf(base string) (name string, ok bool, err error) {
	name, ok = strings.CutPrefix(base, whiteoutPrefix)
	if ok && (name == "" || name == "." || name == "..") {
		return "", false, fmt.Errorf("whiteout %q: %w", base, errWhiteoutName)
	}
	return name, ok, nil
}

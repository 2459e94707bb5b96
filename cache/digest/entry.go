package digest

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is one path of a layer.
type Entry struct {
	// Path is slash-separated, clean and relative; "" is the layer's root.
	Path string
	// Mode is st_mode as Linux has it: file type and permission bits.
	Mode uint32
	UID  uint32
	GID  uint32
	// Size is that of a regular file's bytes, else 0.
	Size    int64
	ModTime time.Time
	// Link is a symbolic link's target as stored.
	Link string
	// Major and Minor are those of a device node. A character device 0,0 never
	// appears: it is a Whiteout.
	Major, Minor uint32
	// Xattrs are the extended attributes that belong to the file: those that
	// KeepXattr keeps.
	Xattrs map[string]string
	// Hash is the SHA-256 of a regular file's bytes, else zero.
	Hash [32]byte
	// Hardlink names the first path (in byte order) of the same inode in this
	// layer; "" if this path is it or the only one. It does not count for
	// content.
	Hardlink string
	// Whiteout says that the path removes what lies below it. Of a whiteout
	// nothing but its path is kept.
	Whiteout bool
	// Opaque says of a directory that nothing of it shows through from below.
	Opaque bool
}

// IsDir tells whether e is a directory.
func (e Entry) IsDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular tells whether e is a regular file.
func (e Entry) IsRegular() bool { return e.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink tells whether e is a symbolic link.
func (e Entry) IsSymlink() bool { return e.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsDevice tells whether e is a block or character device.
func (e Entry) IsDevice() bool {
	t := e.Mode & unix.S_IFMT
	return t == unix.S_IFCHR && !e.Whiteout || t == unix.S_IFBLK
}

// Name is the last element of e's path; "" of the root.
func (e Entry) Name() string { return e.Path[strings.LastIndexByte(e.Path, '/')+1:] }

// normalize sets what does not count for e's type to zero, so that equal files
// have equal entries whoever made them.
func (e Entry) normalize() Entry {
	if e.Whiteout {
		return Entry{Path: e.Path, Whiteout: true, Mode: unix.S_IFCHR, ModTime: time.Unix(0, 0).UTC()}
	}
	e.Mode &= unix.S_IFMT | 0o7777
	switch {
	case e.IsSymlink():
		e.Mode = unix.S_IFLNK | 0o777 // Linux has no other
	default:
		e.Link = ""
	}
	if !e.IsRegular() {
		e.Size, e.Hash = 0, [32]byte{}
	}
	if !e.IsDevice() {
		e.Major, e.Minor = 0, 0
	}
	if e.IsDir() {
		e.Hardlink = ""
	} else {
		e.Opaque = false
	}
	if len(e.Xattrs) == 0 {
		e.Xattrs = nil
	}
	e.ModTime = time.Unix(e.ModTime.Unix(), int64(e.ModTime.Nanosecond())).UTC()
	return e
}

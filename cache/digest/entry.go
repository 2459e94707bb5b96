package digest

import "time"

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
	// Xattrs are the extended attributes that belong to the file, so without
	// overlay's own and without security.selinux.
	Xattrs map[string]string
	// Hash is the SHA-256 of a regular file's bytes, else zero.
	Hash [32]byte
	// Hardlink names the first path (in byte order) of the same inode in this
	// layer; "" if this path is it or the only one. It does not count for
	// content.
	Hardlink string
	// Whiteout says that the path removes what lies below it.
	Whiteout bool
	// Opaque says of a directory that nothing of it shows through from below.
	Opaque bool
}

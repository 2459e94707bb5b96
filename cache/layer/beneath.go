package layer

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// openBeneath opens a path below a directory, which no symbolic link takes part
// in; "" is the directory itself.
func openBeneath(root int, rel string, flags int) (int, error) {
	return openat2(root, rel, flags|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

// openInRoot opens a path as if the directory root were the file system's.
func openInRoot(root int, rel string, flags int) (int, error) {
	return openat2(root, rel, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

func openat2(root int, rel string, flags int, resolve uint64) (int, error) {
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for {
		fd, err := unix.Openat2(root, rel, &how)
		// EAGAIN: something was renamed meanwhile, and the kernel cannot tell
		// whether the path left root.
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// split returns the directory and the last element of a relative path.
func split(rel string) (dir, name string) {
	i := strings.LastIndexByte(rel, '/')
	return rel[:max(0, i)], rel[i+1:]
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// quote names a path that may be of any length and hold anything.
func quote(path string) string {
	const most = 300
	if len(path) <= most {
		return fmt.Sprintf("%q", path)
	}
	return fmt.Sprintf("%q... (%d bytes)", path[:most], len(path))
}

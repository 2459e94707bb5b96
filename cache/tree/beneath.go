package tree

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// withDir opens a directory below another one for f, without going through a
// symbolic link.
func withDir(base, rel string, f func(fd int) error) error {
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", base, err)
	}
	defer unix.Close(root)
	if rel == "" {
		rel = "."
	}
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return fmt.Errorf("open directory %q: %w", rel, err)
	}
	defer unix.Close(fd)
	return f(fd)
}

func parentOf(rel string) string { return rel[:max(0, strings.LastIndexByte(rel, '/'))] }

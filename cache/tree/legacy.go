package tree

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// needsLegacy tells whether the kernel's overlay takes its layers by mount(2)
// only. One that takes "lowerdir+" looks for the directory at once; an older one
// does not know the option, or stores it unread.
var needsLegacy = sync.OnceValue(func() bool {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return errors.Is(err, unix.ENOSYS)
	}
	defer unix.Close(fd)
	return !errors.Is(unix.FsconfigSetString(fd, "lowerdir+", "/.buildd-does-not-exist"), unix.ENOENT)
})

// mountLegacy mounts with mount(2). Directories are named by descriptors, so that
// many fit into a page and no character in a path needs escaping.
func (o overlay) mountLegacy(at string) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	open := func(path string) (string, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("open %s: %w", path, err)
		}
		fds = append(fds, fd)
		return "/proc/self/fd/" + strconv.Itoa(fd), nil
	}
	lowers := make([]string, len(o.lowers))
	for i, path := range o.lowers {
		name, err := open(path)
		if err != nil {
			return err
		}
		lowers[len(lowers)-1-i] = name // the topmost first
	}
	data := []string{"lowerdir=" + strings.Join(lowers, ":")}
	opts, flags := o.options()
	if o.upper != "" {
		for key, path := range map[string]string{"upperdir": o.upper, "workdir": o.work} {
			name, err := open(path)
			if err != nil {
				return err
			}
			opts = append(opts, [2]string{key, name})
		}
	}
	for _, kv := range opts {
		data = append(data, kv[0]+"="+kv[1])
	}
	var attrs uintptr
	if o.upper == "" {
		attrs = unix.MS_RDONLY
	}
	return unix.Mount("buildd", at, "overlay", attrs, strings.Join(append(data, flags...), ","))
}

package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How many lower directories one overlay takes: OVL_MAX_STACK, and with mount(2),
// whose options are a page at most, about that divided by the length of a path.
const (
	maxLowers       = 500
	maxLowersLegacy = 180
)

// An overlay can have another one as its lowest layer, two deep at most. Whiteouts
// in an overlay do not reach below it, so only the lowest layers can be stacked.
func maxLayers(lowers int) int { return lowers + lowers - 1 }

// fsconfig takes strings of up to 256 bytes, the final zero included.
const maxOption = 255

// overlay says what is to be mounted. All paths are absolute.
type overlay struct {
	lowers []string // bottom first
	// upper and work are "" for a read-only mount.
	upper, work string
	userXattr   bool
	// legacy mounts with mount(2): before Linux 6.7 the new calls do not take a
	// layer at a time.
	legacy bool
}

// mount mounts o on the directory at.
func (o overlay) mount(at string) (err error) {
	most := maxLowers
	if o.legacy {
		most = maxLowersLegacy
	}
	if len(o.lowers) > most {
		low := at + ".low"
		if err := o.stack(low, most); err != nil {
			return err
		}
		// The upper overlay has a mount of its own of it by then.
		defer func() { err = errors.Join(err, detach(low), os.Remove(low)) }()
		o.lowers = append([]string{low}, o.lowers[most:]...)
	}
	if len(o.lowers) > most {
		return fmt.Errorf("mount overlay: %d layers are too many", len(o.lowers))
	}
	if o.legacy {
		err = o.mountLegacy(at)
	} else {
		err = o.mountNew(at)
	}
	if err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

// stack mounts the lowest layers on a new directory.
func (o overlay) stack(low string, n int) error {
	if err := os.Mkdir(low, 0o700); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	below := overlay{lowers: o.lowers[:n], userXattr: o.userXattr, legacy: o.legacy}
	if err := below.mount(low); err != nil {
		return errors.Join(err, os.Remove(low))
	}
	return nil
}

func (o overlay) mountNew(at string) error {
	fd, err := o.create()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move mount to %s: %w", at, err)
	}
	return nil
}

// options are those beside the directories.
func (o overlay) options() (opts [][2]string, flags []string) {
	opts = [][2]string{{"index", "off"}, {"metacopy", "off"}, {"xino", "off"},
		// A layer is hostile: its redirects must not be followed. "off" would
		// follow them where the module is configured so.
		{"redirect_dir", "nofollow"}}
	if o.userXattr {
		flags = append(flags, "userxattr")
	}
	if o.upper != "" {
		// What is written is made durable later, with a batch (Store.Sync).
		flags = append(flags, "volatile")
	}
	return opts, flags
}

// create returns a mount of o that is not attached anywhere yet.
func (o overlay) create() (int, error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fd)
	if err := o.configure(fd); err != nil {
		return -1, fmt.Errorf("%w%s", err, fsLog(fd))
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, fmt.Errorf("create overlay: %w%s", err, fsLog(fd))
	}
	attrs := 0
	if o.upper == "" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w%s", err, fsLog(fd))
	}
	return mfd, nil
}

func (o overlay) configure(fd int) error {
	opts, flags := o.options()
	for _, kv := range opts {
		if err := unix.FsconfigSetString(fd, kv[0], kv[1]); err != nil {
			return fmt.Errorf("option %s=%s: %w", kv[0], kv[1], err)
		}
	}
	for _, f := range flags {
		if err := unix.FsconfigSetFlag(fd, f); err != nil {
			return fmt.Errorf("option %s: %w", f, err)
		}
	}
	dirs := [][2]string{}
	for i := len(o.lowers) - 1; i >= 0; i-- {
		dirs = append(dirs, [2]string{"lowerdir+", o.lowers[i]})
	}
	if o.upper != "" {
		dirs = append(dirs, [2]string{"upperdir", o.upper}, [2]string{"workdir", o.work})
	}
	for _, kv := range dirs {
		if err := setDir(fd, kv[0], kv[1]); err != nil {
			return fmt.Errorf("option %s=%s: %w", kv[0], kv[1], err)
		}
	}
	return unix.FsconfigSetString(fd, "source", "buildd")
}

// setDir sets an option to a path, however long that is and whatever the kernel
// would take for an escape in it.
func setDir(fd int, key, path string) error {
	if len(path) <= maxOption && !strings.ContainsAny(path, `\:,`) {
		return unix.FsconfigSetString(fd, key, path)
	}
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return unix.FsconfigSetString(fd, key, "/proc/self/fd/"+strconv.Itoa(dir))
}

// fsLog returns what the kernel has to say about a failure, if anything.
func fsLog(fd int) string {
	var out strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			return out.String()
		}
		// A message is "e text", where the letter is its level.
		out.WriteString(": " + strings.TrimSpace(string(buf[min(2, n):n])))
	}
}

// unmountTimeout is how long a mount may be busy after its user is gone.
const unmountTimeout = 500 * time.Millisecond

// unmount unmounts at when nobody has a file of it open any more.
func unmount(at string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait > unmountTimeout {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		time.Sleep(wait)
	}
}

// detach unmounts at for everybody who looks for it from now on.
func detach(at string) error {
	if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

func realPath(p string) (string, error) {
	real, err := filepath.EvalSymlinks(p)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", p, err)
	}
	return real, nil
}

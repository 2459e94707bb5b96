package zygote

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Names in the base namespace's root.
const (
	baseRoot  = "root"  // where a container's root is mounted
	baseEmpty = "empty" // an empty directory to mask directories with
	baseDev   = "dev."  // prefix of the host's device nodes; "null" masks files
)

// hostDevices are the nodes of /dev that every container has; a zygote without
// privileges binds the host's.
var hostDevices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// base is a mount namespace to copy containers' namespaces from.
type base struct {
	ns   fd // the namespace
	proc fd // the host's /proc
	own  fd // a /proc that knows processes by the zygote's numbers; noFD if there is none
}

// newBase makes the base namespace: a small read-only tmpfs with the names
// above, and nothing of the host. In a user namespace the kernel allows new
// mounts of proc and sysfs only where whole ones can be seen already, so there
// the host's are kept in it, out of sight of the containers.
func newBase(rootless bool) (base, error) {
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return base{}, fmt.Errorf("open /proc: %w", err)
	}
	b := base{ns: noFD, proc: fd(proc), own: noFD}
	if rootless {
		// Where the host has something mounted over parts of /proc it is refused.
		if own, err := newMount("proc", "proc", nil, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NODEV); err == nil {
			b.own = own
		}
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		done <- b.build(rootless)
	}()
	if err := <-done; err != nil {
		return base{}, fmt.Errorf("make base mount namespace: %w", err)
	}
	return b, nil
}

func (b *base) build(rootless bool) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	ns, err := unix.Openat(int(b.proc), "thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	b.ns = fd(ns)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	binds := map[string]fd{}
	for _, name := range hostDevices {
		m, err := cloneMount(unix.AT_FDCWD, "/dev/"+name, false)
		if err != nil {
			return err
		}
		defer m.close()
		binds[baseDev+name] = m
	}
	dirs := map[string]fd{}
	if rootless {
		for _, name := range []string{"proc", "sys"} {
			m, err := cloneMount(unix.AT_FDCWD, "/"+name, true)
			if err != nil {
				return err
			}
			defer m.close()
			dirs[name] = m
		}
	}
	root, err := newMount("tmpfs", "buildd", []string{"size=64k", "mode=755"}, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	defer root.close()
	if err := root.become(); err != nil {
		return err
	}
	return fillBase(root, binds, dirs)
}

// become makes a detached mount the root of the thread's mount namespace and
// takes all other mounts away.
func (f fd) become() error {
	// Any directory will do to have it attached somewhere for a moment.
	at, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /proc: %w", err)
	}
	defer unix.Close(at)
	if err := f.attach(fd(at)); err != nil {
		return fmt.Errorf("attach root: %w", err)
	}
	if err := unix.Fchdir(int(f)); err != nil {
		return fmt.Errorf("change to root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	return unix.Chdir("/")
}

func fillBase(root fd, files, dirs map[string]fd) error {
	if err := unix.Mkdirat(int(root), baseRoot, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", baseRoot, err)
	}
	empty, err := newMount("tmpfs", "tmpfs", []string{"size=4k", "mode=555"}, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return err
	}
	defer empty.close()
	dirs[baseEmpty] = empty
	for name, m := range dirs {
		at, err := root.openDir(name)
		if err == nil {
			err = m.attach(at)
			at.close()
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", name, err)
		}
	}
	for name, m := range files {
		at, err := root.openFile(name)
		if err == nil {
			err = m.attach(at)
			at.close()
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", name, err)
		}
	}
	return root.setAttr(unix.MOUNT_ATTR_RDONLY, 0, 0, false)
}

package zygote

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// inside are the file systems that show the namespaces of who mounts them, so
// they are mounted from within.
var inside = map[string]bool{"sysfs": true, "mqueue": true, "devpts": true, "tmpfs": true}

// openMount makes the detached mount of m, if that is done from outside.
func (s *setup) openMount(m Mount) (fd, error) {
	switch {
	case m.Kind == KindBind:
		f, err := s.own(cloneMount(unix.AT_FDCWD, m.Source, m.Recursive))
		if err != nil {
			return noFD, err
		}
		propagation := uint64(unix.MS_PRIVATE)
		if m.Slave {
			propagation = unix.MS_SLAVE
		}
		if err := f.setAttr(m.Set, m.Clear, propagation, m.Recursive); err != nil {
			return noFD, fmt.Errorf("set attributes: %w", err)
		}
		return f, nil
	case m.Kind == KindFS && !inside[m.FSType]:
		return s.own(newMount(m.FSType, m.Source, m.Data, m.Set))
	default:
		return noFD, nil
	}
}

// mounts attaches all mounts in their order.
func (s *setup) mounts() error {
	for i, m := range s.c.Mounts {
		if err := s.mount(i, m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	return nil
}

func (s *setup) mount(i int, m Mount) error {
	f := s.sources[i]
	var err error
	switch {
	case m.Kind == KindProc:
		return s.reserveProc(m)
	case m.Kind == KindGroup:
		return s.mountGroups(m, s.groups[i])
	case m.Kind == KindFS && inside[m.FSType]:
		if f, err = s.own(newMount(m.FSType, m.Source, m.Data, m.Set)); err != nil {
			return err
		}
	}
	if m.FSType == "sysfs" {
		if err := s.ordinary(m.Target); err != nil {
			return err
		}
	}
	if err := s.attachAt(f, m.Target); err != nil {
		return err
	}
	if m.FSType == "devpts" && path.Clean(m.Target) == "/dev/pts" {
		s.pts = f
	}
	return nil
}

// attachAt attaches a detached mount at a path inside the root, made if it is
// missing: a directory for a directory, a file for all else.
func (s *setup) attachAt(f fd, target string) error {
	mode, err := f.mode()
	if err != nil {
		return fmt.Errorf("look at mount: %w", err)
	}
	open := s.root.openFile
	if mode == unix.S_IFDIR {
		open = s.root.openDir
	}
	at, err := open(target)
	if err != nil {
		return err
	}
	defer at.close()
	if same, err := sameFile(at, s.root); err != nil || same {
		return errors.Join(err, fmt.Errorf("%s is the container's root", target))
	}
	return f.attach(at)
}

func sameFile(a, b fd) (bool, error) {
	var x, y unix.Stat_t
	err := errors.Join(unix.Fstat(int(a), &x), unix.Fstat(int(b), &y))
	return x.Dev == y.Dev && x.Ino == y.Ino, err
}

// ordinary returns an error if a component of target is a symbolic link: proc and
// sysfs elsewhere than they seem to be would escape their masks.
func (s *setup) ordinary(target string) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS}
	n, err := retry(func() (int, error) { return unix.Openat2(int(s.root), relative(target), &how) })
	switch {
	case err == nil:
		unix.Close(n)
		return nil
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%s of the root file system is a symbolic link: want a directory", target)
	default:
		return &os.PathError{Op: "open in container", Path: target, Err: err}
	}
}

// reserveProc opens the place for proc, which the child mounts: proc shows the
// pid namespace of who mounts it.
func (s *setup) reserveProc(m Mount) (err error) {
	if path.Clean(m.Target) != "/proc" {
		return errors.New("proc can be mounted at /proc only")
	}
	if err := s.ordinary(m.Target); err != nil {
		return err
	}
	s.procAt, err = s.own(s.root.openDir(m.Target))
	return err
}

// mountGroups mounts a tmpfs with a directory for each control group hierarchy,
// or the one hierarchy of v2 itself.
func (s *setup) mountGroups(m Mount, binds []fd) error {
	if len(binds) == 1 && m.Groups[0][0] == "" {
		if err := binds[0].setAttr(m.Set, 0, unix.MS_PRIVATE, false); err != nil {
			return fmt.Errorf("set attributes: %w", err)
		}
		return s.attachAt(binds[0], m.Target)
	}
	dir, err := s.own(newMount("tmpfs", "tmpfs", []string{"mode=755", "size=64k"}, m.Set&^unix.MOUNT_ATTR_RDONLY))
	if err != nil {
		return err
	}
	if err := s.attachAt(dir, m.Target); err != nil {
		return err
	}
	for i, g := range m.Groups {
		if err := binds[i].setAttr(m.Set, 0, unix.MS_PRIVATE, false); err != nil {
			return fmt.Errorf("set attributes: %w", err)
		}
		at, err := dir.openDir(g[0])
		if err != nil {
			return err
		}
		err = binds[i].attach(at)
		at.close()
		if err != nil {
			return fmt.Errorf("control group %s: %w", g[0], err)
		}
	}
	return dir.setAttr(m.Set, 0, 0, false)
}

// terminal makes a pseudoterminal in the container's devpts and puts its slave at
// /dev/console.
func (s *setup) terminal() error {
	if !s.p.Terminal {
		return nil
	}
	n, err := s.openTerminal()
	if err != nil {
		return err
	}
	console, err := s.own(cloneMount(s.pts, strconv.Itoa(n), false))
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	if err := s.attachAt(console, "/dev/console"); err != nil {
		return fmt.Errorf("mount console: %w", err)
	}
	return nil
}

// openTerminal opens a new pseudoterminal and returns its number.
func (s *setup) openTerminal() (int, error) {
	if s.pts < 0 {
		return 0, errors.New("open terminal: no devpts is mounted at /dev/pts")
	}
	n, err := unix.Openat(int(s.pts), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open terminal: %w", err)
	}
	s.master, _ = s.own(fd(n), nil)
	if err := unix.IoctlSetPointerInt(n, unix.TIOCSPTLCK, 0); err != nil {
		return 0, fmt.Errorf("unlock terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(n, unix.TIOCGPTN)
	if err != nil {
		return 0, fmt.Errorf("number terminal: %w", err)
	}
	// By the master, not by a path that something else could lie at.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return 0, fmt.Errorf("open terminal's slave: %w", errno)
	}
	s.slave, _ = s.own(fd(slave), nil)
	if s.p.Rows > 0 && s.p.Cols > 0 {
		if err := unix.IoctlSetWinsize(n, unix.TIOCSWINSZ, &unix.Winsize{Row: s.p.Rows, Col: s.p.Cols}); err != nil {
			return 0, fmt.Errorf("set terminal size: %w", err)
		}
	}
	return number, nil
}

package zygote

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// protect masks paths, makes paths read-only, and the root if asked for. What
// lies in proc is left to the child, which mounts it.
func (s *setup) protect() error {
	for _, p := range s.c.Masked {
		if s.inProc(p) {
			continue
		}
		if err := s.mask(p); err != nil {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	for _, p := range s.c.Readonly {
		if s.inProc(p) {
			continue
		}
		if err := s.readonly(p); err != nil {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	if s.c.ReadonlyRoot {
		if err := s.root.setAttr(unix.MOUNT_ATTR_RDONLY, 0, 0, false); err != nil {
			return fmt.Errorf("make root file system read-only: %w", err)
		}
	}
	return nil
}

// inProc reports whether p lies in the proc that the child mounts.
func (s *setup) inProc(p string) bool {
	return s.procAt >= 0 && strings.HasPrefix(path.Clean(p), "/proc/")
}

func (s *setup) mask(p string) error {
	at, err := s.root.open(p, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.close()
	mode, err := at.mode()
	if err != nil {
		return err
	}
	m, err := cloneMask(mode)
	if err != nil {
		return err
	}
	defer m.close()
	return m.attach(at)
}

// cloneMask returns a detached mount to hide a file of a type with.
func cloneMask(mode uint32) (fd, error) {
	if mode == unix.S_IFDIR {
		return cloneMount(unix.AT_FDCWD, "/"+baseEmpty, false)
	}
	return cloneMount(unix.AT_FDCWD, "/"+baseDev+"null", false)
}

func (s *setup) readonly(p string) error {
	at, err := s.root.open(p, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.close()
	m, err := cloneMount(at, "", true)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.setAttr(unix.MOUNT_ATTR_RDONLY, 0, 0, true); err != nil {
		return err
	}
	return m.attach(at)
}

// planMounts lays out what the child does to its file systems.
func (s *setup) planMounts(p *program) error {
	if s.procAt >= 0 {
		if err := s.planProc(p); err != nil {
			return err
		}
	}
	p.call("change to the root", unix.SYS_FCHDIR, uintptr(s.root))
	dot := p.str(".")
	p.call("pivot root", unix.SYS_PIVOT_ROOT, dot, dot)
	p.call("unmount the base", unix.SYS_UMOUNT2, dot, unix.MNT_DETACH)
	p.call("change to the root", unix.SYS_CHDIR, p.str("/"))
	return nil
}

func (s *setup) planProc(p *program) error {
	attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODEV)
	for _, m := range s.c.Mounts {
		if m.Kind == KindProc {
			attrs = m.Set
		}
	}
	empty := p.str("")
	ctx := p.result(p.call("open file system proc", unix.SYS_FSOPEN, p.str("proc"), unix.FSOPEN_CLOEXEC))
	p.call("name file system proc", unix.SYS_FSCONFIG, 0, unix.FSCONFIG_SET_STRING, p.str("source"), p.str("proc"), 0).use(0, ctx)
	p.call("create file system proc", unix.SYS_FSCONFIG, 0, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).use(0, ctx)
	proc := p.result(p.call("mount proc", unix.SYS_FSMOUNT, 0, unix.FSMOUNT_CLOEXEC, uintptr(attrs)).use(0, ctx))
	p.call("attach proc", unix.SYS_MOVE_MOUNT, 0, empty, uintptr(s.procAt), empty,
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH).use(0, proc)

	for _, file := range s.c.Masked {
		if !s.inProc(file) {
			continue
		}
		name := strings.TrimPrefix(path.Clean(file), "/proc/")
		mode := uint32(unix.S_IFREG)
		var st unix.Stat_t
		if err := unix.Fstatat(int(s.base.proc), name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			mode = st.Mode & unix.S_IFMT
		}
		m, err := s.own(cloneMask(mode))
		if err != nil {
			return fmt.Errorf("mask %s: %w", file, err)
		}
		p.call("mask "+file, unix.SYS_MOVE_MOUNT, uintptr(m), empty, 0, p.str(name), unix.MOVE_MOUNT_F_EMPTY_PATH).
			use(2, proc).passing(passAbsent, 0)
	}
	for _, file := range s.c.Readonly {
		if !s.inProc(file) {
			continue
		}
		what, name := "make "+file+" read-only", p.str(strings.TrimPrefix(path.Clean(file), "/proc/"))
		o := p.call(what, unix.SYS_OPEN_TREE, 0, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).
			use(0, proc).passing(passAbsent, 2)
		m := p.result(o)
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		p.call(what, unix.SYS_MOUNT_SETATTR, 0, empty, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, ptr(p, attr), unix.MOUNT_ATTR_SIZE_VER0).use(0, m)
		p.call(what, unix.SYS_MOVE_MOUNT, 0, empty, 0, name, unix.MOVE_MOUNT_F_EMPTY_PATH).use(0, m).use(2, proc)
	}
	return nil
}

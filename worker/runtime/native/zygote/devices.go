package zygote

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// devices makes the device nodes and, where /dev is the container's own, the
// links that programs expect there.
func (s *setup) devices() error {
	ownDev := false
	for _, m := range s.c.Mounts {
		ownDev = ownDev || m.Kind == KindFS && path.Clean(m.Target) == "/dev"
	}
	for _, d := range s.c.Devices {
		if !ownDev && strings.HasPrefix(path.Clean(d.Path), "/dev/") {
			continue // /dev is the caller's, with all that is in it
		}
		if err := s.device(d); err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
	}
	if !ownDev {
		return nil
	}
	dev, err := s.root.openDir("/dev")
	if err != nil {
		return err
	}
	defer dev.close()
	for _, l := range [][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"}, {"pts/ptmx", "ptmx"},
	} {
		if err := unix.Symlinkat(l[0], int(dev), l[1]); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make link /dev/%s: %w", l[1], err)
		}
	}
	return nil
}

func (s *setup) device(d Device) error {
	if s.c.Rootless {
		return s.bindDevice(d)
	}
	dir, name, err := s.root.openParent(d.Path)
	if err != nil {
		return err
	}
	defer dir.close()
	// What the image has there is not what was asked for.
	if err := unix.Unlinkat(int(dir), name, 0); err != nil && err != unix.ENOENT {
		return err
	}
	if err := unix.Mknodat(int(dir), name, d.Mode, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		return err
	}
	if d.UID == 0 && d.GID == 0 {
		return nil
	}
	return unix.Fchownat(int(dir), name, d.UID, d.GID, unix.AT_SYMLINK_NOFOLLOW)
}

// bindDevice puts one of the host's nodes in the container.
func (s *setup) bindDevice(d Device) error {
	name, ok := strings.CutPrefix(path.Clean(d.Path), "/dev/")
	f, err := noFD, error(unix.EPERM)
	for _, h := range hostDevices {
		if ok && h == name {
			f, err = s.own(cloneMount(unix.AT_FDCWD, "/"+baseDev+name, false))
		}
	}
	if err != nil {
		return fmt.Errorf("without privileges only %v can be had: %w", hostDevices, err)
	}
	return s.attachAt(f, d.Path)
}

package zygote

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// devices makes the device nodes and, where /dev is a file system of the
// container's own, the links that programs expect there.
func (s *setup) devices() error {
	dev := noFD
	for _, m := range s.c.Mounts {
		if m.Kind != KindFS || path.Clean(m.Target) != "/dev" {
			continue
		}
		var err error
		if dev, err = s.own(s.root.openDir("/dev")); err != nil {
			return err
		}
	}
	for _, d := range s.c.Devices {
		if err := s.device(dev, d); err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
	}
	if dev < 0 {
		return nil
	}
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

// device makes one node; dev is the container's own /dev, if it has one.
func (s *setup) device(dev fd, d Device) error {
	name, inDev := strings.CutPrefix(path.Clean(d.Path), "/dev/")
	switch {
	case inDev && dev < 0:
		return nil // /dev is the caller's, with all that is in it
	case s.c.Rootless:
		return s.bindDevice(name, d)
	case inDev && !strings.Contains(name, "/"):
		return makeNode(dev, name, d) // as almost all are
	}
	dir, name, err := s.root.openParent(d.Path)
	if err != nil {
		return err
	}
	defer dir.close()
	return makeNode(dir, name, d)
}

func makeNode(dir fd, name string, d Device) error {
	number := int(unix.Mkdev(d.Major, d.Minor))
	err := unix.Mknodat(int(dir), name, d.Mode, number)
	if err == unix.EEXIST { // what the image has there is not what was asked for
		if err = unix.Unlinkat(int(dir), name, 0); err == nil {
			err = unix.Mknodat(int(dir), name, d.Mode, number)
		}
	}
	if err != nil || d.UID == 0 && d.GID == 0 {
		return err
	}
	return unix.Fchownat(int(dir), name, d.UID, d.GID, unix.AT_SYMLINK_NOFOLLOW)
}

// bindDevice puts one of the host's nodes in the container.
func (s *setup) bindDevice(name string, d Device) error {
	for _, h := range hostDevices {
		if h != name {
			continue
		}
		f, err := s.own(cloneMount(unix.AT_FDCWD, "/"+baseDev+name, false))
		if err != nil {
			return err
		}
		return s.attachAt(f, d.Path)
	}
	return fmt.Errorf("without privileges only %v can be had: %w", hostDevices, unix.EPERM)
}

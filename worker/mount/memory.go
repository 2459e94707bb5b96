package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Memory is a file system in memory, mounted for one step. Its files never
// reach a disk, not as swap either where the kernel can be told.
type Memory struct {
	// Dir is where it is mounted.
	Dir string
	n   int
}

// NewMemory mounts an empty file system at dir, which it makes.
func NewMemory(dir string) (*Memory, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("mount memory: %w", err)
	}
	const flags = unix.MS_NODEV | unix.MS_NOSUID
	err := unix.Mount("buildd-secrets", dir, "tmpfs", flags, "mode=0711,noswap")
	if err != nil { // before Linux 6.4, and without privilege outside this user namespace
		err = unix.Mount("buildd-secrets", dir, "tmpfs", flags, "mode=0711")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount memory at %s: %w", dir, err), os.Remove(dir))
	}
	return &Memory{Dir: dir}, nil
}

// WriteFile makes a file of b and returns its path.
func (m *Memory) WriteFile(b []byte, uid, gid uint32, mode os.FileMode) (string, error) {
	m.n++
	path := filepath.Join(m.Dir, strconv.Itoa(m.n))
	err := os.WriteFile(path, b, 0o600)
	if err == nil {
		err = os.Chown(path, int(uid), int(gid))
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		return "", fmt.Errorf("write file in memory: %w", err)
	}
	return path, nil
}

// Close unmounts the file system and with that forgets its files.
func (m *Memory) Close() error { return unmount(m.Dir) }

// unmount unmounts dir and removes it. It removes nothing but an empty
// directory or file, whatever becomes of the mount.
func unmount(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}

package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Clear empties dir, which a process that is no more used for mounts: it
// unmounts all below it and then removes what is left. It removes nothing as
// long as anything is mounted, as that would delete what is bound there.
func Clear(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("clear mounts: %w", err)
	}
	for range 8 { // mounts may lie on each other
		mounts, err := below(dir)
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return empty(dir)
		}
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
				return fmt.Errorf("unmount %s: %w", mounts[i], err)
			}
		}
	}
	return fmt.Errorf("clear mounts below %s: some come back", dir)
}

// below lists the mounts below dir, in the order that they were made.
func below(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var out []string
	for _, i := range infos {
		out = append(out, i.Mountpoint)
	}
	return out, nil
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clear mounts: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("clear mounts: %w", err)
		}
	}
	return nil
}

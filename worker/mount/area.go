package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Area is a directory for mounts of this process. They do not spread to other
// mount namespaces.
type Area struct{ Dir string }

// OpenArea makes dir an Area: it unmounts and removes what a process that is no
// more has left there. It removes nothing as long as anything is mounted, as
// that would delete what is bound.
func OpenArea(dir string) (*Area, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("open mount area: %w", err)
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open mount area: %w", err)
	}
	a := &Area{Dir: dir}
	if err := a.clear(); err != nil {
		return nil, fmt.Errorf("open mount area %s: %w", dir, err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("open mount area: bind %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("open mount area: make %s private: %w", dir, err)
	}
	return a, nil
}

// Close undoes OpenArea, with all that is still mounted.
func (a *Area) Close() error { return a.clear() }

func (a *Area) clear() error {
	for range 8 { // mounts may lie on each other
		mounts, err := a.mounts()
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return empty(a.Dir)
		}
		for _, at := range slices.Backward(mounts) {
			if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
				return fmt.Errorf("unmount %s: %w", at, err)
			}
		}
	}
	return fmt.Errorf("mounts below %s come back", a.Dir)
}

// mounts lists what is mounted at or below the area, in the order of mounting.
func (a *Area) mounts() ([]string, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Mountpoint != a.Dir && !strings.HasPrefix(i.Mountpoint, a.Dir+"/"), false
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
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

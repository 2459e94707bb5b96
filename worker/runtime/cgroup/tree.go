package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Tree is where the host has its control groups mounted.
type Tree struct {
	// unified is the mount of version 2; empty on a host that has its
	// controllers on version 1.
	unified string
	// v1 maps controllers to mounts; several may share one.
	v1 map[string]string
	// mounts are all hierarchies: other runtimes make groups in each of them.
	mounts []string

	mu sync.Mutex // guards enabled
	// enabled are the directories of version 2 whose children have our
	// controllers.
	enabled map[string]bool
}

// ErrNone says that the host has no control groups that could be used.
var ErrNone = errors.New("no control groups are mounted")

// Open finds the hierarchies of the host.
func Open() (*Tree, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	defer f.Close()
	return Parse(f)
}

// Parse finds the hierarchies in a list of mounts as /proc/PID/mountinfo has it.
func Parse(mountinfo io.Reader) (*Tree, error) {
	t := &Tree{v1: make(map[string]string), enabled: make(map[string]bool)}
	unified := ""
	for s := bufio.NewScanner(mountinfo); s.Scan(); {
		// See proc_pid_mountinfo(5): ID parent dev root place options... - type source options
		fields := strings.Fields(s.Text())
		sep := slices.Index(fields, "-")
		if sep < 5 || len(fields) < sep+4 {
			continue
		}
		place := fields[4]
		if strings.HasPrefix(fields[sep+1], "cgroup") {
			t.mounts = append(t.mounts, place)
		}
		switch fields[sep+1] {
		case "cgroup2":
			if unified == "" {
				unified = place
			}
		case "cgroup":
			for _, o := range strings.Split(fields[sep+3], ",") {
				if slices.Contains(controllers, o) && t.v1[o] == "" {
					t.v1[o] = place
				}
			}
		}
	}
	if len(t.v1) == 0 {
		t.unified = unified // else it is the empty half of a hybrid layout
	}
	if t.unified == "" && len(t.v1) == 0 {
		return nil, ErrNone
	}
	return t, nil
}

// controllers are those that limits are made of.
var controllers = []string{"cpu", "cpuacct", "cpuset", "devices", "memory", "pids"}

// Cleanup removes the empty groups below parent, which a daemon that was killed
// has left, and parent if nothing is in it. Groups with processes are let be: ours
// have none without their daemon, so they are somebody else's.
func (t *Tree) Cleanup(parent string) error {
	var errs []error
	for _, m := range t.mounts {
		dir, err := join(m, parent)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("clean up control groups: %w", err))
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, unix.EBUSY) {
				errs = append(errs, fmt.Errorf("clean up control groups: %w", err))
			}
		}
		_ = unix.Rmdir(dir)
	}
	return errors.Join(errs...)
}

// join returns the directory of a group.
func join(mount, path string) (string, error) {
	if !filepath.IsAbs(path) || path != filepath.Clean(path) || path == "/" {
		return "", fmt.Errorf("control group %q: want a clean absolute path below the root", path)
	}
	return filepath.Join(mount, path), nil
}

// removeTree removes a group and those that were made inside it.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err = unix.Rmdir(dir); err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "remove control group", Path: dir, Err: err}
	}
	return nil
}

// write writes one value to a file of a group.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("set %s of control group to %q: %w", file, value, errors.Unwrap(err))
	}
	return nil
}

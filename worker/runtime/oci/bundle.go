package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/cgroup"
)

// writeBundle writes the directory that the program is pointed at.
func (r *Runtime) writeBundle(id string, s *specs.Spec) (string, error) {
	dir := filepath.Join(r.bundles(), id)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", err
	}
	s.Mounts = slices.Clone(s.Mounts)
	for i := range s.Mounts {
		s.Mounts[i].Source = hostPath(s.Mounts[i].Source)
	}
	if r.config.Rootless {
		if err := rootless(s); err != nil {
			return "", err
		}
	}
	return dir, writeJSON(filepath.Join(dir, "config.json"), s)
}

// checkRoot refuses a root in which a directory that the program fills itself is a
// link. Some versions of runc, 1.1.5 among them, follow it out of the root.
func checkRoot(root string) error {
	for _, name := range []string{"dev", "proc", "sys"} {
		st, err := os.Lstat(filepath.Join(root, name))
		if err == nil && st.Mode()&os.ModeSymlink != 0 {
			return fmt.Errorf("/%s of the root file system is a symbolic link: want a directory", name)
		}
	}
	return nil
}

func writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	return os.WriteFile(file, b, 0o600)
}

// hostPath makes the daemon's own descriptors reachable for the program.
func hostPath(p string) string {
	if rest, ok := strings.CutPrefix(p, "/proc/self/"); ok {
		return "/proc/" + strconv.Itoa(os.Getpid()) + "/" + rest
	}
	return p
}

// rootless takes out of a spec what needs privileges: control groups, and mount
// options that would clear flags which a user namespace has locked.
func rootless(s *specs.Spec) error {
	*s = *runtime.BindSys(s)
	l := *s.Linux
	l.CgroupsPath, l.Resources = "", nil
	s.Linux = &l
	for i, m := range s.Mounts {
		if m.Type != "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.Source, &st); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		options := slices.Clone(m.Options)
		for flag, name := range map[int64]string{
			unix.ST_RDONLY: "ro", unix.ST_NOSUID: "nosuid", unix.ST_NODEV: "nodev", unix.ST_NOEXEC: "noexec",
		} {
			if int64(st.Flags)&flag != 0 && !slices.Contains(options, name) {
				options = append(options, name)
			}
		}
		s.Mounts[i].Options = options
	}
	return nil
}

// oomKilled looks at a container's control group, which is there still.
func oomKilled(path string) bool {
	if path == "" {
		return false
	}
	tree, err := cgroup.Open()
	return err == nil && tree.OOMKilled(path)
}

// running waits until a container runs whose Run has been called.
func (r *Runtime) running(ctx context.Context, id string) error {
	pause := newPause()
	for {
		r.mu.Lock()
		c := r.containers[id]
		r.mu.Unlock()
		if c == nil {
			return runtime.ErrNotRunning
		}
		out, err := r.command(ctx, "state", id).Output()
		var state specs.State
		if err == nil && json.Unmarshal(out, &state) == nil {
			switch state.Status {
			case specs.StateRunning:
				return nil
			case specs.StateStopped:
				return runtime.ErrNotRunning
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ended:
			return runtime.ErrNotRunning
		case <-pause.next():
		}
	}
}

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is the control group of one container. A nil Group is none.
type Group struct {
	tree    *Tree
	dirs    []dir
	guarded bool
}

// dir is a group's directory in one hierarchy.
type dir struct {
	name string // controller, "" with version 2
	path string
}

// Create makes the group at path, from the root of the hierarchies, with the
// limits and device rules of r.
func (t *Tree) Create(path string, r *specs.LinuxResources) (*Group, error) {
	l, err := readLimits(r)
	if err != nil {
		return nil, err
	}
	g := &Group{tree: t}
	if t.unified != "" {
		err = g.createUnified(path, l)
	} else {
		err = g.createV1(path, l)
	}
	if err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return g, nil
}

// makeDir makes a group's directory, and its parents; one that a killed daemon
// left is replaced.
func (g *Group) makeDir(name, mount, path string) (string, error) {
	full, err := join(mount, path)
	if err != nil {
		return "", err
	}
	err = os.Mkdir(full, 0o755)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return "", fmt.Errorf("make control group: %w", err)
		}
		err = os.Mkdir(full, 0o755)
	}
	if errors.Is(err, os.ErrExist) && removeTree(full) == nil {
		err = os.Mkdir(full, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("make control group: %w", err)
	}
	g.dirs = append(g.dirs, dir{name, full})
	return full, nil
}

// Tasks are the files of version 1 that a thread joins the group by.
func (g *Group) Tasks() []string {
	if g == nil || g.tree.unified != "" {
		return nil
	}
	var out []string
	for _, d := range g.dirs {
		out = append(out, filepath.Join(d.path, "tasks"))
	}
	return out
}

// Dir is the group's directory of version 2, or empty.
func (g *Group) Dir() string {
	if g == nil || g.tree.unified == "" {
		return ""
	}
	return g.dirs[0].path
}

// Dirs are pairs of a controller's name, empty with version 2, and the group's
// directory, for the container to see.
func (g *Group) Dirs() [][2]string {
	if g == nil {
		return nil
	}
	var out [][2]string
	for _, d := range g.dirs {
		out = append(out, [2]string{d.name, d.path})
	}
	return out
}

// GuardsDevices reports whether the device rules are in force. Without, a process
// that can make a device node, or finds one, reaches what it leads to.
func (g *Group) GuardsDevices() bool { return g != nil && g.guarded }

// OOMKilled reports whether the kernel killed a process of the group for memory.
func (g *Group) OOMKilled() bool {
	if g == nil {
		return false
	}
	for _, d := range g.dirs {
		file := "memory.oom_control"
		if d.name == "" {
			file = "memory.events"
		} else if d.name != "memory" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(d.path, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
				return true
			}
		}
	}
	return false
}

// removeTime is how long Remove waits for the last thread of a dead process to be
// taken out of its group.
const removeTime = 2 * time.Second

// Remove removes the group, whose processes have ended.
func (g *Group) Remove() error {
	if g == nil {
		return nil
	}
	end := time.Now().Add(removeTime)
	var errs []error
	for _, d := range g.dirs {
		pause := 100 * time.Microsecond
		err := removeTree(d.path)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(end) {
			time.Sleep(pause)
			pause = min(2*pause, 20*time.Millisecond)
			err = removeTree(d.path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// createV1 makes a group of each controller that a limit needs.
func (g *Group) createV1(path string, l limits) error {
	needs := []struct {
		controller string
		wanted     bool
		files      [][2]string
	}{
		{"pids", l.pids != 0, [][2]string{{"pids.max", number(l.pids)}}},
		{"memory", l.memory != 0 || l.swap != 0, l.memoryV1()},
		{"cpu", l.shares != 0 || l.quota != 0 || l.period != 0, l.cpuV1()},
		{"cpuset", l.cpus != "" || l.mems != "", nil},
	}
	for _, n := range needs {
		if !n.wanted {
			continue
		}
		mount, ok := g.tree.v1[n.controller]
		if !ok {
			return fmt.Errorf("limit %s: the host has no such controller", n.controller)
		}
		dir, err := g.makeDir(n.controller, mount, path)
		if err != nil {
			return err
		}
		if n.controller == "cpuset" {
			if err := l.writeCpuset(mount, dir); err != nil {
				return err
			}
		}
		for _, f := range n.files {
			if err := write(dir, f[0], f[1]); err != nil {
				return err
			}
		}
	}
	if g.guarded = l.devices.open(); g.guarded {
		return nil
	}
	mount, ok := g.tree.v1["devices"]
	if !ok {
		return nil // the caller asks GuardsDevices
	}
	dir, err := g.makeDir("devices", mount, path)
	if err != nil {
		return err
	}
	g.guarded = true
	return l.devices.writeV1(dir)
}

func (l limits) memoryV1() [][2]string {
	var out [][2]string
	if l.memory != 0 {
		out = append(out, [2]string{"memory.limit_in_bytes", strconv.FormatInt(l.memory, 10)})
	}
	if l.swap != 0 {
		out = append(out, [2]string{"memory.memsw.limit_in_bytes", strconv.FormatInt(l.swap, 10)})
	}
	return out
}

func (l limits) cpuV1() [][2]string {
	var out [][2]string
	if l.shares != 0 {
		out = append(out, [2]string{"cpu.shares", strconv.FormatUint(l.shares, 10)})
	}
	if l.period != 0 {
		out = append(out, [2]string{"cpu.cfs_period_us", strconv.FormatUint(l.period, 10)})
	}
	if l.quota != 0 {
		out = append(out, [2]string{"cpu.cfs_quota_us", strconv.FormatInt(l.quota, 10)})
	}
	return out
}

// writeCpuset fills the groups from the mount down to dir, which have neither
// CPUs nor memory to begin with: those above dir get their parent's.
func (l limits) writeCpuset(mount, dir string) error {
	rel, err := filepath.Rel(mount, dir)
	if err != nil {
		return fmt.Errorf("set cpuset: %w", err)
	}
	at := mount
	for _, name := range strings.Split(rel, "/") {
		parent := at
		at = filepath.Join(at, name)
		for file, want := range map[string]string{"cpuset.cpus": l.cpus, "cpuset.mems": l.mems} {
			have, err := os.ReadFile(filepath.Join(at, file))
			if err != nil {
				return fmt.Errorf("read cpuset: %w", err)
			}
			if at != dir && strings.TrimSpace(string(have)) != "" {
				continue
			}
			if at != dir || want == "" {
				above, err := os.ReadFile(filepath.Join(parent, file))
				if err != nil {
					return fmt.Errorf("read cpuset: %w", err)
				}
				want = strings.TrimSpace(string(above))
			}
			if err := write(at, file, want); err != nil {
				return err
			}
		}
	}
	return nil
}

// OOMKilled is Group.OOMKilled of a group that another program made.
func (t *Tree) OOMKilled(path string) bool {
	g := &Group{tree: t}
	if t.unified != "" {
		g.dirs = []dir{{"", filepath.Join(t.unified, path)}}
	} else if mount, ok := t.v1["memory"]; ok {
		g.dirs = []dir{{"memory", filepath.Join(mount, path)}}
	}
	return g.OOMKilled()
}

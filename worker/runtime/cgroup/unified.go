package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// createUnified makes the group of version 2.
func (g *Group) createUnified(path string, l limits) error {
	files, needs := l.filesV2()
	if err := g.tree.enable(path, needs); err != nil {
		return err
	}
	dir, err := g.makeDir("", g.tree.unified, path)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.ContainsRune(f[0], '/') {
			return fmt.Errorf("control group file %q: want a name", f[0])
		}
		if err := write(dir, f[0], f[1]); err != nil {
			return err
		}
	}
	g.guarded = true
	if l.devices.open() {
		return nil
	}
	return l.devices.attachV2(dir)
}

// filesV2 are the files to write, and the controllers that have them.
func (l limits) filesV2() (files [][2]string, needs []string) {
	set := func(file, text string) {
		files = append(files, [2]string{file, text})
		if c, _, _ := strings.Cut(file, "."); !slices.Contains(needs, c) && c != "cgroup" {
			needs = append(needs, c)
		}
	}
	if l.pids != 0 {
		set("pids.max", number(l.pids))
	}
	if l.memory != 0 {
		set("memory.max", number(l.memory))
	}
	if l.swap != 0 {
		swap := l.swap
		if swap > 0 {
			swap -= max(l.memory, 0)
		}
		text := number(swap)
		if swap == 0 {
			text = "0"
		}
		set("memory.swap.max", text)
	}
	if l.shares != 0 {
		// From 2..262144 to 1..10000, as runtimes agreed upon.
		set("cpu.weight", strconv.FormatUint(1+((min(max(l.shares, 2), 262144)-2)*9999)/262142, 10))
	}
	if l.quota != 0 || l.period != 0 {
		text := number(l.quota)
		if l.period != 0 {
			text += " " + strconv.FormatUint(l.period, 10)
		}
		set("cpu.max", text)
	}
	if l.cpus != "" {
		set("cpuset.cpus", l.cpus)
	}
	if l.mems != "" {
		set("cpuset.mems", l.mems)
	}
	for _, name := range slices.Sorted(maps.Keys(l.unified)) {
		set(name, l.unified[name])
	}
	return files, needs
}

// enable has the groups above path hand controllers down to it.
func (t *Tree) enable(path string, needs []string) error {
	parent, err := join(t.unified, filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("control group %q: want a parent of its own: %w", path, err)
	}
	key := parent + " " + strings.Join(needs, " ")
	t.mu.Lock()
	done := t.enabled[key]
	t.mu.Unlock()
	if _, err := os.Stat(parent); (done && err == nil) || len(needs) == 0 {
		return nil
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make control group: %w", err)
	}
	rel, err := filepath.Rel(t.unified, parent)
	if err != nil {
		return fmt.Errorf("make control group: %w", err)
	}
	dir := t.unified
	for _, name := range append([]string{"."}, strings.Split(rel, "/")...) {
		dir = filepath.Join(dir, name)
		if err := t.delegate(dir, needs); err != nil {
			return err
		}
	}
	t.mu.Lock()
	t.enabled[key] = true
	t.mu.Unlock()
	return nil
}

// delegate has the children of dir get controllers. A group with processes in it
// cannot (the "no internal processes" rule); in the root of a container's own
// hierarchy, where the daemon itself is, they are moved aside first, as Docker
// in Docker does.
func (t *Tree) delegate(dir string, needs []string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return fmt.Errorf("read control group: %w", err)
	}
	for _, c := range needs {
		if slices.Contains(strings.Fields(string(have)), c) {
			continue
		}
		err := write(dir, "cgroup.subtree_control", "+"+c)
		if errors.Is(err, unix.EBUSY) && dir == t.unified {
			if err = moveAside(dir); err == nil {
				err = write(dir, "cgroup.subtree_control", "+"+c)
			}
		}
		if err != nil {
			return fmt.Errorf("hand controller %s down in %s: %w", c, dir, err)
		}
	}
	return nil
}

// moveAside moves the processes of a group to a child of it.
func moveAside(dir string) error {
	child := filepath.Join(dir, "init")
	if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(text)) {
		if err := write(child, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory sums what the daemon and its children of the same program, which live
// as long as it does, hold in memory now and have held at most. Containers and
// what starts them are left out.
func (d *daemon) memory() (memory, error) {
	pids, err := tree(d.cmd.Process.Pid)
	if err != nil {
		return memory{}, err
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", d.cmd.Process.Pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for _, pid := range pids {
		if other, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || other != exe {
			continue // a container, or it has ended
		}
		s, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		m.now += kilobytes(string(s), "VmRSS:")
		m.peak += kilobytes(string(s), "VmHWM:")
	}
	return m, nil
}

func kilobytes(status, field string) int64 {
	_, rest, _ := strings.Cut(status, field)
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(f[0], 10, 64)
	return n << 10
}

// tree returns a process and all below it.
func tree(pid int) ([]int, error) {
	out := []int{pid}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		for _, f := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				return nil, err
			}
			below, err := tree(child)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
		}
	}
	return out, nil
}

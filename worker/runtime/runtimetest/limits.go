package runtimetest

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (s *suite) forkBomb(t *testing.T) {
	var got struct {
		Started int
		Error   string
	}
	decode(t, s.run(t, func(c *container) {
		c.Args, c.PidsLimit = []string{"/bin/probe", "bomb"}, 100
	}).ok(t), &got)
	if got.Started == 0 || got.Started >= 100 || !strings.Contains(got.Error, "resource temporarily unavailable") {
		t.Errorf("started %d processes (%s), want some and less than 100", got.Started, got.Error)
	}
	// Without a limit asked for there is one all the same.
	if out := s.sh(t, "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max").ok(t); out != "16384" {
		t.Errorf("default limit %s", out)
	}
}

func (s *suite) memoryHog(t *testing.T) {
	limit := int64(96 << 20)
	memory := func(c *container) {
		c.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	}
	r := s.run(t, memory, func(c *container) { c.Args = []string{"/bin/probe", "hog", "400"} })
	if e := r.code(t, 137); e.OOM == s.lacks(OOM) || e.Signal != syscall.SIGKILL {
		t.Errorf("OOM %v, signal %v", e.OOM, e.Signal)
	}
	s.run(t, memory, func(c *container) { c.Args = []string{"/bin/probe", "hog", "20"} }).ok(t)
	// A process below the first.
	if e := s.sh(t, "probe hog 400; exit 3", memory).code(t, 3); e.OOM == s.lacks(OOM) {
		t.Error("the kill of a process below the first is not told")
	}
	shares, quota, period := uint64(512), int64(50000), uint64(100000)
	s.sh(t, "true", func(c *container) {
		c.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Cpus: "0"}}
	}).ok(t)
	out := s.sh(t, "grep Cpus_allowed_list /proc/self/status", func(c *container) {
		c.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}
	}).ok(t)
	if !strings.HasSuffix(out, "\t0") {
		t.Errorf("cpus: %s", out)
	}
}

// withMarker returns the host's processes with marker as an argument.
func withMarker(marker string) []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b)+"\x00", "\x00"+marker+"\x00") {
			out = append(out, f+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// nothingLeft looks for what the containers of the whole suite may have left.
func (s *suite) nothingLeft(t *testing.T) {
	f, err := os.Open("/proc/self/mountinfo")
	must(t, err)
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if strings.Contains(sc.Text(), filepath.Dir(s.root)) {
			t.Errorf("mount is left: %s", sc.Text())
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent + "/*")
	more, _ := filepath.Glob("/sys/fs/cgroup" + cgroupParent + "/*")
	for _, g := range append(groups, more...) {
		var st unix.Statfs_t
		if dir, err := os.Stat(g); err == nil && dir.IsDir() && unix.Statfs(g, &st) == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC) {
			t.Errorf("control group is left: %s", g)
		}
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent)
	for _, p := range append(parents, "/sys/fs/cgroup"+cgroupParent) {
		_ = os.Remove(p) // the suite's own
	}
	// Every process of a container has its probe from this suite's root; others
	// may run the suite at the same time.
	probe, err := os.Stat(filepath.Join(s.root, "bin/probe"))
	must(t, err)
	links, _ := filepath.Glob("/proc/[0-9]*/root")
	for _, l := range links {
		pid := strings.Split(l, "/")[2]
		n, _ := strconv.Atoi(pid)
		if st, err := os.Stat(filepath.Join(l, "bin/probe")); err == nil && os.SameFile(st, probe) && n != os.Getpid() {
			t.Errorf("process %s of a container is left", pid)
		}
	}
}

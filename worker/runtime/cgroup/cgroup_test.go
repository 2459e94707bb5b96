package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const v1 = `24 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw master:2 shared:3 - cgroup cgroup rw,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
35 30 0:30 / /elsewhere/pids rw - cgroup cgroup rw,pids
`
	tree, err := Parse(strings.NewReader(v1))
	if err != nil {
		t.Fatal(err)
	}
	if tree.unified != "" || tree.v1["cpu"] != "/sys/fs/cgroup/cpu,cpuacct" || tree.v1["pids"] != "/sys/fs/cgroup/pids" || len(tree.v1) != 3 {
		t.Errorf("version 1: %+v", tree)
	}
	tree, err = Parse(strings.NewReader("31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"))
	if err != nil || tree.unified != "/sys/fs/cgroup" {
		t.Errorf("version 2: %+v, %v", tree, err)
	}
	if _, err = Parse(strings.NewReader("24 1 254:0 / / rw - ext4 /dev/vda rw\n")); !errors.Is(err, ErrNone) {
		t.Errorf("none: %v", err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestFilesOfVersion2(t *testing.T) {
	l, err := readLimits(&specs.LinuxResources{
		Pids:    &specs.LinuxPids{Limit: ptr(int64(10))},
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(1500))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(-1)), Period: ptr(uint64(5000)), Cpus: "0-1"},
		Unified: map[string]string{"memory.high": "900", "cpu.idle": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	files, needs := l.filesV2()
	want := [][2]string{
		{"pids.max", "10"}, {"memory.max", "1000"}, {"memory.swap.max", "500"}, {"cpu.weight", "39"},
		{"cpu.max", "max 5000"}, {"cpuset.cpus", "0-1"}, {"cpu.idle", "1"}, {"memory.high", "900"},
	}
	if !slices.Equal(files, want) {
		t.Errorf("files %v, want %v", files, want)
	}
	if want := []string{"pids", "memory", "cpu", "cpuset"}; !slices.Equal(needs, want) {
		t.Errorf("controllers %v, want %v", needs, want)
	}
	for shares, weight := range map[uint64]string{2: "1", 262144: "10000", 1: "1", 1 << 40: "10000"} {
		if files, _ := (limits{shares: shares}).filesV2(); files[0][1] != weight {
			t.Errorf("shares %d: weight %s, want %s", shares, files[0][1], weight)
		}
	}
	if files, _ := (limits{memory: 5, swap: -1}).filesV2(); files[1][1] != "max" {
		t.Errorf("unlimited swap: %v", files)
	}
	if files, _ := (limits{memory: 5, swap: 5}).filesV2(); files[1][1] != "0" {
		t.Errorf("no swap: %v", files)
	}
}

func TestBadLimits(t *testing.T) {
	for name, r := range map[string]*specs.LinuxResources{
		"swap below memory": {Memory: &specs.LinuxMemory{Limit: ptr(int64(10)), Swap: ptr(int64(5))}},
		"block devices":     {BlockIO: &specs.LinuxBlockIO{}},
		"device access":     {Devices: []specs.LinuxDeviceCgroup{{Type: "c", Access: "x"}}},
		"device type":       {Devices: []specs.LinuxDeviceCgroup{{Type: "x", Access: "r"}}},
	} {
		if _, err := readLimits(r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, path := range []string{"", "/", "x", "/a/../b", "/a//b"} {
		if _, err := join("/sys/fs/cgroup", path); err == nil {
			t.Errorf("path %q: no error", path)
		}
	}
}

func TestPolicy(t *testing.T) {
	rule := func(allow bool, kind, access string, numbers ...int64) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
		if len(numbers) == 2 {
			r.Major, r.Minor = &numbers[0], &numbers[1]
		}
		return r
	}
	denyAll := rule(false, "", "rwm")
	for name, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		open  bool
		has   string // an exception
		lacks string
	}{
		"default":          {rules: []specs.LinuxDeviceCgroup{denyAll}, has: "c 1:3 rwm", lacks: "c 1:11 rwm"},
		"nothing said":     {has: "c 1:3 rwm"},
		"one more":         {rules: []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", "rw", 10, 229)}, has: "c 10:229 rw"},
		"taken back":       {rules: []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", "rwm", 10, 229), rule(false, "c", "w", 10, 229)}, has: "c 10:229 rm"},
		"added to":         {rules: []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", "r", 10, 229), rule(true, "c", "w", 10, 229)}, has: "c 10:229 rw"},
		"insecure":         {rules: []specs.LinuxDeviceCgroup{rule(true, "c", "rwm"), rule(true, "b", "rwm")}, open: true},
		"all":              {rules: []specs.LinuxDeviceCgroup{rule(true, "a", "rwm")}, open: true},
		"all but one":      {rules: []specs.LinuxDeviceCgroup{rule(true, "a", "rwm"), rule(false, "b", "w", 8, 0)}, has: "b 8:0 w"},
		"all, then denied": {rules: []specs.LinuxDeviceCgroup{rule(true, "a", "rwm"), denyAll}, has: "c 1:3 rwm"},
	} {
		p, err := readPolicy(c.rules)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var have []string
		for _, d := range p.exceptions {
			have = append(have, d.String())
		}
		if p.open() != c.open || c.has != "" && !slices.Contains(have, c.has) || c.lacks != "" && slices.Contains(have, c.lacks) {
			t.Errorf("%s: open %v, exceptions %v", name, p.open(), have)
		}
	}
}

// eval is the kernel's machine, as far as device programs need it.
func eval(t *testing.T, code []insn, access, kind, major, minor uint32) bool {
	t.Helper()
	var r [10]uint32
	ctx := map[int16]uint32{0: access<<16 | kind, 4: major, 8: minor}
	for pc := 0; pc < len(code); pc++ {
		in := code[pc]
		dst, src := in.regs&15, in.regs>>4
		switch in.code {
		case ldxW:
			r[dst] = ctx[in.off]
		case movX:
			r[dst] = r[src]
		case mov64K:
			r[dst] = uint32(in.imm)
		case andK:
			r[dst] &= uint32(in.imm)
		case rshK:
			r[dst] >>= uint32(in.imm)
		case jneK:
			if r[dst] != uint32(in.imm) {
				pc += int(in.off)
			}
		case 0x10 | unix.BPF_JMP | unix.BPF_K:
			if r[dst] == uint32(in.imm) {
				pc += int(in.off)
			}
		case exit:
			return r[0] == 1
		default:
			t.Fatalf("instruction %#x", in.code)
		}
	}
	t.Fatal("ran off the end")
	return false
}

func TestDeviceProgram(t *testing.T) {
	const mknod, read, write, block, char = 1, 2, 4, 1, 2
	p, err := readPolicy([]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "b", Major: ptr(int64(8)), Access: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	open, err := readPolicy([]specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}, {Type: "b", Major: ptr(int64(8)), Minor: ptr(int64(1)), Access: "w"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p                          policy
		access, kind, major, minor uint32
		want                       bool
	}{
		{p, read | write, char, 1, 3, true},
		{p, read, char, 1, 11, false},
		{p, mknod, char, 1, 11, true},
		{p, mknod | read, char, 1, 11, false},
		{p, read, char, 136, 77, true},
		{p, read, block, 8, 5, true},
		{p, write, block, 8, 5, false},
		{p, read | write, block, 8, 5, false},
		{p, read, char, 8, 5, false},
		{p, mknod, block, 99, 99, true},
		{open, read, block, 8, 1, true},
		{open, write, block, 8, 1, false},
		{open, read | write, block, 8, 1, false},
		{open, write, block, 8, 2, true},
		{open, write, char, 8, 1, true},
	} {
		if got := eval(t, c.p.compile(), c.access, c.kind, c.major, c.minor); got != c.want {
			t.Errorf("access %d, kind %d, %d:%d: %v, want %v", c.access, c.kind, c.major, c.minor, got, c.want)
		}
	}
}

func TestProgramLoads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	p, err := readPolicy([]specs.LinuxDeviceCgroup{{Access: "rwm"}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := load(p.compile())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := load(p.compile()); err != nil || a != b {
		t.Errorf("loaded again: %v, %v", b, err)
	}
}

// TestRemoveAndCleanup on the host's own hierarchies.
func TestRemoveAndCleanup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	tree, err := Open()
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	parent := fmt.Sprintf("/buildd-cgroup-test-%d", os.Getpid())
	limits := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(10))}}
	g, err := tree.Create(parent+"/a", limits)
	if err != nil {
		t.Fatal(err)
	}
	dir := g.dirs[0].path
	if err := os.Mkdir(filepath.Join(dir, "nested"), 0o755); err != nil {
		t.Fatal(err)
	}
	// One of a killed daemon is replaced.
	if g, err = tree.Create(parent+"/a", limits); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := tree.Create(parent+"/b", limits); err != nil {
		t.Fatal(err)
	}
	if err := tree.Cleanup(parent); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
		t.Errorf("after Cleanup: %v", err)
	}
	if err := tree.Cleanup(parent); err != nil {
		t.Errorf("nothing to clean up: %v", err)
	}
	for _, m := range tree.mounts { // as runc does
		if err := os.MkdirAll(filepath.Join(m, parent, "d/e"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Cleanup(parent); err != nil {
		t.Error(err)
	}
	for _, m := range tree.mounts {
		if _, err := os.Stat(filepath.Join(m, parent)); !os.IsNotExist(err) {
			t.Errorf("after Cleanup: %v", err)
		}
	}
	if tree.unified == "" {
		if _, err := tree.Create(parent+"/c", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "9999"}}); err == nil {
			t.Error("a CPU that there is not: no error")
		}
		if err := tree.Cleanup(parent); err != nil {
			t.Error(err)
		}
	}
}

package runtimetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
}

func (s *suite) namespaces(t *testing.T) {
	names := []string{"pid", "mnt", "ipc", "uts", "net", "cgroup"}
	out := s.sh(t, "for n in "+strings.Join(names, " ")+"; do readlink /proc/self/ns/$n; done").ok(t)
	for i, got := range strings.Fields(out) {
		host, err := os.Readlink("/proc/self/ns/" + names[i])
		must(t, err)
		if got == host {
			t.Errorf("%s namespace is the host's", names[i])
		}
	}
	for line := range strings.Lines(s.sh(t, "cat /proc/self/cgroup").ok(t)) {
		if !strings.HasSuffix(strings.TrimSpace(line), ":/") {
			t.Errorf("control group %s is not the root of what the container sees", line)
		}
	}
	if out := s.sh(t, "echo $$; ls -d /proc/[0-9]* | wc -l").ok(t); !strings.HasPrefix(out, "1\n") {
		t.Errorf("shell is process %s, want 1", out)
	}
}

func (s *suite) nothingOfTheHost(t *testing.T) {
	// A mount and a file of the host that must not be seen, and a variable.
	dir := t.TempDir()
	must(t, unix.Mount("secret", dir, "tmpfs", 0, "size=64k"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	t.Setenv("BUILDD_SECRET", "secret")
	out := s.sh(t, "cat /proc/self/mountinfo /proc/1/mountinfo; ps; env; ls -R / 2>/dev/null | head -c 0").ok(t)
	// The root is part of a file system of the host here, not mounted by itself as
	// those of builds are, so its place is told.
	out = strings.ReplaceAll(out, s.root, "")
	for _, secret := range []string{dir, "secret", "/tmp/", ".test"} {
		if strings.Contains(out, secret) {
			t.Errorf("the container sees %q of the host:\n%s", secret, out)
		}
	}
	places := map[string]bool{}
	for line := range strings.Lines(s.sh(t, "cat /proc/self/mountinfo").ok(t)) {
		places[strings.Fields(line)[4]] = true
	}
	for p := range places {
		if p != "/" && !strings.HasPrefix(p, "/proc") && !strings.HasPrefix(p, "/dev") && !strings.HasPrefix(p, "/sys") {
			t.Errorf("mount at %s", p)
		}
	}
	for _, want := range []string{"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"} {
		if !places[want] {
			t.Errorf("no mount at %s", want)
		}
	}
	if n := s.sh(t, "ls -d /proc/[0-9]* | cat").ok(t); strings.Count(n, "/proc/") > 4 {
		t.Errorf("processes: %s", n)
	}
	// Nor can the root be left by the way of a second chroot.
	if out := s.sh(t, "ls -id / /..").ok(t); strings.Fields(out)[0] != strings.Fields(out)[2] {
		t.Errorf("/.. is not /: %s", out)
	}
}

func (s *suite) descriptors(t *testing.T) {
	// Files that the daemon forgot to mark.
	for range 5 {
		fd, err := unix.Open("/etc", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		defer unix.Close(fd)
	}
	var files map[int]string
	decode(t, s.run(t, func(c *container) { c.Args = []string{"/bin/probe", "files"} }).ok(t), &files)
	if len(files) != 3 || !strings.HasPrefix(files[1], "pipe:") || !strings.HasPrefix(files[2], "pipe:") {
		t.Errorf("descriptors: %v", files)
	}
}

func (s *suite) devices(t *testing.T) {
	nodes := strings.Fields(s.sh(t, "cd /dev; for f in *; do test -L $f || { test -c $f && echo $f; }; done; true").ok(t))
	want := []string{"full", "null", "random", "tty", "urandom", "zero"}
	if !slices.Equal(nodes, want) {
		t.Errorf("devices %v, want %v", nodes, want)
	}
	if out := s.sh(t, "echo x >/dev/null && head -c 5 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c; echo x 2>&1 >/dev/full; ls /dev/ptmx /dev/pts/ptmx >/dev/null").ok(t); !strings.HasPrefix(out, "5\n3") {
		t.Errorf("use of devices: %q", out)
	}
	// A node can be made, as with Docker, but what it leads to is out of reach.
	var st unix.Stat_t
	for _, disk := range []string{"/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0"} {
		if unix.Stat(disk, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			break
		}
	}
	dev := fmt.Sprintf("b %d %d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	r := s.sh(t, "mknod /tmp/disk "+dev+" && dd if=/tmp/disk of=/dev/null bs=512 count=1; x=$?; rm /tmp/disk; exit $x")
	if r.err == nil || !strings.Contains(r.stderr, "Operation not permitted") {
		t.Errorf("disk %s of the host: %v %q", dev, r.err, r.stderr)
	}
	r = s.sh(t, "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg; x=$?; rm /tmp/kmsg; exit $x")
	if r.err == nil || !strings.Contains(r.stderr, "Operation not permitted") {
		t.Errorf("kernel log of the host: %v %q", r.err, r.stderr)
	}
}

// status returns fields of /proc/self/status.
func (s *suite) status(t *testing.T, change ...func(*container)) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for line := range strings.Lines(s.sh(t, "cat /proc/self/status", change...).ok(t)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		out[name] = strings.TrimSpace(value)
	}
	return out
}

// dockerCaps is what /proc/self/status shows in a container of Docker's.
const dockerCaps = "00000000a80425fb"

const noCaps = "0000000000000000"

func (s *suite) capabilities(t *testing.T) {
	check := func(got map[string]string, want map[string]string) {
		t.Helper()
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s is %s, want %s", k, got[k], v)
			}
		}
	}
	check(s.status(t), map[string]string{
		"CapInh": noCaps, "CapPrm": dockerCaps, "CapEff": dockerCaps, "CapBnd": dockerCaps, "CapAmb": noCaps,
		"NoNewPrivs": "0", "Seccomp": "2", "SigBlk": noCaps, "Groups": "",
	})
	check(s.status(t, func(c *container) { c.UID, c.GID = 1000, 1000 }), map[string]string{
		"CapInh": noCaps, "CapPrm": noCaps, "CapEff": noCaps, "CapBnd": dockerCaps, "CapAmb": noCaps, "Seccomp": "2",
	})
	check(s.status(t, func(c *container) { c.NoNewPrivileges = true }), map[string]string{
		"CapPrm": dockerCaps, "CapBnd": dockerCaps, "NoNewPrivs": "1", "Seccomp": "2",
	})
	check(s.status(t, func(c *container) {
		c.UID, c.GID, c.NoNewPrivileges = 1000, 1000, true
		one := []string{"CAP_CHOWN"}
		c.change = func(b *sandbox) {
			b.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Effective: one, Permitted: one, Inheritable: one, Ambient: one}
		}
	}), map[string]string{
		"CapInh": "0000000000000001", "CapPrm": "0000000000000001", "CapEff": "0000000000000001", "CapBnd": "0000000000000001", "CapAmb": "0000000000000001",
	})
}

func (s *suite) seccomp(t *testing.T) {
	var got map[string]syscall.Errno
	decode(t, s.run(t, func(c *container) { c.Args = []string{"/bin/probe", "calls"} }).ok(t), &got)
	for _, name := range []string{
		"mount", "umount2", "fsopen", "open_tree", "move_mount", "pivot_root", "unshare user", "unshare mount", "setns", "clone user",
		"add_key", "keyctl", "bpf", "perf_event_open", "clock_settime", "settimeofday", "init_module", "finit_module", "kexec_load",
		"reboot", "swapon", "acct", "syslog", "quotactl", "open_by_handle_at", "userfaultfd", "io_uring_setup", "personality", "socket vsock", "socket alg",
	} {
		if e, ok := got[name]; !ok || e != unix.EPERM {
			t.Errorf("%s: %v, want %v", name, e, unix.EPERM)
		}
	}
	for name, want := range map[string]syscall.Errno{
		"getpid": 0, "chroot": 0, "socket inet": 0, "socket raw": 0, "personality linux": 0, "personality query": 0, "sched_yield": 0,
		"clone3":  unix.ENOSYS, // so that libraries use clone, whose flags can be looked at
		"unknown": unix.ENOSYS,
		"ptrace":  unix.ESRCH, // allowed, of a process that there is not
	} {
		if got[name] != want && !(name == "unknown" && s.lacks(NewCalls)) {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
}

func (s *suite) maskedPaths(t *testing.T) {
	out := s.sh(t, `
for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/latency_stats; do test -e $f && test $(head -c 10 $f | wc -c) != 0 && echo "read $f"; done
for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap; do test -d $d && test "$(ls -A $d)" != "" && echo "list $d"; done
for f in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/uevent_helper; do (echo x >$f) 2>/dev/null && echo "write $f"; done
for d in /sys /sys/fs/cgroup/* /proc/sys /proc/fs; do mkdir $d/x 2>/dev/null && echo "make $d/x"; done
true`).ok(t)
	if out != "" {
		t.Errorf("not masked:\n%s", out)
	}
}

func (s *suite) insecure(t *testing.T) {
	insecure := func(c *container) { c.Insecure = true }
	st := s.status(t, insecure)
	own := hostStatus(t)
	if st["CapEff"] != own["CapPrm"] || st["CapBnd"] != own["CapPrm"] || st["Seccomp"] != "0" {
		t.Errorf("capabilities %s, bounding %s, seccomp %s; the daemon has %s", st["CapEff"], st["CapBnd"], st["Seccomp"], own["CapPrm"])
	}
	s.sh(t, `mkdir -p /tmp/m && mount -t tmpfs x /tmp/m && touch /tmp/m/f && test -c /dev/kmsg && test -c /dev/fuse && test -b /dev/loop0 && dd if=/dev/kmsg of=/dev/null bs=8192 count=1 2>/dev/null`, insecure).ok(t)
	if st := s.status(t, insecure, func(c *container) { c.UID, c.GID = 1000, 1000 }); st["CapEff"] != own["CapPrm"] {
		t.Errorf("as a user: capabilities %s, want %s", st["CapEff"], own["CapPrm"])
	}
}

func hostStatus(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	must(t, err)
	out := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		out[name] = strings.TrimSpace(value)
	}
	return out
}

func (s *suite) mounts(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "file"), []byte("of the host"), 0o644))
	must(t, os.Mkdir(filepath.Join(src, "below"), 0o755))
	must(t, unix.Mount("below", filepath.Join(src, "below"), "tmpfs", 0, "size=64k"))
	defer unix.Unmount(filepath.Join(src, "below"), unix.MNT_DETACH)
	bind := func(from, to string, options ...string) specs.Mount {
		return specs.Mount{Destination: to, Type: "bind", Source: from, Options: options}
	}
	out := s.sh(t, `cat /mnt/dir/file /mnt/one; echo
(echo x >/mnt/dir/new) 2>/dev/null && echo "wrote read-only"
echo x >/mnt/rw/new || echo "cannot write"
(echo x >/mnt/rec/below/new) 2>/dev/null || echo "cannot write below"
test -e /mnt/rw/below/new && echo "bind without rbind shows what is mounted below"
(/mnt/noexec/true) 2>/dev/null && echo "ran noexec"
stat -f -c %T /scratch
exit 0`, func(c *container) {
		c.Mounts = []specs.Mount{
			bind(src, "/mnt/dir", "bind", "ro"),
			bind(filepath.Join(src, "file"), "/mnt/one", "bind", "ro"),
			bind(src, "/mnt/rw", "bind"),
			bind(src, "/mnt/rec", "rbind"),
			bind(filepath.Join(s.root, "bin"), "/mnt/noexec", "bind", "noexec"),
			{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "mode=700"}},
		}
	}).ok(t)
	if want := "of the hostof the host\ntmpfs"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if _, err := os.Stat(filepath.Join(src, "new")); err != nil {
		t.Errorf("what was written to a bind is not on the host: %v", err)
	}
	if _, err := os.Stat(filepath.Join(src, "below/new")); err != nil {
		t.Errorf("what was written to a recursive bind is not on the host: %v", err)
	}
}

func (s *suite) readonlyRoot(t *testing.T) {
	out := s.sh(t, "(echo x >/file) 2>/dev/null && echo wrote; echo x >/dev/shm/f && echo shm", func(c *container) { c.ReadonlyRoot = true }).ok(t)
	if out != "shm" {
		t.Errorf("got %q", out)
	}
}

func (s *suite) network(t *testing.T) {
	out := s.sh(t, "ls /sys/class/net; ip -4 addr show lo | grep -c 127.0.0.1; ip route | wc -l").ok(t)
	fields := strings.Fields(out)
	if !slices.Contains(fields, "lo") || slices.Contains(fields, "eth0") || !strings.HasSuffix(out, "\n1\n0") {
		t.Errorf("network %q, want lo alone", out)
	}
	s.sh(t, "(echo hello | nc -l -p 4444 >/dev/null) & sleep 0.2; nc 127.0.0.1 4444 </dev/null >/dev/null").ok(t)
	host, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	if out := s.sh(t, "readlink /proc/self/ns/net", func(c *container) { c.HostNetwork = true }).ok(t); out != host {
		t.Errorf("host network: %s, want %s", out, host)
	}
}

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestIsolation looks out of containers, on each runtime. What runtimetest knows
// of the runtimes alone is not repeated: this is about the daemon's use of them.
func TestIsolation(t *testing.T) {
	for name, args := range runtimes {
		t.Run(name, func(t *testing.T) {
			c := newCanary(t)
			t.Setenv("BUILDD_E2E_CANARY", "sings")
			d := startDaemon(t, args...)
			d.busybox()
			t.Run("namespaces", d.testNamespaces)
			t.Run("processes", d.testProcesses)
			t.Run("mounts", func(t *testing.T) { d.with(t).testMounts(c.dir) })
			t.Run("environment", d.testEnvironment)
			t.Run("privileges", d.testPrivileges)
			t.Run("devices", d.testDevices)
			t.Run("network", d.testNetwork)
			t.Run("memory hog", d.testMemoryHog)
			t.Run("process limit", d.testProcessLimit)
			if name == "native" { // it takes its time
				t.Run("fork bomb", d.testForkBomb)
			}
			d.alive()
		})
	}
}

// probe runs shell commands, a line each, in one RUN and returns the output.
func (d *daemon) probe(script string, options ...string) string {
	d.t.Helper()
	out := d.t.TempDir()
	dir := buildContext(d.t, map[string]string{"Dockerfile": fmt.Sprintf(
		"FROM busybox:latest AS probe\nRUN %s sh <<'END' > /out 2>&1\n%s\nEND\nFROM scratch\nCOPY --from=probe /out /out\n", strings.Join(options, " "), script)})
	d.ctl("build", "--progress=plain", "--no-cache", "-o", out, dir)
	b, err := os.ReadFile(filepath.Join(out, "out"))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

func (d *daemon) testNamespaces(t *testing.T) {
	out := d.with(t).probe("for n in cgroup ipc mnt net pid uts; do echo $n $(readlink /proc/self/ns/$n); done")
	for l := range strings.Lines(out) {
		name, ns, _ := strings.Cut(strings.TrimSpace(l), " ")
		host, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil || ns == host || !strings.HasPrefix(ns, name+":[") {
			t.Errorf("%s namespace is %q, the host's %q: %v", name, ns, host, err)
		}
	}
	if n := strings.Count(out, "\n"); n != 6 {
		t.Errorf("%d namespaces:\n%s", n, out)
	}
}

func (d *daemon) testProcesses(t *testing.T) {
	out := d.with(t).probe("ps -o pid,args\nfor f in /proc/1/fd/*; do echo fd $(readlink $f); done\ncat /proc/1/cgroup\nhostname")
	if strings.Contains(out, "buildd ") || strings.Contains(out, "buildd-init") || strings.Count(out, "\n") > 30 {
		t.Errorf("processes of others are seen:\n%s", out)
	}
	for l := range strings.Lines(out) {
		to, ok := strings.CutPrefix(strings.TrimSpace(l), "fd ")
		if ok && !strings.HasPrefix(to, "pipe:") && !slices.Contains([]string{"/dev/null", "/out", "/"}, to) {
			t.Errorf("a descriptor is inherited: %s", to)
		}
	}
	if strings.Contains(out, ":/buildd") {
		t.Errorf("the host's control groups are seen:\n%s", out)
	}
	if !strings.HasSuffix(out, "\nbuildkitsandbox\n") {
		t.Errorf("host name:\n%s", out)
	}
}

func (d *daemon) testMounts(canary string) {
	t := d.t
	d = d.with(t)
	out := d.probe("cut -d' ' -f5 /proc/self/mountinfo\necho --\nls -A /\necho --\nls -d " + canary + " /proc/1/root" + canary + " /proc/1/cwd/.." + canary + " /home/* /var/lib/*\necho --\n" +
		"for f in /proc/sys/kernel/hostname /sys/kernel/mm/ksm/run /proc/sysrq-trigger /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max; do [ -e $f ] && (echo 0 > $f) 2>/dev/null && echo wrote $f; done\n" +
		"mount -t tmpfs none /mnt; mount --bind / /tmp; umount /proc; head -c 10 /proc/kcore; ls /sys/firmware")
	parts := strings.Split(out, "--\n")
	if len(parts) != 4 {
		t.Fatal(out)
	}
	allowed := []string{"/", "/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hosts", "/tmp/.buildkit_qemu_emulator"}
	for l := range strings.Lines(parts[0]) {
		p := strings.TrimSpace(l)
		if !slices.Contains(allowed, p) && !strings.HasPrefix(p, "/dev/") && !strings.HasPrefix(p, "/proc/") && !strings.HasPrefix(p, "/sys/") && !strings.HasPrefix(p, "/dev/pipes") {
			t.Errorf("mount of the host's at %s", p)
		}
	}
	root := strings.Fields(parts[1])
	for _, want := range root {
		if !slices.Contains([]string{"bin", "dev", "etc", "home", "mnt", "out", "proc", "root", "run", "sys", "tmp", "usr", "var"}, want) {
			t.Errorf("/%s is not of the image", want)
		}
	}
	for l := range strings.Lines(parts[2]) {
		if !strings.Contains(l, "No such file") {
			t.Errorf("the host's file system is seen: %s", l)
		}
	}
	if strings.Contains(parts[3], "wrote") {
		t.Errorf("files of the kernel are written to:\n%s", parts[3])
	}
	if n := strings.Count(parts[3], "ermission denied") + strings.Count(parts[3], "not permitted"); n < 3 {
		t.Errorf("mounts are made:\n%s", parts[3])
	}
}

func (d *daemon) testEnvironment(t *testing.T) {
	out := d.with(t).probe("cat /proc/1/environ | tr '\\0' '\\n'")
	for l := range strings.Lines(out) {
		if name, _, _ := strings.Cut(l, "="); !slices.Contains([]string{"PATH", "HOME", "PWD", "SHLVL", "HOSTNAME"}, name) {
			t.Errorf("environment variable %s", l)
		}
	}
	if !strings.Contains(out, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n") {
		t.Errorf("PATH is not Docker's:\n%s", out)
	}
}

func (d *daemon) testPrivileges(t *testing.T) {
	d = d.with(t)
	const docker = "00000000a80425fb" // Docker's 14 capabilities
	out := d.probe("grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status")
	for _, want := range []string{"CapPrm:\t" + docker, "CapEff:\t" + docker, "CapBnd:\t" + docker, "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Seccomp:\t2"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("want %q of root:\n%s", want, out)
		}
	}
	out = d.probe("unshare -U true || echo no\nunshare -m true || echo no\nhostname x || echo no\nchroot / true && echo yes\nmknod /tmp/n c 1 3 && echo yes")
	if strings.Count(out, "no\n") != 3 || strings.Count(out, "yes\n") != 2 {
		t.Errorf("system calls:\n%s", out)
	}
	user := t.TempDir()
	d.ctl("build", "--no-cache", "-o", user, buildContext(t, map[string]string{
		"Dockerfile": "FROM busybox:latest AS probe\nUSER daemon\nRUN (id; grep ^Cap /proc/self/status; grep Groups /proc/self/status) > /tmp/out\nFROM scratch\nCOPY --from=probe /tmp/out /\n"}))
	b, err := os.ReadFile(filepath.Join(user, "out"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"uid=1(daemon) gid=1(daemon)", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t" + docker} {
		if !strings.Contains(string(b), want) {
			t.Errorf("want %q of another user:\n%s", want, b)
		}
	}
}

func (d *daemon) testDevices(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	out := d.with(t).probe(fmt.Sprintf("ls /dev\necho --\nmknod /tmp/disk b %d %d && head -c 1 /tmp/disk > /dev/null && echo read the disk\nmknod /tmp/mem c 1 1 && head -c 1 /tmp/mem >/dev/null && echo read memory\n"+
		"mknod /tmp/kmsg c 1 11 && (echo x > /tmp/kmsg) && echo wrote kmsg\nhead -c 1 /dev/zero > /dev/null && echo fine", unix.Major(st.Dev), unix.Minor(st.Dev)))
	names, rest, _ := strings.Cut(out, "--\n")
	for _, n := range strings.Fields(names) {
		if !slices.Contains([]string{"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}, n) {
			t.Errorf("/dev/%s is seen", n)
		}
	}
	if strings.Contains(rest, "read ") || strings.Contains(rest, "wrote ") || !strings.Contains(rest, "fine") {
		t.Errorf("devices can be used:\n%s", rest)
	}
}

func (d *daemon) testNetwork(t *testing.T) {
	d = d.with(t)
	for _, n := range strings.Fields(d.probe("ls /sys/class/net")) {
		if n != "lo" && n != "eth0" {
			t.Errorf("interface %s is seen", n)
		}
	}
	if out := d.probe("ls /sys/class/net", "--network=none"); out != "lo\n" {
		t.Errorf("interfaces without a network: %s", out)
	}
	if _, err := os.Stat(strings.TrimPrefix(d.Addr, "unix://")); err != nil {
		t.Fatal(err)
	}
	out := d.probe("cat /proc/net/unix")
	if strings.Contains(out, "buildd") || strings.Count(out, "\n") > 3 {
		t.Errorf("sockets of the host are seen:\n%s", out)
	}
}

func (d *daemon) testMemoryHog(t *testing.T) {
	d = d.with(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN head -c 512m /dev/zero | tail -c 512m > /dev/null\n"})
	d.fails([]string{"Dockerfile:2", "cannot allocate memory"}, "build", "--progress=plain", "--memory=64m", "--memory-swap=64m", dir)
	d.ctl("build", "--memory=1g", dir)
}

func (d *daemon) testProcessLimit(t *testing.T) {
	if out := d.with(t).probe("cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null || true"); out != "16384\n" {
		t.Errorf("the limit is %q", out)
	}
}

// testForkBomb lets a step fork as often as it can while another build goes on.
func (d *daemon) testForkBomb(t *testing.T) {
	d = d.with(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Each child waits for the end of a pipe that never comes.
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM busybox:latest
RUN mkfifo /p && exec 3<>/p; bomb() { n=0; while (read x <&3) & do n=$((n+1)); done; }; trap 'exec sleep 984' EXIT; bomb
`})
	done := make(chan run, 1)
	go func() { done <- d.try(ctx, "build", "--progress=plain", "--no-cache", dir) }()
	for end := time.Now().Add(2 * time.Minute); processes("sleep\x00984") == 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Error("nothing stops the bomb")
			break
		}
		select {
		case r := <-done:
			t.Fatalf("the bomb ended: %d\n%s", r.Exit, r.Err)
		default:
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	if n := len(procs); n < 10000 || n > 18000 {
		t.Errorf("%d processes: the step should have 16384", n)
	}
	d.alive()
	cancel()
	<-done
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if procs, _ = filepath.Glob("/proc/[0-9]*"); len(procs) < 5000 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d processes go on", len(procs))
		}
	}
}
